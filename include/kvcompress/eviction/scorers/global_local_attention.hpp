// include/kvcompress/eviction/scorers/global_local_attention.hpp - attention of all queries so far and of the newest ones, whichever says more.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>

#include "kvcompress/core/bounds.hpp"
#include "kvcompress/eviction/decoded_rows.hpp"
#include "kvcompress/eviction/scored.hpp"
#include "kvcompress/eviction/scorers/window_attention.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// The larger of two sums of attention over the query heads of the KV head, each the largest of `kernel` neighbours: that of all queries, scaled so that
/// both sums are alike over the lane, and one in which a query counts 1 - 1/window for each query since.
///
/// Observes every query. Acts at every commit that finds more rows than the budget. Bytes: 8 per row and lane (16 while a first prompt is open). Drafts
/// can be taken back, up to `speculation`. Cost: two column sums and a product per row and query; O(rows * kernel) per decision.
///
/// After the abstract of "EMS: Adaptive Evict-then-Merge Strategy for Head-wise KV Cache Compression Based on Global-Local Importance", which has no
/// public code: its two scores, in its style; there the newest queries are a window, and what goes may be merged (see MergeNearest).
struct GlobalLocalAttention : ScoredRows {
  static constexpr std::string_view name = "global_local_attention";
  static constexpr Needs may{.observes = Observes::every_query};
  struct Options {
    std::size_t window = 32;  ///< queries that count as new, at least 1
    std::size_t kernel = 7;   ///< pooling width, odd, at most 65535; 1 means none
    static void fields(auto& options, auto&& field) {
      field("window", options.window);
      field("kernel", options.kernel);
    }
  };

  static void validate(const Options& options, const Shape&) {
    WindowAttention::validate(WindowAttention::Options{options.window, options.kernel}, name);
  }
  static constexpr std::size_t row_bytes(const Options&, const Shape&) noexcept { return RowScores::row_bytes(2); }
  static State state(const Options&, const Site&, const Memory& memory) { return State(2, memory); }
  static std::size_t recent(const Options& options, std::size_t budget) noexcept {
    return std::max<std::size_t>(1, std::min(options.window, budget / 4));
  }
  static void observe(const Options& options, State& state, std::size_t head, std::span<const float> probabilities) noexcept {
    if (head == 0) {
      const double left = 1.0 - 1.0 / static_cast<double>(options.window);
      for (std::size_t r = 0; r < state.rows(); ++r) { state.set(r, 1, static_cast<float>(left * static_cast<double>(state.get(r, 1)))); }
    }
    state.add(0, probabilities);
    state.add(1, probabilities);
  }
  static std::span<const float> score(const Options& options, const LaneView& lane, const RowTable& rows, const Moment& moment,
                                      std::span<float> out) {
    const State& state = lane.state<State>();
    const Vector<Position> order = rows_in_text_order(rows, moment);
    double all[2] = {};
    for (const Position row : order) {
      for (std::size_t which = 0; which < 2; ++which) { all[which] += static_cast<double>(state.get(row, which)); }
    }
    const double scale = all[0] > 0.0 ? all[1] / all[0] : 0.0;
    Vector<float> larger = numbers_of<float>(moment, order.size());
    for (std::size_t i = 0; i < order.size(); ++i) {  // the largest of neighbours of the larger is the larger of both largest
      larger[i] = std::max(static_cast<float>(scale * static_cast<double>(state.get(order[i], 0))), state.get(order[i], 1));
    }
    std::fill(out.begin(), out.end(), 0.0F);
    const std::size_t reach = options.kernel / 2;
    for (std::size_t i = 0; i < order.size(); ++i) {
      const auto first = larger.begin() + static_cast<std::ptrdiff_t>(i - std::min(i, reach));
      const auto last = larger.begin() + static_cast<std::ptrdiff_t>(std::min(i + reach + 1, order.size()));
      out[order[i]] = *std::max_element(first, last);
    }
    return out;
  }
};

}  // namespace kvcompress
