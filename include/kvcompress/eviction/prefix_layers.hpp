// include/kvcompress/eviction/prefix_layers.hpp - PrefixKV's rule: each layer keeps its own share of the rows, by attention.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/core/loaded_numbers.hpp"
#include "kvcompress/core/math.hpp"
#include "kvcompress/eviction/scored.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// At the end of a prompt a layer drops its share of the rows: those with the least attention over all queries and heads of the layer, but for the
/// oldest and the newest. Later, while it holds more than its share of all tokens, a commit drops the row that stands `distance` before the place where
/// the prompt's rows ended. Has no budget: the shares say how much stays (see prefix_profile). Observes every query. Cost: column sums in attend; O(rows)
/// per commit; 4 bytes per row and lane.
///
/// Source: "PrefixKV: Adaptive Prefix KV Cache is What Vision Instruction-Following Models Need for Efficient Generation";
/// THU-MIG/PrefixKV@39b726562bc6:prefixkv.py.
struct PrefixLayers : ScoredRows {
  static constexpr std::string_view name = "prefix_layers";
  static constexpr Needs may{.observes = Observes::every_query, .agrees = Scope::layer};
  struct Options {
    LoadedNumbers removed{};     ///< (layers): the share of its rows that each drops, 0 to 1
    std::size_t first_rows = 4;  ///< oldest rows that stay
    std::size_t distance = 25;   ///< of the row that goes from the end of the prompt's
    static void fields(auto& options, auto&& field) {
      field("first_rows", options.first_rows);
      field("distance", options.distance);
    }
    static void unnamed_fields(auto& options, auto&& field) { field("removed", options.removed); }
  };

  static void validate(const Options& options, const Shape& shape) {
    require(options.removed.size() == shape.layers, ErrorCode::option, "prefix_layers: removed has ", options.removed.size(),
            " numbers, must have one for each of ", shape.layers, " layers");
    for (const float share : options.removed.all()) {
      require(share >= 0.0F && share <= 1.0F, ErrorCode::option, "prefix_layers: removed has ", share, ", must be 0 to 1");
    }
    check_bounds("prefix_layers: first_rows", options.first_rows);
    check_bounds("prefix_layers: distance", options.distance);
  }
  static void observe(const Options&, State& state, std::size_t /*head*/, std::span<const float> probabilities) noexcept {
    state.add(0, probabilities);
  }

  static void select(const Options& options, std::span<RowSet> sets, const Moment& moment) {
    for (RowSet& set : sets) {
      const auto share = static_cast<double>(options.removed.all()[set.lanes.front().site.layer]);
      moment.end_of_prompt ? select_prompt(options, set, share) : select_decoded(options, set, share, moment);
    }
  }

 private:
  /// Of so many rows of a prompt.
  static std::size_t kept_of(std::size_t rows, double share) noexcept {
    return rows - std::min(rows, static_cast<std::size_t>(math::round_half_even(share * static_cast<double>(rows))));
  }
  static void select_prompt(const Options& options, RowSet& set, double share) {
    const std::size_t kept = std::max(kept_of(set.rows.live(), share), options.first_rows + 1);
    set.keep_best(kept, {options.first_rows, 1}, [&](std::size_t row) {
      double sum = 0.0;
      for (const LaneView& lane : set.lanes) { sum += static_cast<double>(lane.state<State>().get(row, 0)); }
      return sum;
    });
  }
  static void select_decoded(const Options& options, RowSet& set, double share, const Moment& moment) {
    const std::size_t live = set.rows.live();
    if (live == 0) { return; }
    const double tokens = static_cast<double>(set.newest(0)) + 1.0 - static_cast<double>(moment.padding);
    if (static_cast<double>(live) + 1e-5 < tokens * (1.0 - share) + 1.0) { return; }
    const std::size_t kept = kept_of(moment.prompt_tokens - moment.padding, share);
    const std::size_t place = kept > options.distance ? kept - options.distance : std::max<std::size_t>(1, kept / 2);
    if (place >= live) { return; }
    const Position goes = set.oldest(place);
    for (std::size_t r = 0; r < set.rows.rows(); ++r) { set.drop[r] = set.rows.position(r) == goes ? 1 : 0; }
  }
};

}  // namespace kvcompress
