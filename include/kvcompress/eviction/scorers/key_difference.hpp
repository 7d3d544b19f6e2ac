// include/kvcompress/eviction/scorers/key_difference.hpp - KeyDiff's score: how little a key resembles the others.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/core/math.hpp"
#include "kvcompress/eviction/decoded_rows.hpp"
#include "kvcompress/eviction/scored.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Minus the cosine between a key and the mean of all unit keys of the lane. Needs no attention. Cost: every decision decodes the keys of the
/// lane twice, so let `period` be more than 1 for decoding.
struct KeyDifference : ComputedRows {
  static constexpr std::string_view name = "key_difference";

  static std::span<const float> score(const Options&, const LaneView& lane, const RowTable& rows, const Moment& moment,
                                      std::span<float> out) {
    const std::size_t width = lane.site.shape.key_width();
    Vector<double>& mean = moment.scratch.sums;
    const std::size_t before = mean.size();  // sums of a set's other lanes
    mean.resize(before + width, 0.0);
    const auto length = [width](const auto* vector) {
      double sum = 0.0;
      for (std::size_t c = 0; c < width; ++c) { sum += static_cast<double>(vector[c]) * static_cast<double>(vector[c]); }
      return std::max(math::sqrt(sum), 1e-12);
    };
    double* const direction = mean.data() + before;
    for_each_key(lane, rows, moment, [&](std::size_t, const float* key) {
      const double scale = 1.0 / length(key);
      for (std::size_t c = 0; c < width; ++c) { direction[c] += scale * static_cast<double>(key[c]); }
    });
    const double mean_length = length(direction);
    std::fill(out.begin(), out.end(), 0.0F);
    for_each_key(lane, rows, moment, [&](std::size_t row, const float* key) {
      double dot = 0.0;
      for (std::size_t c = 0; c < width; ++c) { dot += direction[c] * static_cast<double>(key[c]); }
      out[row] = static_cast<float>(-dot / (mean_length * length(key)));
    });
    mean.resize(before);
    return out;
  }
};

}  // namespace kvcompress
