// include/kvcompress/kernels/hadamard.hpp - the Walsh-Hadamard transform of a run of numbers.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstring>

#include "kvcompress/core/abi.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::kernels {

/// x becomes H x, not normalised, in the natural order; `n` is a power of two. H is its own inverse up to a factor of n. The same bits on every
/// machine: each number is made by the same additions.
inline void walsh_hadamard(float* x, std::size_t n) noexcept {
  using Eight = float __attribute__((vector_size(32)));
  if (n < 8) {
    for (std::size_t half = 1; half < n; half *= 2) {
      for (std::size_t i = 0; i < n; ++i) {
        if ((i & half) != 0) { continue; }
        const float a = x[i];
        const float b = x[i + half];
        x[i] = a + b;
        x[i + half] = a - b;
      }
    }
    return;
  }
  const Eight ones{1, -1, 1, -1, 1, -1, 1, -1};
  const Eight twos{1, 1, -1, -1, 1, 1, -1, -1};
  const Eight fours{1, 1, 1, 1, -1, -1, -1, -1};
  for (std::size_t i = 0; i < n; i += 8) {
    Eight a;
    std::memcpy(&a, x + i, sizeof a);
    a = a * ones + __builtin_shufflevector(a, a, 1, 0, 3, 2, 5, 4, 7, 6);
    a = a * twos + __builtin_shufflevector(a, a, 2, 3, 0, 1, 6, 7, 4, 5);
    a = a * fours + __builtin_shufflevector(a, a, 4, 5, 6, 7, 0, 1, 2, 3);
    std::memcpy(x + i, &a, sizeof a);
  }
  for (std::size_t half = 8; half < n; half *= 2) {
    for (std::size_t first = 0; first < n; first += 2 * half) {
      for (std::size_t i = first; i < first + half; i += 8) {
        Eight a;
        Eight b;
        std::memcpy(&a, x + i, sizeof a);
        std::memcpy(&b, x + i + half, sizeof b);
        const Eight sum = a + b;
        const Eight difference = a - b;
        std::memcpy(x + i, &sum, sizeof sum);
        std::memcpy(x + i + half, &difference, sizeof difference);
      }
    }
  }
}

}  // namespace kvcompress::kernels
