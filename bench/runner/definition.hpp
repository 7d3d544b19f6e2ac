// bench/runner/definition.hpp - attention of one query in double, and how far an output is from it.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "runner/competitor.hpp"

namespace bench {

/// softmax(q . k / sqrt(dim)) over the visited rows, times their values. One pass: a new maximum shrinks what was summed before.
template <class ForRows>
std::vector<double> attention(const float* query, std::size_t dim, ForRows&& for_rows) {
  std::vector<double> out(dim);
  double sum = 0.0;
  double largest = -std::numeric_limits<double>::infinity();
  for_rows([&](const float* key, const float* value) {
    double logit = 0.0;
    for (std::size_t c = 0; c < dim; ++c) { logit += static_cast<double>(query[c]) * static_cast<double>(key[c]); }
    logit /= std::sqrt(static_cast<double>(dim));
    if (logit > largest) {
      const double shrink = std::exp(largest - logit);
      sum *= shrink;
      for (double& x : out) { x *= shrink; }
      largest = logit;
    }
    const double weight = std::exp(logit - largest);
    sum += weight;
    for (std::size_t c = 0; c < dim; ++c) { out[c] += weight * static_cast<double>(value[c]); }
  });
  for (double& x : out) { x /= sum; }
  return out;
}

/// How far outputs are from what is expected: the length of the difference over the length of what is expected, of all of them together.
class RelativeError {
 public:
  void add(std::span<const float> got, std::span<const double> expected) {
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const double difference = static_cast<double>(got[i]) - expected[i];
      apart_ += difference * difference;
      size_ += expected[i] * expected[i];
    }
  }
  /// What is no number is infinitely far.
  [[nodiscard]] double value() const {
    return apart_ <= std::numeric_limits<double>::max() ? std::sqrt(apart_ / size_) : std::numeric_limits<double>::infinity();
  }

 private:
  double apart_ = 0.0;
  double size_ = 0.0;
};

/// The query heads that are verified: all where contexts are short, at least two of them.
inline std::vector<std::size_t> verified_heads(const Case& c) {
  const std::size_t count = std::clamp<std::size_t>((std::size_t{1} << 16U) / c.context, 2, c.query_heads);
  std::vector<std::size_t> heads(count);
  for (std::size_t i = 0; i < count; ++i) { heads[i] = i * (c.query_heads - 1) / (count - 1); }
  return heads;
}

struct Errors {
  double kernel = 0.0;  ///< against the rows as the competitor decodes them
  double output = 0.0;  ///< against the rows as they were
};

inline Errors errors_of(Competitor& competitor, const Data& data) {
  const std::size_t dim = data.of().head_dim;
  std::vector<float> query(dim);
  RelativeError kernel;
  RelativeError output;
  for (const std::size_t head : verified_heads(data.of())) {
    competitor.query(data, head, query.data());
    const auto got = competitor.output().subspan(head * dim, dim);
    kernel.add(got, attention(query.data(), dim, [&](auto&& visit) { competitor.rows(data, head, visit); }));
    output.add(got, attention(query.data(), dim, [&](auto&& visit) {
      competitor.Competitor::rows(data, head, visit);  // the uncompressed ones
    }));
  }
  return {kernel.value(), output.value()};
}

}  // namespace bench
