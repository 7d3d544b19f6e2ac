// include/kvcompress/eviction/scorers/question_attention.hpp - FINCH's score: what the question at the end of a prompt looks at.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/eviction/scored.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Attention that the last `window` queries of a prompt, the question, give a row, over the query heads of the KV head. With `normalize` a query
/// counts by how many rows stood before it, for which it had to share its attention out. The question stays. Cost: window/tokens of the prompt's
/// attention; 4 bytes per row and lane.
///
/// Source: "FINCH: Prompt-guided Key-Value Cache Compression", NVIDIA/kvpress@8bb29b9c3078:finch_press.py. Its chunks are the selector
/// BestOfEachChunk. Deviation: kept rows keep their positions.
struct QuestionAttention : ScoredRows {
  static constexpr std::string_view name = "question_attention";
  static constexpr Needs may{Decides::once, Observes::last_prompt_queries};
  struct Options {
    std::size_t window = 32;  ///< tokens of the question, at least 1
    bool normalize = true;
    static void fields(auto& options, auto&& field) {
      field("window", options.window);
      field("normalize", options.normalize);
    }
  };
  /// Sums, and how many queries gave them.
  struct State : RowScores {
    using RowScores::RowScores;
    static void persist(auto& self, auto& archive, std::size_t count) {
      RowScores::persist(self, archive, count);
      archive.number(self.queries);
    }
    std::size_t queries = 0;
  };

  static void validate(const Options& options, const Shape&) { check_bounds("question_attention: window", options.window, 1); }
  static State state(const Options&, const Site&, const Memory& memory) { return State(1, memory); }
  static std::size_t window(const Options& options) noexcept { return options.window; }
  static std::size_t recent(const Options& options, std::size_t /*budget*/) noexcept { return options.window; }
  static void start(const Options&, State& state) noexcept {
    state.forget();
    state.queries = 0;
  }
  static void observe(const Options& options, State& state, std::size_t head, std::span<const float> probabilities) noexcept {
    state.queries += head == 0 ? 1U : 0U;
    const std::size_t before = state.rows() + state.queries - 1 - std::min(state.rows(), options.window);
    const auto weight = options.normalize ? static_cast<float>(before) : 1.0F;
    for (std::size_t r = 0; r < probabilities.size(); ++r) { state.set(r, 0, state.get(r, 0) + weight * probabilities[r]); }
  }
};

}  // namespace kvcompress
