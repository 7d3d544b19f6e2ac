// include/kvcompress/attention/partial.hpp - attention over a part of the rows, and how parts become attention over all of them.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>

#include "kvcompress/core/math.hpp"
#include "kvcompress/kernels/softmax.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Attention of some queries over rows of their own: a prefix that caches share, what another machine holds, a state that stands for rows. It is
/// what attend gives with AttendOptions::log_sum_exp. The order in which parts are merged moves the last digit; one order, one result.
struct Partial {
  const float* log_sum_exp = nullptr;  ///< (tokens, query heads); -infinity where a query sees nothing
  const float* output = nullptr;       ///< (tokens, query heads, value width)
};

/// Merges two parts of `queries` = tokens * query heads queries: their log-sum-exp over the rows of both, and its output. The results may
/// be written over those of `a`. Cost: two exponentials and 2 * value_width operations per query.
inline void merge(const Partial& a, const Partial& b, std::size_t queries, std::size_t value_width, float* log_sum_exp,
                  float* output) noexcept {
  for (std::size_t q = 0; q < queries; ++q) {
    const float of_a = a.log_sum_exp[q];
    const float of_b = b.log_sum_exp[q];
    const float top = std::max(of_a, of_b);
    const bool none = top == kernels::minus_infinity;
    const float weight_a = none ? 0.0F : math::exp(of_a - top);
    const float weight_b = none ? 0.0F : math::exp(of_b - top);
    const float sum = none ? 1.0F : weight_a + weight_b;
    for (std::size_t c = 0; c < value_width; ++c) {
      const std::size_t i = q * value_width + c;
      output[i] = (weight_a * a.output[i] + weight_b * b.output[i]) / sum;
    }
    log_sum_exp[q] = none ? top : top + math::log(sum);
  }
}

}  // namespace kvcompress
