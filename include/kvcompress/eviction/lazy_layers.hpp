// include/kvcompress/eviction/lazy_layers.hpp - SimLayerKV's rule: layers that look at the ends of the text only keep only these.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/eviction/scored.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// At the end of a prompt a layer is lazy if its last `last` queries, over all of its heads, give more than `threshold` of their attention to the
/// `first_rows` oldest rows and, but for their own rows, to the `recent` newest. A lazy layer keeps the oldest and `recent` - `last` newest rows, the
/// others keep all; so does a prompt of less than first_rows + recent rows. Rows decoded later stay. Has no budget: how much stays depends on
/// the text. Cost: the attention of the last queries, once; 4 bytes per row and lane.
///
/// Source: "SimLayerKV: A Simple Framework for Layer-Level KV Cache Reduction"; NVIDIA/kvpress@8bb29b9c3078:simlayerkv_press.py. Rows that are both among
/// the oldest and the newest count once.
struct LazyLayers : ScoredRows {
  static constexpr std::string_view name = "lazy_layers";
  static constexpr Needs may{Decides::once, Observes::last_prompt_queries, Scope::layer};
  struct Options {
    double threshold = 0.9;      ///< 0 to 1; there it depends on the model
    std::size_t first_rows = 4;  ///< sinks
    std::size_t recent = 1024;   ///< newest rows, more than `last`
    std::size_t last = 1;        ///< observing queries, at least 1
    static void fields(auto& options, auto&& field) {
      field("threshold", options.threshold);
      field("first_rows", options.first_rows);
      field("recent", options.recent);
      field("last", options.last);
    }
  };

  static void validate(const Options& options, const Shape&) {
    require(options.threshold >= 0.0 && options.threshold <= 1.0, ErrorCode::option, "lazy_layers: threshold is ", options.threshold,
            ", must be 0 to 1");
    check_bounds("lazy_layers: first_rows", options.first_rows);
    check_bounds("lazy_layers: last", options.last, 1);
    check_bounds("lazy_layers: recent", options.recent, options.last + 1);
  }
  static std::size_t window(const Options& options) noexcept { return options.last; }
  static void start(const Options&, State& state) noexcept { state.forget(); }
  static void observe(const Options&, State& state, std::size_t /*head*/, std::span<const float> probabilities) noexcept {
    state.add(0, probabilities);
  }

  static void select(const Options& options, std::span<RowSet> sets, const Moment& moment) {
    for (RowSet& set : sets) {
      const std::size_t live = set.rows.live();
      if (!moment.end_of_prompt || live < options.first_rows + options.recent || mass_at_the_ends(options, set) <= options.threshold) {
        continue;
      }
      set.sort_rows();
      for (std::size_t i = options.first_rows; i + options.recent < live + options.last; ++i) { set.drop[set.order[i]] = 1; }
    }
  }
  /// The share of the attention that the rows at both ends get.
  static double mass_at_the_ends(const Options& options, RowSet& set) {
    set.sort_rows();
    const std::size_t others = set.order.size() - std::min(set.order.size(), options.last);
    double ends = 0.0;
    double all = 0.0;
    for (const LaneView& lane : set.lanes) {
      for (std::size_t i = 0; i < set.order.size(); ++i) {
        const auto mass = static_cast<double>(lane.state<State>().get(set.order[i], 0));
        all += mass;
        if (i < others && (i < options.first_rows || i + options.recent >= others)) { ends += mass; }
      }
    }
    return all > 0.0 ? ends / all : 0.0;
  }
};

}  // namespace kvcompress
