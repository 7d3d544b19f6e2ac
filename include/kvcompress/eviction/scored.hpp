// include/kvcompress/eviction/scored.hpp - what evictions and scorers share that keep numbers for every row, the library's and your own.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/concepts/eviction.hpp"
#include "kvcompress/core/no_state.hpp"
#include "kvcompress/core/row_scores.hpp"
#include "kvcompress/eviction/budget.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// One score per row, decided lane by lane at every commit. Derive from it, name yourself, and say what a row is worth; a member of the same
/// name replaces the one here. See examples/own_policy.cpp.
struct ScoredRows {
  static constexpr Needs may{};
  struct Options {
    static void fields(auto&, auto&&) {}
  };
  using State = RowScores;

  static void validate(const auto& /*options*/, const Shape&) noexcept {}
  static constexpr bool renumbers(const auto& /*options*/) noexcept { return false; }
  static constexpr std::size_t row_bytes(const auto& /*options*/, const Shape&) noexcept { return RowScores::row_bytes(1); }
  static State state(const auto& /*options*/, const Site&, const Memory& memory) { return State(1, memory); }
  static std::span<const float> score(const auto& /*options*/, const LaneView& lane, const RowTable&, const Moment&, std::span<float> out) {
    return lane.state<State>().largest_of_each(out);
  }
  static constexpr std::size_t recent(const auto& /*options*/, std::size_t /*budget*/) noexcept { return 0; }
};

/// The same, with scores that are computed at a decision, from keys and values, and of which nothing is remembered.
struct ComputedRows : ScoredRows {
  using State = NoState;

  static constexpr std::size_t row_bytes(const auto& /*options*/, const Shape&) noexcept { return 0; }
  static State state(const auto& /*options*/, const Site&, const Memory&) noexcept { return {}; }
};

/// One score per row by the attention that it receives; Options has a `reduction` over the query heads of a KV head. Mean and sum are kept as one sum
/// per row, since they rank alike; for the maximum a row has a sum per query head.
struct AttentionScoredRows : ScoredRows {
  static constexpr Needs may{.observes = Observes::every_query};

  static std::size_t columns(const auto& options, const Shape& shape) noexcept {
    return options.reduction == Reduction::max ? shape.group() : 1;
  }
  static std::size_t row_bytes(const auto& options, const Shape& shape) noexcept { return RowScores::row_bytes(columns(options, shape)); }
  static State state(const auto& options, const Site& site, const Memory& memory) { return State(columns(options, site.shape), memory); }
  static void observe(const auto& options, State& state, std::size_t head, std::span<const float> probabilities) noexcept {
    state.add(options.reduction == Reduction::max ? head : 0, probabilities);
  }
};

}  // namespace kvcompress
