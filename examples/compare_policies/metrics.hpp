// examples/compare_policies/metrics.hpp - how far a next-token distribution is from the exact one; all sums in double.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <vector>

namespace comparison {

/// log of the sum of e^logit
inline double log_sum_exp(std::span<const float> logits) {
  const double largest = static_cast<double>(*std::max_element(logits.begin(), logits.end()));
  double total = 0.0;
  for (const float logit : logits) { total += std::exp(static_cast<double>(logit) - largest); }
  return largest + std::log(total);
}

/// The token that greedy decoding takes; of equals the first.
inline std::size_t arg_max(std::span<const float> logits) {
  return static_cast<std::size_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

/// The exact model's distributions over the scored tokens of one window.
class Reference {
 public:
  Reference() = default;
  /// logits: (tokens, vocabulary)
  Reference(std::vector<float> logits, std::size_t vocabulary) : vocabulary_(vocabulary), logits_(std::move(logits)) {
    probabilities_.resize(logits_.size());
    for (std::size_t t = 0; t * vocabulary < logits_.size(); ++t) {
      log_sums_.push_back(log_sum_exp(this->logits(t)));
      for (std::size_t i = t * vocabulary; i < (t + 1) * vocabulary; ++i) {
        probabilities_[i] = static_cast<float>(std::exp(static_cast<double>(logits_[i]) - log_sums_[t]));
      }
    }
  }
  [[nodiscard]] std::size_t tokens() const noexcept { return log_sums_.size(); }
  [[nodiscard]] std::span<const float> logits(std::size_t token) const { return row(logits_, token); }
  [[nodiscard]] std::span<const float> probabilities(std::size_t token) const { return row(probabilities_, token); }
  [[nodiscard]] double log_sum(std::size_t token) const { return log_sums_[token]; }
  /// -log probability of `next` behind `token`
  [[nodiscard]] double loss(std::size_t token, std::size_t next) const {
    return log_sums_[token] - static_cast<double>(logits(token)[next]);
  }

 private:
  [[nodiscard]] std::span<const float> row(const std::vector<float>& all, std::size_t token) const {
    return std::span(all).subspan(token * vocabulary_, vocabulary_);
  }

  std::size_t vocabulary_ = 0;
  std::vector<float> logits_;         // (tokens, vocabulary)
  std::vector<float> probabilities_;  // (tokens, vocabulary)
  std::vector<double> log_sums_;      // (tokens)
};

/// What a policy's predictions add up to.
struct Agreement {
  std::size_t tokens = 0;
  std::size_t agreed = 0;  // both find the same token likeliest
  double loss = 0.0;       // sum of -log probability of the text's next token
  double kl = 0.0;         // sum of KL(exact || policy)

  /// Adds one prediction: `logits` against the reference's `token`, where the text goes on with `next`.
  void add(const Reference& reference, std::size_t token, std::span<const float> logits, std::size_t next) {
    const double log_sum = log_sum_exp(logits);
    const std::span<const float> exact = reference.logits(token);
    const std::span<const float> probabilities = reference.probabilities(token);
    double divergence = 0.0;
    for (std::size_t i = 0; i < logits.size(); ++i) {
      divergence += static_cast<double>(probabilities[i]) * (static_cast<double>(exact[i]) - static_cast<double>(logits[i]));
    }
    kl += std::max(0.0, divergence + log_sum - reference.log_sum(token));  // below 0 only by rounding
    loss += log_sum - static_cast<double>(logits[next]);
    agreed += arg_max(exact) == arg_max(logits) ? 1U : 0U;
    ++tokens;
  }
  void add(const Agreement& other) {
    tokens += other.tokens;
    agreed += other.agreed;
    loss += other.loss;
    kl += other.kl;
  }
  [[nodiscard]] double perplexity() const { return std::exp(per_token(loss)); }
  [[nodiscard]] double mean_kl() const { return per_token(kl); }
  [[nodiscard]] double top1() const { return per_token(static_cast<double>(agreed)); }

 private:
  [[nodiscard]] double per_token(double sum) const { return tokens == 0 ? 0.0 : sum / static_cast<double>(tokens); }
};

}  // namespace comparison
