// include/kvcompress/quantization/gear/power_iteration.hpp - a low-rank factorisation by power iteration, in double.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kvcompress/core/abi.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::gear {

/// A small generator of uniform numbers (splitmix64): the same on every machine.
class Uniform {
 public:
  explicit Uniform(std::uint64_t seed) noexcept : state_(seed) {}
  /// The next number of [0, 1).
  double operator()() noexcept {
    std::uint64_t z = state_ += 0x9E37'79B9'7F4A'7C15U;
    z = (z ^ (z >> 30U)) * 0xBF58'476D'1CE4'E5B9U;
    z = (z ^ (z >> 27U)) * 0x94D0'49BB'1331'11EBU;
    return static_cast<double>((z ^ (z >> 31U)) >> 11U) * 0x1p-53;
  }

 private:
  std::uint64_t state_;
};

/// a . b in eight partial sums, so that compilers may use vectors.
template <class T>
inline double dot(const T* a, const double* b, std::size_t count) noexcept {
  double sums[8] = {};
  std::size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    for (std::size_t lane = 0; lane < 8; ++lane) { sums[lane] += static_cast<double>(a[i + lane]) * b[i + lane]; }
  }
  for (; i < count; ++i) { sums[0] += static_cast<double>(a[i]) * b[i]; }
  return ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
}

/// Makes the `rank` vectors of `length` numbers orthonormal, in place, by Gram-Schmidt applied twice. A vector that depends on those before
/// it becomes zero: what it spanned is spanned already.
inline void orthonormalise(double* vectors, std::size_t rank, std::size_t length) noexcept {
  for (std::size_t j = 0; j < rank; ++j) {
    double* vector = vectors + j * length;
    double before = 0.0;
    double norm = __builtin_sqrt(dot(vector, vector, length));
    for (int pass = 0; pass < 2; ++pass) {
      before = norm;
      for (std::size_t i = 0; i < j; ++i) {
        const double part = dot(vectors + i * length, vector, length);
        for (std::size_t t = 0; t < length; ++t) { vector[t] -= part * vectors[i * length + t]; }
      }
      norm = __builtin_sqrt(dot(vector, vector, length));
    }
    const double factor = norm > 0.5 * before && norm > 1e-150 ? 1.0 / norm : 0.0;  // else only rounding errors are left
    for (std::size_t t = 0; t < length; ++t) { vector[t] *= factor; }
  }
}

/// sums[c] += factors[r] * rows[r][c], row after row.
template <std::size_t Rows>
inline void add_rows(const float* rows, const double* factors, std::size_t dim, double* sums) noexcept {
  for (std::size_t c = 0; c < dim; ++c) {
    double sum = sums[c];
#pragma GCC unroll 4
    for (std::size_t r = 0; r < Rows; ++r) { sum += factors[r] * static_cast<double>(rows[r * dim + c]); }
    sums[c] = sum;
  }
}

/// e (rows, dim) is about the sum over j < rank of q_j p_j^T, where the q_j, (rank, rows), are orthonormal and p = e^T q, (rank, dim): a
/// projection, so the rest is never larger than e. At entry `p` holds the start. Rank at most min(rows, dim). Many sweeps orthonormalise in
/// between (the span is the same), since powers of e lose the small directions.
///
/// Cost: 4 * sweeps * rows * dim * rank FLOP. Measured on Zen 3 with GCC 12, 20 rows of 128, rank 2: 4.9 us, 5.4 row by row. Two rows and two vectors
/// at once in both steps, with explicit vectors: 4.3, for 60 lines; as plain loops, of which GCC makes no vectors, 8.6.
inline void power_iteration(const float* e, std::size_t rows, std::size_t dim, std::size_t rank, std::size_t sweeps, double* p,
                            double* q) noexcept {
  for (std::size_t sweep = 1; sweep <= sweeps; ++sweep) {
    const bool last = sweep == sweeps;
    if (last || sweeps > 3) { orthonormalise(p, rank, dim); }
    for (std::size_t t = 0; t < rows; ++t) {
      for (std::size_t j = 0; j < rank; ++j) { q[j * rows + t] = dot(e + t * dim, p + j * dim, dim); }
    }
    if (last || sweeps > 3) { orthonormalise(q, rank, rows); }
    std::fill_n(p, rank * dim, 0.0);
    constexpr std::size_t at_once = 4;  // rows, for which a sum is loaded and stored once
    std::size_t t = 0;
    for (; t + at_once <= rows; t += at_once) {
      for (std::size_t j = 0; j < rank; ++j) { add_rows<at_once>(e + t * dim, q + j * rows + t, dim, p + j * dim); }
    }
    for (; t < rows; ++t) {
      for (std::size_t j = 0; j < rank; ++j) { add_rows<1>(e + t * dim, q + j * rows + t, dim, p + j * dim); }
    }
  }
}

}  // namespace kvcompress::gear
