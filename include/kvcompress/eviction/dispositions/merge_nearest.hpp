// include/kvcompress/eviction/dispositions/merge_nearest.hpp - every row that goes is merged into the row that stays whose key is most like its own.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

#include "kvcompress/core/bounds.hpp"
#include "kvcompress/core/no_state.hpp"
#include "kvcompress/eviction/dispositions/merge_rows.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// A row that goes is merged, if the cosine of both keys is at least `threshold` and among the largest `fraction` of the lane's, into the nearest
/// row that stays, recent rows and sinks included. With `Weighs` a row counts as often as it stands for others, and attention sees the new row as
/// that many; without, which is what the published systems do, a merge forgets how many rows it was.
///
/// Sources: Zefan-Cai/KVCache-Factory@c97f9d706d63:pyramidkv/pyramidkv_utils.py:merge_kv (pivot, similarity); SUSTechBruce/LOOK-M@ecf0f51a9c41
/// (pivot); NVIDIA/kvpress@8bb29b9c3078:kvpress/presses/merging_press.py (value_norm, keys=false). Deviation from the last: its quantile is no
/// number as soon as enough rows fail the threshold, and then nothing is merged; here it is that of all rows that go.
/// Observes nothing. Acts whenever rows go. Cost: kept * gone dot products of keys, and 4 * (kept + 1) * key width bytes of scratch per lane.
/// Loses: what the rows had apart; drafts are safe, since a merge happens at a commit. Rows that are encoded in groups are no targets.
template <bool Weighs>
struct MergeNearest {
  static constexpr std::string_view name = Weighs ? "merge_weighted" : "merge";
  static constexpr Needs may{.rewrites = true, .weighs = Weighs};
  static constexpr bool weighs_by_lane = Weighs;
  using State = NoState;

  struct Options {
    MergeWeights weights = MergeWeights::average;  ///< what the rows count
    bool keys = true;                              ///< keys are merged, too; else values alone
    KeyAngle angle = KeyAngle::stored;             ///< at which keys are compared and merged
    double threshold = -1.0;                       ///< smallest cosine, -1 to 1
    double fraction = 1.0;                         ///< of the rows that go those that are merged, above 0 to 1
    static void fields(auto& options, auto&& field) {
      field("weights", options.weights);
      field("keys", options.keys);
      field("angle", options.angle);
      field("threshold", options.threshold);
      field("fraction", options.fraction);
    }
  };

  static void validate(const Options& options, const Shape&) {
    check_named("merge: weights", options.weights);
    check_named("merge: angle", options.angle);
    require(options.threshold >= -1.0 && options.threshold <= 1.0, ErrorCode::option, "merge: threshold is ", options.threshold,
            ", must be -1 to 1");
    require(options.fraction > 0.0 && options.fraction <= 1.0, ErrorCode::option, "merge: fraction is ", options.fraction,
            ", must be above 0, at most 1");
  }
  static constexpr std::size_t row_bytes(const Options&, const Shape&) noexcept { return 0; }
  static State state(const Options&, const Site&, const Memory&) noexcept { return {}; }

  static void dispose(const Options& options, std::span<RowSet> sets, const Moment& moment) {
    for (const RowSet& set : sets) {
      if (std::find(set.drop.begin(), set.drop.end(), 1) == set.drop.end()) { continue; }
      const detail::GoneAndKept rows = detail::gone_and_kept(set, moment);
      for (const LaneView& lane : set.lanes) {
        const detail::Nearest nearest = detail::find_nearest(set, lane, rows, options.angle, moment);
        const double least = std::max(options.threshold, options.fraction < 1.0 ? quantile(nearest.cosine, 1.0 - options.fraction) : -1.0);
        const bool all = least <= -1.0;
        detail::merge_rows(set, lane, rows, nearest, {options.weights, options.angle, options.keys, Weighs}, moment,
                           [&](std::size_t i) { return all || static_cast<double>(nearest.cosine[i]) >= least; });
      }
    }
  }

 private:
  /// Interpolated linearly between neighbours.
  static double quantile(Vector<float> numbers, double share) {
    std::sort(numbers.begin(), numbers.end());
    const double place = share * static_cast<double>(numbers.size() - 1);
    const auto below = static_cast<std::size_t>(place);
    const auto at = [&](std::size_t i) { return static_cast<double>(numbers[std::min(i, numbers.size() - 1)]); };
    return at(below) + (place - static_cast<double>(below)) * (at(below + 1) - at(below));
  }
};

}  // namespace kvcompress
