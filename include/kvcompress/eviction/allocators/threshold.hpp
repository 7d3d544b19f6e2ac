// include/kvcompress/eviction/allocators/threshold.hpp - as many rows as score at least so much, like MPCache's static step.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

#include "kvcompress/core/error.hpp"
#include "kvcompress/eviction/allocators/uniform.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// At the end of a prompt a lane keeps as many rows as score `threshold` or more, those that stay anyway and at least one, at most the budget. What
/// scores are depends on the scorer: one that sums attention over queries has larger ones than one that takes the largest.
///
/// Source: the rule of "MPCache: MPC-Friendly KV Cache Eviction for Efficient Private LLM Inference"; zwxandy/MPCache@55e401b17db3 keeps what scores
/// so much, however many rows these are, by LargestWindowAttention. Cost: O(rows).
struct Threshold {
  static constexpr std::string_view name = "threshold";
  static constexpr Scope sees = Scope::lane;
  struct Options {
    double threshold = 0.001;  ///< any finite number
    static void fields(auto& options, auto&& field) { field("threshold", options.threshold); }
  };
  static void validate(const Options& options) {
    require(options.threshold - options.threshold == 0.0, ErrorCode::option, "threshold: threshold is ", options.threshold,
            ", must be finite");
  }

  static void allocate(const Options& options, const Allocation& allocation, std::span<std::size_t> budgets) {
    const Protected& stay = allocation.protected_rows;
    for (std::size_t i = 0; i < budgets.size(); ++i) {
      RowSet& set = allocation.sets[i];
      const std::size_t live = set.rows.live();
      const std::size_t kept = std::min(live, stay.sinks + stay.recent);
      const Position first = stay.sinks == 0 || stay.sinks >= live ? 0 : set.oldest(stay.sinks);
      const Position end = stay.recent == 0 || stay.recent > live ? no_position : set.newest(stay.recent - 1);
      std::size_t rows = kept;
      for (std::size_t r = 0; kept < live && r < set.rows.rows(); ++r) {
        const Position p = set.rows.position(r);
        if (set.rows.alive(r) && p >= first && p < end) {
          rows += static_cast<double>(allocation.scores[i][r]) >= options.threshold ? 1U : 0U;
        }
      }
      budgets[i] = std::max<std::size_t>(1, std::min(rows, budgets[i]));
    }
  }
};

}  // namespace kvcompress
