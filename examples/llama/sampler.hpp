// examples/llama/sampler.hpp - chooses the next token from the logits.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <random>
#include <span>
#include <vector>

#include "error.hpp"
#include "vocabulary.hpp"

namespace llama {

/// Greedy at temperature 0, where top_p and seed have no say.
struct Sampling {
  double temperature = 0.0;
  double top_p = 1.0;  // keep the fewest likeliest tokens that together reach this probability
  std::uint64_t seed = 1;
};

/// The likeliest token; the first of equals.
inline Token greedy(std::span<const float> logits) {
  return static_cast<Token>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

/// Draws tokens; the same seed gives the same draws on every machine.
class Sampler {
 public:
  explicit Sampler(const Sampling& sampling) : sampling_(sampling), random_(sampling.seed) {
    if (!(sampling.temperature >= 0.0 && sampling.temperature <= 1000.0)) {
      fail("temperature is {}; it must be 0 to 1000.", sampling.temperature);
    }
    if (!(sampling.top_p > 0.0 && sampling.top_p <= 1.0)) { fail("top_p is {}; it must be above 0 and at most 1.", sampling.top_p); }
  }

  Token pick(std::span<const float> logits) {
    if (logits.empty() || !std::all_of(logits.begin(), logits.end(), [](float x) { return std::isfinite(x); })) {
      fail("The logits are not all finite numbers: the weights of the model are damaged.");
    }
    const Token best = greedy(logits);
    if (sampling_.temperature == 0.0) { return best; }
    weights_.resize(logits.size());
    const auto largest = static_cast<double>(logits[best]);
    for (std::size_t i = 0; i < logits.size(); ++i) {
      weights_[i] = std::exp((static_cast<double>(logits[i]) - largest) / sampling_.temperature);
    }
    order_.resize(logits.size());
    std::iota(order_.begin(), order_.end(), Token{0});
    if (sampling_.top_p < 1.0) {
      std::stable_sort(order_.begin(), order_.end(), [&](Token a, Token b) { return weights_[a] > weights_[b]; });
    }
    const double all = std::accumulate(weights_.begin(), weights_.end(), 0.0);
    std::size_t kept = 0;
    double total = 0.0;
    while (kept < order_.size() && (kept == 0 || sampling_.top_p >= 1.0 || total < sampling_.top_p * all)) {
      total += weights_[order_[kept++]];
    }
    double left = static_cast<double>(random_() >> 11U) * 0x1p-53 * total;  // uniform in [0, total)
    for (std::size_t i = 0; i + 1 < kept; ++i) {
      left -= weights_[order_[i]];
      if (left < 0.0) { return order_[i]; }
    }
    return order_[kept - 1];
  }

 private:
  Sampling sampling_;
  std::mt19937_64 random_;
  std::vector<double> weights_;  // (vocabulary)
  std::vector<Token> order_;     // (vocabulary) likeliest first when top_p asks for it
};

}  // namespace llama
