// include/kvcompress/eviction/observation_window.hpp - SnapKV's rule: what the last queries of the prompt look at stays.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/eviction/evict.hpp"
#include "kvcompress/eviction/scorers/window_attention.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// At the end of a prompt each lane keeps its newest `window` rows and, of the older ones, those to which the last `window` queries
/// give the largest pooled attention, `budget` rows in all. Rows decoded later stay, unless `decode_budget` bounds them: then the
/// oldest decoded rows go. Positions are never renumbered; survivors stay in text order. Ties go to the older row.
///
/// Source: "SnapKV: LLM Knows What You are Looking for Before Generation"; FasterDecoding/SnapKV@e216ddc84c5b. Deviations: one row
/// set per KV head, scores reduced over its query heads before pooling (as Zefan-Cai/KVCache-Factory@c97f9d706d63), where the
/// official code caches a copy per query head; kept rows are sorted by position; a prompt may come in chunks.
/// Cost: window/tokens of the prompt's attention, once; window * group * key_dim floats per lane until then, 4 bytes per row after.
/// Loses: what only later questions would have asked for.
/// A later end_prompt scores all rows again with the last queries of its own prompt and keeps `budget` of them.
struct ObservationWindow : AttentionScoredRows {
  static constexpr std::string_view name = "observation_window";
  static constexpr Needs may = WindowAttention::may;

  struct Options {
    Budget budget = 1024;                   ///< rows of the prompt that stay, window included
    std::size_t window = 32;                ///< observing queries, 1 to budget - 1
    std::size_t kernel = 7;                 ///< pooling width, odd, at most 65535; 1 means none
    Pooling pooling = Pooling::max;         ///< the published configurations use max, the code's default is average
    Reduction reduction = Reduction::mean;  ///< over the query heads of a KV head
    /// Decoded rows that stay. 0 means all; under a budget in bytes, as many as the prompt's rows leave room for, at least a quarter of what fits.
    std::size_t decode_budget = 0;
    static void fields(auto& options, auto&& field) {
      field("budget", options.budget);
      field("window", options.window);
      field("kernel", options.kernel);
      field("pooling", options.pooling);
      field("reduction", options.reduction);
      field("decode_budget", options.decode_budget);
    }
  };

  static void validate(const Options& options, const Shape&) {
    options.budget.validate("snapkv: budget");
    WindowAttention::validate(options, "snapkv");
    require(options.budget.rows_of == 0 || options.window < options.budget.rows_of, ErrorCode::option, "snapkv: window is ", options.window,
            ", must be less than budget = ", options.budget.rows_of);
    check_bounds("snapkv: decode_budget", options.decode_budget);
  }
  /// Of `budget` rows in all, under a budget in bytes.
  static std::size_t decoded_rows(const Options& options, std::size_t budget) noexcept {
    return detail::Deciding::decoded_rows(options.decode_budget, budget);
  }
  static std::size_t least_rows(const Options& options) noexcept {
    return options.window + 1 + (options.decode_budget > 0 ? options.decode_budget : options.window / 3 + 1);
  }
  static std::size_t window(const Options& options) noexcept { return options.window; }
  /// A prompt's queries are about to be observed: scores of an earlier prompt are forgotten.
  static void start(const Options&, State& state) noexcept { state.forget(); }

  static void select(const Options& options, std::span<RowSet> sets, const Moment& moment) {
    const Parts::Options parts = parts_of(options);
    Parts::select(parts, sets, moment);
  }
  /// The same rule as an eviction whose other parts can be replaced.
  using Parts = Evict<WindowAttention>;
  static Parts::Options parts_of(const Options& options) {
    return {.budget = options.budget,
            .decode_budget = options.decode_budget,
            .scorer = {options.window, options.kernel, options.pooling, options.reduction}};
  }
};

}  // namespace kvcompress
