// include/kvcompress/eviction/dispositions/merge_neighbours.hpp - rows that go are merged into the row that stays beside them in the text.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

#include "kvcompress/core/bounds.hpp"
#include "kvcompress/core/no_state.hpp"
#include "kvcompress/eviction/dispositions/merge_rows.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// A row that goes is merged into one of the two rows that stay next before and behind it, whose key is more like its own (of equal ones the older), if
/// it and all rows between them have a cosine with that key of at least `threshold`; else it is gone. Runs of like rows so become one, as in
/// KVMerger, "Model Tells You Where to Merge: Adaptive KV Cache Merging for LLMs on Long-Context Tasks", which has no public code: after its text, and
/// in its style. There each run keeps the row with the most attention; here the eviction says which rows stay, and how many.
///
/// Observes nothing. Acts whenever rows go. Bytes: none. Drafts are safe, since a merge happens at a commit. Later questions find the mean of a run.
/// Cost: two dot products of keys for each row that goes; it is read once more to be merged. Rows that are encoded in groups are no targets.
struct MergeNeighbours {
  static constexpr std::string_view name = "merge_neighbours";
  static constexpr Needs may{.rewrites = true};
  using State = NoState;

  struct Options {
    MergeWeights weights = MergeWeights::gaussian;  ///< what the rows count
    KeyAngle angle = KeyAngle::stored;              ///< at which keys are compared and merged
    double threshold = 0.75;                        ///< smallest cosine, -1 to 1
    static void fields(auto& options, auto&& field) {
      field("weights", options.weights);
      field("angle", options.angle);
      field("threshold", options.threshold);
    }
  };

  static void validate(const Options& options, const Shape&) {
    check_named("merge_neighbours: weights", options.weights);
    check_named("merge_neighbours: angle", options.angle);
    require(options.threshold >= -1.0 && options.threshold <= 1.0, ErrorCode::option, "merge_neighbours: threshold is ", options.threshold,
            ", must be -1 to 1");
  }
  static constexpr std::size_t row_bytes(const Options&, const Shape&) noexcept { return 0; }
  static State state(const Options&, const Site&, const Memory&) noexcept { return {}; }

  static void dispose(const Options& options, std::span<RowSet> sets, const Moment& moment) {
    for (const RowSet& set : sets) {
      if (std::find(set.drop.begin(), set.drop.end(), 1) == set.drop.end()) { continue; }
      const detail::GoneAndKept rows = detail::gone_and_kept(set, moment);
      for (const LaneView& lane : set.lanes) {
        const detail::Nearest nearest = find(options, set, lane, rows, moment);
        detail::merge_rows(set, lane, rows, nearest, {options.weights, options.angle, true, false}, moment,
                           [&](std::size_t i) { return nearest.cosine[i] > none; });
      }
    }
  }

 private:
  static constexpr float none = -2.0F;  // below every cosine

  /// Of every row that goes the better of its neighbours that stay.
  static detail::Nearest find(const Options& options, const RowSet& set, const LaneView& lane, const detail::GoneAndKept& rows,
                              const Moment& moment) {
    detail::Nearest nearest{numbers_of<Position>(moment, rows.gone.size()), numbers_of<float>(moment, rows.gone.size())};
    std::fill(nearest.cosine.begin(), nearest.cosine.end(), none);
    if (rows.kept.empty()) { return nearest; }
    Vector<unsigned char> stays = numbers_of<unsigned char>(moment, set.rows.rows());
    for (const Position row : rows.kept) { stays[row] = 1; }
    const Vector<Position> order = rows_in_text_order(set.rows, moment);
    walk(options, set, lane, rows, {order.data(), order.size()}, stays, nearest, moment, false);
    Vector<Position> backwards(order.rbegin(), order.rend(), order.get_allocator());
    walk(options, set, lane, rows, {backwards.data(), backwards.size()}, stays, nearest, moment, true);
    return nearest;
  }
  /// Along the rows `way`: each row that goes is compared with the last one that stays, until one is not alike.
  static void walk(const Options& options, const RowSet& set, const LaneView& lane, const detail::GoneAndKept& rows,
                   std::span<const Position> way, const Vector<unsigned char>& stays, detail::Nearest& nearest, const Moment& moment,
                   bool backwards) {
    const std::size_t width = lane.site.shape.key_width();
    Vector<float> target = numbers_of<float>(moment, width);
    Vector<float> own = numbers_of<float>(moment, width);
    bool alike = false;
    std::size_t kept = backwards ? rows.kept.size() : std::size_t{0} - 1;
    std::size_t gone = backwards ? rows.gone.size() : std::size_t{0} - 1;
    for (const Position row : way) {
      if (stays[row] != 0) {
        kept += backwards ? std::size_t{0} - 1 : 1;
        detail::read_key(set, lane, row, options.angle, target.data());
        detail::normalise(target.data(), width);
        alike = true;
        continue;
      }
      if (set.drop[row] == 0) {  // stays, but cannot be written
        alike = false;
        continue;
      }
      gone += backwards ? std::size_t{0} - 1 : 1;
      if (!alike) { continue; }
      detail::read_key(set, lane, row, options.angle, own.data());
      detail::normalise(own.data(), width);
      double cosine = 0.0;
      for (std::size_t c = 0; c < width; ++c) { cosine += static_cast<double>(own[c]) * static_cast<double>(target[c]); }
      alike = cosine >= options.threshold;
      const bool better = backwards ? static_cast<float>(cosine) > nearest.cosine[gone] : true;
      if (alike && better) {
        nearest.cosine[gone] = static_cast<float>(cosine);
        nearest.target[gone] = static_cast<Position>(kept);
      }
    }
  }
};

}  // namespace kvcompress
