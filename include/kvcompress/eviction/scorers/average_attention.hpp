// include/kvcompress/eviction/scorers/average_attention.hpp - the attention that a row has received per query that could see it.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/eviction/scored.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Sum of the attention probabilities that a row has received since it was written, over the query heads of the KV head, divided by the number
/// of queries that could see it: the distance to the newest row, and one. Unlike H2O's sum it does not favour old rows. Observes every query;
/// tokens whose queries are not attended count like queries that saw nothing. Cost: column sums in attend, a division per row and decision;
/// 4 bytes per row and lane.
///
/// Source: NVIDIA/kvpress@8bb29b9c3078:observed_attention_press.py, which evicts at the end of a prompt only; here every commit may. No
/// row stays for being new: let `recent` be more than 0 for decoding.
struct AverageAttention : ScoredRows {
  static constexpr std::string_view name = "average_attention";
  static constexpr Needs may{.observes = Observes::every_query};

  static constexpr std::size_t recent(const Options&, std::size_t /*budget*/) noexcept { return 0; }
  static void observe(const Options&, State& state, std::size_t /*head*/, std::span<const float> probabilities) noexcept {
    state.add(0, probabilities);
  }
  static std::span<const float> score(const Options&, const LaneView& lane, const RowTable& rows, const Moment&, std::span<float> out) {
    const State& sums = lane.state<State>();
    Position newest = 0;
    for (std::size_t r = 0; r < rows.rows(); ++r) {
      if (rows.alive(r)) { newest = std::max(newest, rows.position(r)); }
    }
    const double group = static_cast<double>(lane.site.shape.group());
    for (std::size_t r = 0; r < rows.rows(); ++r) {
      const double seen = rows.alive(r) ? static_cast<double>(newest - rows.position(r)) + 1.0 : 1.0;
      out[r] = static_cast<float>(static_cast<double>(sums.get(r, 0)) / (group * seen));
    }
    return out;
  }
};

}  // namespace kvcompress
