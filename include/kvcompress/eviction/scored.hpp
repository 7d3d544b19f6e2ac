// include/kvcompress/eviction/scored.hpp - a start for evictions of your own: one score per row, decided lane by lane.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/concepts.hpp"
#include "kvcompress/core/row_scores.hpp"

namespace kvcompress {

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

}  // namespace kvcompress
