// include/kvcompress/eviction/scorers/decayed_attention.hpp - attention that rows have received, old attention counting less.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/eviction/scored.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Sum of the attention that the last `window` queries of a prompt and every later query give a row, over the query heads of the KV head;
/// before a prompt and before every later token what was there is multiplied by `decay`. Cost: the prompt's attention times window/tokens, then
/// column sums in attend and a product per row; 4 bytes per row and lane.
///
/// Source: Zefan-Cai/KVCache-Factory@c97f9d706d63:pyramidkv/scissorhands.py, a port of "Scissorhands: Exploiting the Persistence of Importance
/// Hypothesis for LLM KV Cache Compression at Test Time", without its sampling. The paper counts how often a row's attention is below the average
/// and removes half of the budget at once, hence no policy here has its name; for the latter let `period` be half of the budget.
struct DecayedAttention : ScoredRows {
  static constexpr std::string_view name = "decayed_attention";
  static constexpr Needs may{.observes = Observes::last_queries};
  struct Options {
    std::size_t window = 400;  ///< queries of a prompt that count, at least 1
    double decay = 0.9;        ///< 0 to 1
    static void fields(auto& options, auto&& field) {
      field("window", options.window);
      field("decay", options.decay);
    }
  };
  /// Scores, and whether a prompt's queries are being shown.
  struct State : RowScores {
    using RowScores::RowScores;
    void decay(double by) noexcept {
      for (std::size_t r = 0; r < rows(); ++r) { set(r, 0, static_cast<float>(by * static_cast<double>(get(r, 0)))); }
    }
    static void persist(auto& self, auto& archive, std::size_t count) {
      RowScores::persist(self, archive, count);
      archive.number(self.in_prompt);
    }
    bool in_prompt = true;
  };

  static void validate(const Options& options, const Shape&) {
    check_bounds("decayed_attention: window", options.window, 1);
    require(options.decay >= 0.0 && options.decay <= 1.0, ErrorCode::option, "decayed_attention: decay is ", options.decay,
            ", must be 0 to 1");
  }
  static State state(const Options&, const Site&, const Memory& memory) { return State(1, memory); }
  static std::size_t window(const Options& options) noexcept { return options.window; }
  static constexpr std::size_t recent(const Options&, std::size_t /*budget*/) noexcept { return 1; }
  static void start(const Options& options, State& state) noexcept {
    state.decay(options.decay);
    state.in_prompt = true;
  }
  static void observe(const Options& options, State& state, std::size_t head, std::span<const float> probabilities) noexcept {
    if (head == 0 && !state.in_prompt) { state.decay(options.decay); }
    state.add(0, probabilities);
  }
  static std::span<const float> score(const Options&, const LaneView& lane, const RowTable&, const Moment& moment, std::span<float> out) {
    State& state = lane.state<State>();
    state.in_prompt = state.in_prompt && !moment.end_of_prompt;
    return state.largest_of_each(out);
  }
};

}  // namespace kvcompress
