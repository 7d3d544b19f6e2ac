// include/kvcompress/eviction/heavy_hitters.hpp - H2O's rule: the rows with the largest accumulated attention, and the newest ones.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/eviction/evict.hpp"
#include "kvcompress/eviction/scorers/accumulated_attention.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Each lane keeps the newest `recent` rows and, of the others, those with the largest sums of attention probability, `budget` rows
/// in all. Sums run over all queries since the row was written, prompt included, and over the query heads of the KV head (mean and sum
/// rank alike) or are kept per query head, the largest counting; ties go to the older row.
///
/// Source: "H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large Language Models";
/// FMInference/H2O@ac75c2a8a9e7:h2o_hf/utils_real_drop/modify_llama.py (real dropping). Beyond it: grouped queries, which that code
/// does not support, are reduced to one score per KV head as Zefan-Cai/KVCache-Factory@c97f9d706d63 does.
/// Cost: column sums of the probabilities in attend; O(budget) per lane and commit; 8 bytes per row and lane (max: 4 + 4 * group).
/// Loses: rows nobody attended to yet, for good. In-cache positions rotate the query once per run of neighbours, up to once per row.
/// A later end_prompt evicts like any commit.
struct HeavyHitters : AttentionScoredRows {
  static constexpr std::string_view name = "heavy_hitters";

  struct Options {
    Budget budget = 2048;                   ///< rows that stay, recent ones included
    std::size_t recent = 0;                 ///< newest rows that always stay, 1 to budget; 0 means half the budget
    Reduction reduction = Reduction::mean;  ///< over the query heads of a KV head
    bool in_cache_positions = false;        ///< attention sees the kept rows at positions 0, 1, 2, ... (the code's streaming class)
    static void fields(auto& options, auto&& field) {
      field("budget", options.budget);
      field("recent", options.recent);
      field("reduction", options.reduction);
      field("in_cache_positions", options.in_cache_positions);
    }
  };

  static void validate(const Options& options, const Shape&) {
    options.budget.validate("h2o: budget");
    require(options.budget.rows_of == 0 || options.recent <= options.budget.rows_of, ErrorCode::option, "h2o: recent is ", options.recent,
            ", must be at most budget = ", options.budget.rows_of);
    check_bounds("h2o: recent", options.recent);
    check_named("h2o: reduction", options.reduction);
  }
  static bool renumbers(const Options& options) noexcept { return options.in_cache_positions; }

  /// The same rule as an eviction whose other parts can be replaced; without in-cache positions.
  using Parts = Evict<AccumulatedAttention>;
  static Parts::Options parts_of(const Options& options) {
    require(!options.in_cache_positions, ErrorCode::option,
            "h2o: in_cache_positions is true, must be false with an allocator or a selector");
    return {.budget = options.budget, .recent = options.recent, .scorer = {options.reduction}};
  }

  static void select(const Options& options, std::span<RowSet> sets, const Moment& moment) {
    const AccumulatedAttention::Options scorer{options.reduction};
    detail::deciding<AccumulatedAttention, Uniform, Best>(scorer, {}, {}, options.budget, 0, options.recent, 1, 0).select(sets, moment);
  }
};

}  // namespace kvcompress
