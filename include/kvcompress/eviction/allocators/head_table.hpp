// include/kvcompress/eviction/allocators/head_table.hpp - HeadKV's budgets: a table of rows per head.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

#include "kvcompress/core/error.hpp"
#include "kvcompress/core/loaded_numbers.hpp"
#include "kvcompress/core/math.hpp"
#include "kvcompress/eviction/allocators/uniform.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// A lane keeps the rows that stay anyway and the mean of what the table says of its query heads, rounded half to even; lanes that keep the same rows
/// the mean of all of theirs. Cost: none.
///
/// Source: "Not All Heads Matter: A Head-Level KV Cache Compression Method with Integrated Retrieval and Reasoning" (HeadKV); as
/// Zefan-Cai/KVCache-Factory@c97f9d706d63:pyramidkv/pyramidkv_utils.py uses such a table.
struct HeadTable {
  static constexpr std::string_view name = "head_table";
  static constexpr Scope sees = Scope::lane;
  struct Options {
    LoadedNumbers rows{};  ///< (layers, query heads), 0 or more each
    static void fields(auto&, auto&&) {}
    static void unnamed_fields(auto& options, auto&& field) { field("rows", options.rows); }
  };
  static void validate(const Options& options, const Shape& shape) {
    options.rows.check("head_table: rows", shape.sum([](const Shape& layer) { return layer.query_heads; }), "layers * query_heads");
    for (const float rows : options.rows.all()) {
      require(rows >= 0.0F && rows < 4e9F, ErrorCode::option, "head_table: rows has ", rows, ", must be 0 to 4e9");
    }
  }

  static void allocate(const Options& options, const Allocation& allocation, std::span<std::size_t> budgets) {
    for (std::size_t i = 0; i < budgets.size(); ++i) {
      const RowSet& set = allocation.sets[i];
      double sum = 0.0;
      for (const LaneView& lane : set.lanes) { sum += rows_of(options, lane.site); }
      const std::size_t kept = allocation.protected_rows.sinks + allocation.protected_rows.recent;
      const double mean = math::round_half_even(sum / static_cast<double>(set.lanes.size()));
      budgets[i] = std::min(kept + static_cast<std::size_t>(mean), std::max<std::size_t>(1, set.rows.live()));
    }
  }

 private:
  static double rows_of(const Options& options, const Site& site) {
    const std::size_t group = site.shape.group();
    double sum = 0.0;
    for (const float rows : options.rows.some(site.query_heads_before(), group)) { sum += static_cast<double>(rows); }
    return sum / static_cast<double>(group);
  }
};

}  // namespace kvcompress
