// include/kvcompress/eviction/scorers/largest_attention.hpp - KVCompose's score: the most that any query gives a row.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/eviction/decoded_rows.hpp"
#include "kvcompress/eviction/scored.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// The largest attention that a query has given a row, the mean over the query heads of the KV head, times the length of its value if asked; the mean
/// over the KV heads of the layer is added to it. Observes every query. Cost: a maximum per row and query; 4 * group bytes per row and lane.
///
/// Source: NVIDIA/kvpress@8bb29b9c3078:kvcompose_press.py, whose aggregations are "max", "mean", "mean". There the queries are those of prompts written
/// for a task; here those that the cache sees.
struct LargestAttention : ScoredRows {
  static constexpr std::string_view name = "largest_attention";
  static constexpr Needs may{.observes = Observes::every_query};
  struct Options {
    bool value_norm = false;  ///< times the length of the value
    bool head_mean = true;    ///< the mean over the heads is added
    static void fields(auto& options, auto&& field) {
      field("value_norm", options.value_norm);
      field("head_mean", options.head_mean);
    }
  };

  static std::size_t row_bytes(const Options&, const Shape& shape) noexcept { return RowScores::row_bytes(shape.group()); }
  static State state(const Options&, const Site& site, const Memory& memory) { return State(site.shape.group(), memory); }
  static void observe(const Options&, State& state, std::size_t head, std::span<const float> probabilities) noexcept {
    for (std::size_t r = 0; r < probabilities.size(); ++r) {
      if (probabilities[r] > state.get(r, head)) { state.set(r, head, probabilities[r]); }
    }
  }
  static std::span<const float> score(const Options& options, const LaneView& lane, const RowTable& rows, const Moment& moment,
                                      std::span<float> out) {
    const State& state = lane.state<State>();
    const std::size_t width = lane.site.shape.value_width();
    for (std::size_t r = 0; r < rows.rows(); ++r) {
      double sum = 0.0;
      for (std::size_t head = 0; head < state.columns(); ++head) { sum += static_cast<double>(state.get(r, head)); }
      out[r] = static_cast<float>(sum / static_cast<double>(state.columns()));
    }
    if (!options.value_norm) { return out; }
    for_each_value(lane, rows, moment, [&](std::size_t r, const float* value) {
      double square = 0.0;
      for (std::size_t c = 0; c < width; ++c) { square += static_cast<double>(value[c]) * static_cast<double>(value[c]); }
      out[r] = static_cast<float>(static_cast<double>(out[r]) * __builtin_sqrt(square));
    });
    return out;
  }
  /// Heads that hold other rows have nothing to add to each other.
  static void compare(const Options& options, std::span<RowSet> sets, std::span<const std::span<float>> scores, const Moment& moment) {
    const std::span<float> first = scores.front();
    for (std::size_t i = 1; i < sets.size(); ++i) {
      if (scores[i].size() != first.size() || sets[i].rows.live() != sets[0].rows.live()) { return; }
      for (std::size_t r = 0; r < first.size(); ++r) {
        if (sets[i].rows.position(r) != sets[0].rows.position(r)) { return; }
      }
    }
    if (!options.head_mean) { return; }
    Vector<double> sums = numbers_of<double>(moment, first.size());
    for (const std::span<float> own : scores) {
      for (std::size_t r = 0; r < own.size(); ++r) { sums[r] += static_cast<double>(own[r]) / static_cast<double>(scores.size()); }
    }
    for (const std::span<float> own : scores) {
      for (std::size_t r = 0; r < own.size(); ++r) { own[r] += static_cast<float>(sums[r]); }
    }
  }
};

}  // namespace kvcompress
