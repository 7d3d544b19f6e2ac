// include/kvcompress/kernels/vectors.hpp - a row of any length in vectors, the last of which may be cut.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>

#include "kvcompress/simd/native.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::kernels {

/// How numbers of a row are read and written where a whole vector of them is left.
struct WholeVector {
  [[nodiscard]] simd::native::f32 load(const auto* from) const noexcept { return simd::native::load(from); }
  void store(auto* to, simd::native::f32 x) const noexcept { simd::native::store(to, x); }
};
/// The same where only `count` numbers are left: the others are read as 0, and not written.
struct RestOfVector {
  std::size_t count;

  [[nodiscard]] simd::native::f32 load(const auto* from) const noexcept { return simd::native::load_first(from, count); }
  void store(float* to, simd::native::f32 x) const noexcept {
    float numbers[simd::native::lanes];
    simd::native::store(numbers, x);
    std::copy_n(numbers, count, to);
  }
};

/// Calls visit(i, part) for the vectors of a row of `count` numbers; `part`, a WholeVector or at the end a RestOfVector, loads and stores those
/// from number i on.
template <class Visit>
inline void for_vectors(std::size_t count, Visit&& visit) noexcept {
  constexpr std::size_t lanes = simd::native::lanes;
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) { visit(i, WholeVector{}); }
  if (i < count) { visit(i, RestOfVector{count - i}); }
}

/// The sum of a row.
inline float sum_of(const float* x, std::size_t count) noexcept {
  simd::native::f32 sum = simd::native::set(0.0F);
  for_vectors(count, [&](std::size_t i, auto part) { sum = simd::native::add(sum, part.load(x + i)); });
  return simd::native::reduce_add(sum);
}

}  // namespace kvcompress::kernels
