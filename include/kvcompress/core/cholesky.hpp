// include/kvcompress/core/cholesky.hpp - small systems with positive definite matrices, in double.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>

#include "kvcompress/core/math.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::cholesky {

/// The lower half of a positive definite matrix (order, order) becomes its factor.
inline void factor(double* matrix, std::size_t order) noexcept {
  for (std::size_t j = 0; j < order; ++j) {
    for (std::size_t i = j; i < order; ++i) {
      double sum = matrix[i * order + j];
      for (std::size_t c = 0; c < j; ++c) { sum -= matrix[i * order + c] * matrix[j * order + c]; }
      matrix[i * order + j] = i == j ? math::sqrt(std::max(sum, 1e-300)) : sum / matrix[j * order + j];
    }
  }
}
/// Solves factor * y = x in place; the squared length of y, which is x^T matrix^-1 x.
inline double solved_square(const double* lower, double* x, std::size_t order) noexcept {
  double sum = 0.0;
  for (std::size_t j = 0; j < order; ++j) {
    for (std::size_t c = 0; c < j; ++c) { x[j] -= lower[j * order + c] * x[c]; }
    x[j] /= lower[j * order + j];
    sum += x[j] * x[j];
  }
  return sum;
}

}  // namespace kvcompress::cholesky
