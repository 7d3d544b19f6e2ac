// include/kvcompress/eviction/scorers/last_attention.hpp - TOVA's score: the attention of the newest query.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/eviction/scored.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Attention that the newest query gives a row, over all heads of the layer, whose lanes keep the same rows. Of a prompt that of its last
/// query, later that of every query. Cost: one query's attention at the end of a prompt, column sums in attend; 4 bytes per row and lane.
struct LastAttention : ScoredRows {
  static constexpr std::string_view name = "last_attention";
  static constexpr Needs may{.observes = Observes::last_queries, .agrees = Scope::layer};

  static constexpr std::size_t window(const Options&) noexcept { return 1; }
  static constexpr std::size_t recent(const Options&, std::size_t /*budget*/) noexcept { return 1; }
  static void start(const Options&, State& state) noexcept { state.forget(); }
  static void observe(const Options&, State& state, std::size_t head, std::span<const float> probabilities) noexcept {
    if (head == 0) { state.forget(); }
    state.add(0, probabilities);
  }
};

}  // namespace kvcompress
