// include/kvcompress/eviction/observation_window.hpp - SnapKV's rule: what the last queries of the prompt look at stays.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/eviction/budget.hpp"
#include "kvcompress/eviction/scored.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// How neighbouring scores are joined: the mean with a divisor that is always the kernel size, or the maximum.
enum class Pooling { average, max };
constexpr auto names_of(Pooling) noexcept { return std::array{"average", "max"}; }

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
struct ObservationWindow : AttentionScoredEviction {
  static constexpr std::string_view name = "observation_window";
  static constexpr Decides decides = Decides::once;
  static constexpr Observes observes = Observes::last_prompt_queries;

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
    require(options.window > 0, ErrorCode::option, "snapkv: window is 0, must be at least 1");
    require(options.budget.rows_of == 0 || options.window < options.budget.rows_of, ErrorCode::option, "snapkv: window is ", options.window,
            ", must be less than budget = ", options.budget.rows_of);
    check_bounds("snapkv: window", options.window, 1);
    require(options.kernel % 2 == 1, ErrorCode::option, "snapkv: kernel is ", options.kernel, ", must be odd");
    check_bounds("snapkv: kernel", options.kernel, 1, 65535);
    check_bounds("snapkv: decode_budget", options.decode_budget);
    check_named("snapkv: pooling", options.pooling);
    check_named("snapkv: reduction", options.reduction);
  }
  /// Of `budget` rows in all, under a budget in bytes.
  static std::size_t decoded_rows(const Options& options, std::size_t budget) noexcept {
    return options.decode_budget > 0 ? options.decode_budget : std::max<std::size_t>(1, budget / 4);
  }
  static std::size_t least_rows(const Options& options) noexcept {
    return options.window + 1 + (options.decode_budget > 0 ? options.decode_budget : options.window / 3 + 1);
  }
  static std::size_t window(const Options& options) noexcept { return options.window; }
  /// A prompt's queries are about to be observed: scores of an earlier prompt are forgotten.
  static void start(const Options&, State& state) noexcept { state.forget(); }

  /// For storages that encode lanes together: one score per row, the sum of what the lanes give it.
  static State sums(const Options&, const Memory& memory) { return State(1, memory); }
  static void add(const Options&, State& sums, const State& lane) noexcept { sums.add_largest(lane); }

  static void select(const Options& options, State& state, Selection& selection) {
    const bool in_bytes = options.budget.bytes_of > 0;
    if (selection.end_of_prompt) {
      const std::size_t decoded = in_bytes ? std::min(decoded_rows(options, selection.budget), selection.budget - 1) : 0;
      select_prompt(options, state, selection, selection.budget - decoded);
    } else if (options.decode_budget > 0) {
      select_decoded(options.decode_budget, selection);
    } else if (in_bytes) {
      const std::size_t left = selection.budget - std::min(selection.budget, rows_of_prompt(selection));
      select_decoded(std::min(left, selection.most_decoded), selection);
    }
  }

  /// Replaces the score of each row in `order` (column 0) by the one reduced over heads and pooled over neighbours in that order.
  static void pool(const Options& options, State& state, std::span<const Position> order) {
    const std::size_t reach = options.kernel / 2;
    Vector<float> scores(order.size(), 0.0F, state.allocator());
    for (std::size_t i = 0; i < order.size(); ++i) { scores[i] = state.largest(order[i]); }
    for (std::size_t i = 0; i < order.size(); ++i) {
      const auto first = scores.begin() + static_cast<std::ptrdiff_t>(i - std::min(i, reach));
      const auto last = scores.begin() + static_cast<std::ptrdiff_t>(std::min(i + reach + 1, order.size()));
      float pooled = 0.0F;
      if (options.pooling == Pooling::max) {
        pooled = *std::max_element(first, last);
      } else {
        for (auto score = first; score != last; ++score) { pooled += *score; }
        pooled /= static_cast<float>(options.kernel);
      }
      state.set(order[i], 0, pooled);
    }
  }

 private:
  static void select_prompt(const Options& options, State& state, Selection& selection, std::size_t budget) {
    selection.sort_rows();
    auto& order = selection.order;
    const std::size_t live = order.size();
    const std::size_t window = std::min(options.window, budget);
    if (live > budget) {
      const std::size_t prefix = live - window;
      pool(options, state, {order.data(), prefix});
      const auto first_gone = order.begin() + static_cast<std::ptrdiff_t>(budget - window);
      const auto end = order.begin() + static_cast<std::ptrdiff_t>(prefix);
      std::nth_element(order.begin(), first_gone, end, [&](Position a, Position b) {  // a stays before b
        const float x = state.get(a, 0);
        const float y = state.get(b, 0);
        return x != y ? x > y : selection.rows.position(a) < selection.rows.position(b);
      });
      for (auto row = first_gone; row != end; ++row) { selection.drop[*row] = 1; }
    }
  }

  static std::size_t rows_of_prompt(const Selection& selection) noexcept {
    std::size_t count = 0;
    for (std::size_t r = 0; r < selection.rows.rows(); ++r) {
      count += selection.rows.alive(r) && selection.rows.position(r) < selection.prompt_tokens ? 1U : 0U;
    }
    return count;
  }
  static void select_decoded(std::size_t budget, Selection& selection) {
    if (selection.rows.live() - rows_of_prompt(selection) <= budget) { return; }
    const Position first_kept = budget == 0 ? no_position : selection.newest(budget - 1);
    for (std::size_t r = 0; r < selection.rows.rows(); ++r) {
      const Position p = selection.rows.position(r);
      selection.drop[r] = p >= selection.prompt_tokens && p < first_kept ? 1 : 0;
    }
  }
};

}  // namespace kvcompress
