// include/kvcompress/eviction/scorers/noisy_attention.hpp - Keyformer's score: attention with Gumbel noise on its logits, ever warmer.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/core/math.hpp"
#include "kvcompress/eviction/scored.hpp"
#include "kvcompress/eviction/scorers/gumbel_noise.hpp"
#include "kvcompress/eviction/scorers/noisy_scores.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Sum over all queries since the row was written of softmax((logit + noise) / temperature), over the query heads of the KV head. The temperature
/// is its first value during a prompt and rises with every token after it. Logits are those that give the probabilities, but for a constant,
/// which a softmax does not see. Observes every query. Cost: a logarithm and an exponential per row and query, two logarithms more of the
/// noise; 8 bytes per row and lane.
///
/// Source: "Keyformer: KV Cache Reduction through Key Tokens Selection for Efficient Generative Inference";
/// d-matrix-ai/keyformer-llm@f327831056a9:models/cerebras-keyformer-lib/modeling_gpt2.py. Deviations: there the row that leaves the recent ones is
/// dropped, whatever it scores, so that no generated row can become a key row; here it competes. The tokens of a later prompt count as decoded ones.
template <class Noise = GumbelNoise>
struct NoisyAttention : ScoredRows {
  static constexpr std::string_view name = "noisy_attention";
  static constexpr Needs may{.observes = Observes::every_query};
  struct Options {
    double temperature = 1.0;        ///< of the prompt, 0.01 to 1000
    double temperature_step = 0.01;  ///< added by every token after it, 0 to 1000
    std::size_t seed = 1;            ///< of the noise
    static void fields(auto& options, auto&& field) {
      field("temperature", options.temperature);
      field("temperature_step", options.temperature_step);
      field("seed", options.seed);
    }
  };
  using State = NoisyScores<Noise>;

  static void validate(const Options& options, const Shape&) {
    require(options.temperature >= 0.01 && options.temperature <= 1000.0, ErrorCode::option, "noisy_attention: temperature is ",
            options.temperature, ", must be 0.01 to 1000");
    require(options.temperature_step >= 0.0 && options.temperature_step <= 1000.0, ErrorCode::option,
            "noisy_attention: temperature_step is ", options.temperature_step, ", must be 0 to 1000");
  }
  static constexpr std::size_t row_bytes(const Options&, const Shape&) noexcept { return 2 * RowScores::row_bytes(1); }
  static State state(const Options& options, const Site& site, const Memory& memory) { return State(options.seed, site, memory); }
  static constexpr std::size_t recent(const Options&, std::size_t budget) noexcept { return std::max<std::size_t>(1, budget * 3 / 10); }

  static void observe(const Options& options, State& state, std::size_t head, std::span<const float> probabilities) noexcept {
    if (head == 0 && !state.in_prompt) { ++state.tokens; }
    const auto cold = static_cast<float>(1.0 / (options.temperature + static_cast<double>(state.tokens) * options.temperature_step));
    const std::span<float> weights(state.weights.data(), probabilities.size());
    float largest = -3.4e38F;
    for (std::size_t r = 0; r < weights.size(); ++r) {
      const float p = probabilities[r];
      weights[r] = p > 0.0F ? (math::log(p) + state.noise(state.queries, r)) * cold : -3.4e38F;
      largest = std::max(largest, weights[r]);
    }
    double sum = 0.0;
    for (float& weight : weights) { sum += static_cast<double>(weight = math::exp(weight - largest)); }
    const auto scale = static_cast<float>(1.0 / sum);
    for (float& weight : weights) { weight *= scale; }
    state.add(0, weights);
    ++state.queries;
  }
  static std::span<const float> score(const Options&, const LaneView& lane, const RowTable&, const Moment& moment, std::span<float> out) {
    State& state = lane.state<State>();
    state.in_prompt = state.in_prompt && !moment.end_of_prompt;
    return state.largest_of_each(out);
  }
};

}  // namespace kvcompress
