// include/kvcompress/eviction/dispositions/merge_ranked.hpp - rows that go are merged if the heads of the layer agree that they are like others.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

#include "kvcompress/core/bounds.hpp"
#include "kvcompress/eviction/dispositions/merge_rows.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// A threshold that moves from decision to decision; it stands in the first lane of those that decide together.
class MovingThreshold {
 public:
  [[nodiscard]] double get() const noexcept { return threshold_; }
  /// The first mean, then old_share times what it was and new_share times the mean.
  void move_to(double mean, double old_share, double new_share) noexcept {
    threshold_ = known_ ? old_share * threshold_ + new_share * mean : mean;
    known_ = true;
  }
  static void reserve(std::size_t) noexcept {}
  static void resize(std::size_t) noexcept {}
  static void move(std::size_t, std::size_t) noexcept {}
  static void erase(std::size_t, std::size_t) noexcept {}
  static void compact(std::size_t) noexcept {}
  static void account(MemoryReport&) noexcept {}
  static void persist(auto& self, auto& archive, std::size_t) {
    archive.number(self.known_);
    archive.number(self.threshold_);
    archive.check(self.threshold_ - self.threshold_ == 0.0, "the threshold of merges is no number");
  }

 private:
  bool known_ = false;
  double threshold_ = 0.0;
};

/// Rows that go are compared with the nearest row that stays; the m-th row that goes of every head of the layer, in text order, is merged into it if
/// the mean over these heads of the cosines of both keys is at least a threshold: the mean of all cosines at the first decision, later
/// old_share * threshold + new_share * mean. Heads drop different tokens, so that their m-th rows have little in common; the published systems
/// compare them all the same. Merges forget how many rows they were.
///
/// Sources: AIoT-MLSys-Lab/d2o@12c99d8a9961 (weights = cosine; exponential in the paper); SUSTechBruce/LOOK-M@ecf0f51a9c41 (average and cosine,
/// with the shares 0 and 1). Deviation: LOOK-M's average merges other rows than pass its filter, by mistake; here those that pass.
/// Observes nothing. Cost: as MergeNearest, for all heads of a layer; a few bytes per lane.
struct MergeRanked {
  static constexpr std::string_view name = "merge_ranked";
  static constexpr Needs may{.rewrites = true};
  using State = MovingThreshold;

  struct Options {
    MergeWeights weights = MergeWeights::cosine;
    double old_share = 0.5;  ///< of the threshold, 0 to 1
    double new_share = 0.5;  ///< of the mean, 0 to 1
    static void fields(auto& options, auto&& field) {
      field("weights", options.weights);
      field("old_share", options.old_share);
      field("new_share", options.new_share);
    }
  };

  static void validate(const Options& options, const Shape&) {
    check_named("merge_ranked: weights", options.weights);
    const auto share = [](const char* option, double value) {
      require(value >= 0.0 && value <= 1.0, ErrorCode::option, option, " is ", value, ", must be 0 to 1");
    };
    share("merge_ranked: old_share", options.old_share);
    share("merge_ranked: new_share", options.new_share);
  }
  static constexpr std::size_t row_bytes(const Options&, const Shape&) noexcept { return 0; }
  static State state(const Options&, const Site&, const Memory&) noexcept { return {}; }

  static void dispose(const Options& options, std::span<RowSet> sets, const Moment& moment) {
    Vector<OneLane> lanes(Allocator<OneLane>(moment.scratch.rows.get_allocator()));
    std::size_t most = 0;
    for (RowSet& set : sets) {
      const detail::GoneAndKept rows = detail::gone_and_kept(set, moment);
      for (const LaneView& lane : set.lanes) {
        lanes.push_back({&set, &lane, rows, detail::find_nearest(set, lane, rows, KeyAngle::stored, moment)});
      }
      most = std::max(most, rows.gone.size());
    }
    if (most == 0) { return; }
    Vector<double> means = numbers_of<double>(moment, most);  // of every rank
    double sum = 0.0;
    std::size_t count = 0;
    for (std::size_t rank = 0; rank < most; ++rank) {
      std::size_t heads = 0;
      for (const OneLane& lane : lanes) {
        if (rank >= lane.nearest.cosine.size()) { continue; }
        means[rank] += static_cast<double>(lane.nearest.cosine[rank]);
        ++heads;
      }
      sum += means[rank];
      count += heads;
      means[rank] /= static_cast<double>(heads);
    }
    State& threshold = sets.front().lanes.front().state<State>();
    threshold.move_to(sum / static_cast<double>(count), options.old_share, options.new_share);
    for (const OneLane& lane : lanes) {
      detail::merge_rows(*lane.set, *lane.view, lane.rows, lane.nearest, {options.weights, KeyAngle::stored, true, false}, moment,
                         [&](std::size_t rank) { return means[rank] >= threshold.get(); });
    }
  }

 private:
  struct OneLane {
    const RowSet* set;
    const LaneView* view;
    detail::GoneAndKept rows;
    detail::Nearest nearest;
  };
};

}  // namespace kvcompress
