// include/kvcompress/eviction/scorers/largest_window_attention.hpp - MPCache's score: the most that one of the last queries gives a row.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>

#include "kvcompress/core/bounds.hpp"
#include "kvcompress/eviction/decoded_rows.hpp"
#include "kvcompress/eviction/scored.hpp"
#include "kvcompress/eviction/scorers/window_probabilities.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// The largest attention that one of the last `window` queries of a prompt gives a row, the mean over all heads of the layer, whose lanes keep the same
/// rows.
///
/// Observes: the last queries of a prompt. Acts once, at its end. Bytes: window * group * 4 per row and lane until then, none afterwards. Drafts can be
/// taken back. Cost: window/tokens of the prompt's attention.
///
/// Source: the static step of "MPCache: MPC-Friendly KV Cache Eviction for Efficient Private LLM Inference"; zwxandy/MPCache@55e401b17db3:
/// llama_flash_attn_monkey_patch_compression.py, which observes the last fifth of a prompt. Deviations: there logits are not divided by the root of the
/// key width, and queries see later rows. What of the rows that stay a query reads is another part (see PageBounds).
struct LargestWindowAttention : ScoredRows {
  static constexpr std::string_view name = "largest_window_attention";
  static constexpr Needs may{Decides::once, Observes::last_prompt_queries, Scope::layer};
  struct Options {
    std::size_t window = 64;  ///< observing queries, 1 to 65536
    static void fields(auto& options, auto&& field) { field("window", options.window); }
  };
  using State = WindowProbabilities;

  static void validate(const Options& options, const Shape&) { check_bounds("largest_window_attention: window", options.window, 1, 65536); }
  static constexpr std::size_t row_bytes(const Options&, const Shape&) noexcept { return 0; }
  static State state(const Options& options, const Site& site, const Memory& memory) {
    return State(options.window * site.shape.group(), memory);
  }
  static std::size_t window(const Options& options) noexcept { return options.window; }
  static void start(const Options&, State& state) noexcept { state.forget(); }
  static void observe(const Options&, State& state, std::size_t /*head*/, std::span<const float> probabilities) {
    state.add(probabilities);
  }
  static std::span<const float> score(const Options&, const LaneView&, const RowTable&, const Moment&, std::span<float> out) {
    std::fill(out.begin(), out.end(), 0.0F);
    return out;
  }
  /// Here, since a query's attention is added up over the lanes before the largest is taken.
  static void join(const Options&, RowSet& set, std::span<float> scores, const Moment& moment) {
    const std::size_t group = set.lanes.front().site.shape.group();
    const std::size_t queries = set.lanes.front().state<State>().queries() / group;
    const double heads = static_cast<double>(group * set.lanes.size());
    Vector<double> means = numbers_of<double>(moment, scores.size());
    for (std::size_t q = 0; q < queries; ++q) {
      std::fill(means.begin(), means.end(), 0.0);
      for (const LaneView& lane : set.lanes) {
        for (std::size_t h = 0; h < group; ++h) {
          for (std::size_t r = 0; r < means.size(); ++r) {
            means[r] += static_cast<double>(lane.state<State>().get(r, q * group + h)) / heads;
          }
        }
      }
      for (std::size_t r = 0; r < means.size(); ++r) { scores[r] = std::max(scores[r], static_cast<float>(means[r])); }
    }
    for (const LaneView& lane : set.lanes) { lane.state<State>().forget(); }
  }
};

}  // namespace kvcompress
