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

/// The length of the difference over the length of what is expected. What is no number is infinitely far.
inline double relative_error(std::span<const float> got, std::span<const double> expected) {
  double apart = 0.0;
  double size = 0.0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double difference = static_cast<double>(got[i]) - expected[i];
    apart += difference * difference;
    size += expected[i] * expected[i];
  }
  return apart <= std::numeric_limits<double>::max() ? std::sqrt(apart / size) : std::numeric_limits<double>::infinity();
}

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

/// Of the worst of the verified heads.
inline Errors errors_of(Competitor& competitor, const Data& data) {
  const std::size_t dim = data.of().head_dim;
  std::vector<float> query(dim);
  Errors worst;
  for (const std::size_t head : verified_heads(data.of())) {
    competitor.query(data, head, query.data());
    const auto got = competitor.output().subspan(head * dim, dim);
    worst.kernel = std::max(worst.kernel,
                            relative_error(got, attention(query.data(), dim, [&](auto&& visit) { competitor.rows(data, head, visit); })));
    worst.output = std::max(worst.output, relative_error(got, attention(query.data(), dim, [&](auto&& visit) {
                                                           competitor.Competitor::rows(data, head, visit);  // the uncompressed ones
                                                         })));
  }
  return worst;
}

}  // namespace bench
