// include/kvcompress/eviction/scorers/repeat_attention.hpp - KVzip's score: the most attention that a row gets when the prompt is repeated.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/eviction/decoded_rows.hpp"
#include "kvcompress/eviction/scored.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// The size of a value after the output projection of one query head, |W_o[:, head] v|_2, as an engine can compute it from weights in any form;
/// without a function, 1. What `context` points to must live as long as the caches that use it.
struct HeadNorm {
  double (*of)(const void* context, const Site& site, std::size_t head, std::span<const float> value) = nullptr;
  const void* context = nullptr;
};

/// The largest attention that any kept query (Record::kept) gives a row in any query head of the KV head, times the size of its value in that head, if
/// a norm is given. Nothing else is observed: prompts and decoding cost what they cost without an eviction. Cost: a maximum per row and kept query; 4
/// bytes per row and lane, with a norm 4 * group.
///
/// Source: "KVzip: Query-Agnostic KV Cache Compression with Context Reconstruction"; NVIDIA/kvpress@8bb29b9c3078:kvzip_press.py. How queries repeat a
/// prompt stands with KVzip. The sinks, which have the score 1 there, are Evict::Options::sinks.
struct RepeatAttention : ScoredRows {
  static constexpr std::string_view name = "repeat_attention";
  static constexpr Needs may{Decides::once, Observes::kept_queries};
  static constexpr std::size_t sinks = 4;  ///< that stay by default
  struct Options {
    HeadNorm norm{};  ///< KVzip+: its kept queries are shown with a log-sum-exp that has the logarithm of |hidden state| added
    static void fields(auto&, auto&&) {}
  };

  static std::size_t columns(const Options& options, const Shape& shape) noexcept { return options.norm.of != nullptr ? shape.group() : 1; }
  static std::size_t row_bytes(const Options& options, const Shape& shape) noexcept {
    return RowScores::row_bytes(columns(options, shape));
  }
  static State state(const Options& options, const Site& site, const Memory& memory) { return State(columns(options, site.shape), memory); }
  /// Queries that repeat another prompt are about to be observed.
  static void start(const Options&, State& state) noexcept { state.forget(); }
  static void observe(const Options&, State& state, std::size_t head, std::span<const float> probabilities) noexcept {
    const std::size_t column = state.columns() > 1 ? head : 0;
    for (std::size_t r = 0; r < probabilities.size(); ++r) {
      if (probabilities[r] > state.get(r, column)) { state.set(r, column, probabilities[r]); }
    }
  }
  static std::span<const float> score(const Options& options, const LaneView& lane, const RowTable& rows, const Moment& moment,
                                      std::span<float> out) {
    const State& state = lane.state<State>();
    if (options.norm.of == nullptr) { return state.largest_of_each(out); }
    std::fill(out.begin(), out.end(), 0.0F);
    for_each_value(lane, rows, moment, [&](std::size_t r, const float* value) {
      for (std::size_t head = 0; head < state.columns(); ++head) {
        const double norm = options.norm.of(options.norm.context, lane.site, head, {value, lane.site.shape.value_width()});
        out[r] = std::max(out[r], static_cast<float>(static_cast<double>(state.get(r, head)) * norm));
      }
    });
    return out;
  }
};

}  // namespace kvcompress
