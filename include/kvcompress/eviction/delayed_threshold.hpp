// include/kvcompress/eviction/delayed_threshold.hpp - rows that score too little go once they have left the window of the newest ones.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

#include "kvcompress/eviction/budget.hpp"
#include "kvcompress/eviction/parts.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// The newest `window` rows stay; an older one goes if it scores less than `threshold`. Has no budget: how much stays depends on the text. Lanes
/// that keep the same rows go by the mean of their scores. Cost: the scorer's at every commit after which rows are older than that.
///
/// Source: NVIDIA/kvpress@8bb29b9c3078:dms_press.py, a threshold press after "Inference-Time Hyper-Scaling with KV Cache Compression", whose trained
/// gates are not here. There a row is judged once, when it leaves the window; here at every commit from then on, which is the same for scores that
/// do not change, as KeyNorm's.
template <Scorer S>
struct DelayedThreshold {
  static constexpr std::string_view name = "delayed_threshold";
  static constexpr Needs may = [] {
    Needs needs = S::may;
    needs.decides = Decides::every_commit;
    return needs;
  }();
  using State = typename S::State;
  struct Options {
    double threshold = 0.0;    ///< in units of the scores
    std::size_t window = 128;  ///< newest rows that stay, at least 1
    typename S::Options scorer{};
    static void fields(auto& options, auto&& field) {
      field("threshold", options.threshold);
      field("window", options.window);
      options.scorer.fields(options.scorer, field);
    }
  };

  static void validate(const Options& options, const Shape& shape) {
    require(options.threshold - options.threshold == 0.0, ErrorCode::option, "delayed_threshold: threshold is ", options.threshold,
            ", must be a finite number");
    check_bounds("delayed_threshold: window", options.window, 1);
    S::validate(options.scorer, shape);
  }
  static constexpr bool renumbers(const Options&) noexcept { return false; }
  static std::size_t row_bytes(const Options& options, const Shape& shape) { return S::row_bytes(options.scorer, shape); }
  static State state(const Options& options, const Site& site, const Memory& memory) { return S::state(options.scorer, site, memory); }
  static void observe(const Options& options, State& state, std::size_t head, std::span<const float> probabilities) requires requires {
    S::observe(options.scorer, state, head, probabilities);
  }
  { S::observe(options.scorer, state, head, probabilities); }
  static void observe_row(const Options& options, State& state, std::size_t row, std::span<const float> key,
                          std::span<const float> value) requires requires {
    S::observe_row(options.scorer, state, row, key, value);
  }
  { S::observe_row(options.scorer, state, row, key, value); }

  static void select(const Options& options, std::span<RowSet> sets, const Moment& moment) {
    for (RowSet& set : sets) {
      if (set.rows.live() <= options.window) { continue; }
      const Position first_new = set.newest(options.window - 1);
      Vector<float>& room = moment.scratch.numbers;
      if (room.size() < set.rows.rows()) { room.resize(set.rows.rows()); }
      Vector<double>& sums = moment.scratch.sums;
      sums.assign(set.rows.rows(), 0.0);
      for (const LaneView& lane : set.lanes) {
        const std::span<const float> own = S::score(options.scorer, lane, set.rows, moment, {room.data(), set.rows.rows()});
        for (std::size_t r = 0; r < own.size(); ++r) { sums[r] += static_cast<double>(own[r]); }
      }
      const double least = options.threshold * static_cast<double>(set.lanes.size());
      for (std::size_t r = 0; r < set.rows.rows(); ++r) {
        if (set.rows.alive(r) && set.rows.position(r) < first_new && sums[r] < least) { set.drop[r] = 1; }
      }
    }
  }
};

}  // namespace kvcompress
