// include/kvcompress/eviction/scorers/filtered_keys.hpp - Q-Filters' score: how far a key points the way that queries do.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/core/loaded_numbers.hpp"
#include "kvcompress/eviction/decoded_rows.hpp"
#include "kvcompress/eviction/scored.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Minus the dot product of a key with the filter of its lane, a direction found once for a model from its queries. Needs no attention. Cost:
/// every decision decodes the keys of the lane, so let `period` be more than 1 for decoding.
///
/// Source: "Q-Filters: Leveraging QK Geometry for Efficient KV Cache Compression"; NVIDIA/kvpress@8bb29b9c3078:qfilter_press.py, which evicts at
/// the end of a prompt only; here every commit may.
struct FilteredKeys : ComputedRows {
  static constexpr std::string_view name = "filtered_keys";
  struct Options {
    LoadedNumbers filters{};  ///< (layers, KV heads, key width), as published for the model
    static void fields(auto&, auto&&) {}
    static void unnamed_fields(auto& options, auto&& field) { field("filters", options.filters); }
  };

  static void validate(const Options& options, const Shape& shape) {
    options.filters.check("filtered_keys: filters", shape.sum([](const Shape& layer) { return layer.kv_heads * layer.key_width(); }),
                          "layers * kv_heads * the key width");
  }

  static std::span<const float> score(const Options& options, const LaneView& lane, const RowTable& rows, const Moment& moment,
                                      std::span<float> out) {
    const Site& site = lane.site;
    const std::size_t width = site.shape.key_width();
    const std::size_t before = site.model.sum_before(site.layer, [](const Shape& one) { return one.kv_heads * one.key_width(); });
    const std::span<const float> filter = options.filters.some(before + site.kv_head * width, width);
    std::fill(out.begin(), out.end(), 0.0F);
    for_each_key(lane, rows, moment, [&](std::size_t row, const float* key) {
      double dot = 0.0;
      for (std::size_t c = 0; c < width; ++c) { dot += static_cast<double>(filter[c]) * static_cast<double>(key[c]); }
      out[row] = static_cast<float>(-dot);
    });
    return out;
  }
};

}  // namespace kvcompress
