// include/kvcompress/eviction/scored.hpp - what evictions by score share, the library's and your own: scores per row, decided lane by lane.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/concepts.hpp"
#include "kvcompress/core/row_scores.hpp"
#include "kvcompress/eviction/budget.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// What most evictions share. Derive from it, name yourself, and add Options, validate and select; a member of the same name
/// replaces the one here. See examples/own_policy.cpp.
struct ScoredEviction {
  static constexpr Scope scope = Scope::lane;
  static constexpr Decides decides = Decides::every_commit;
  static constexpr Observes observes = Observes::nothing;
  using State = RowScores;

  static constexpr bool renumbers(const auto& /*options*/) noexcept { return false; }
  static constexpr std::size_t row_bytes(const auto& /*options*/, const Shape&) noexcept { return RowScores::row_bytes(1); }
  static State state(const auto& /*options*/, const Shape&, const Memory& memory) { return State(1, memory); }
};

/// The same for evictions that score rows by the attention they receive; Options has a `reduction` over the query heads of a KV head.
/// Mean and sum are kept as one sum per row, since they rank alike; for the maximum a row has a sum per query head.
struct AttentionScoredEviction : ScoredEviction {
  static std::size_t columns(const auto& options, const Shape& shape) noexcept {
    return options.reduction == Reduction::max ? shape.group() : 1;
  }
  static std::size_t row_bytes(const auto& options, const Shape& shape) noexcept { return RowScores::row_bytes(columns(options, shape)); }
  static State state(const auto& options, const Shape& shape, const Memory& memory) { return State(columns(options, shape), memory); }
  static void observe(const auto& options, State& state, std::size_t head, std::span<const float> probabilities) noexcept {
    state.add(options.reduction == Reduction::max ? head : 0, probabilities);
  }
};

}  // namespace kvcompress
