// include/kvcompress/kernels/softmax.hpp - exponentials of a row of logits, in fp32.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>

#include "kvcompress/core/math.hpp"
#include "kvcompress/kernels/vectors.hpp"
#include "kvcompress/simd/native.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::kernels {

inline constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

template <class T>
inline float largest_of(const T* x, std::size_t count) noexcept {
  namespace vec = simd::native;
  if (count < vec::lanes) {
    float result = minus_infinity;
    for (std::size_t i = 0; i < count; ++i) { result = std::max(result, static_cast<float>(x[i])); }
    return result;
  }
  vec::f32 top = vec::load(x + count - vec::lanes);  // some twice: no matter
  for (std::size_t i = 0; i + vec::lanes <= count; i += vec::lanes) { top = vec::max(top, vec::load(x + i)); }
  return vec::reduce_max(top);
}

/// to[i] = e^(x[i] - shift), for x[i] <= shift; returns their sum. `to` may be `x`.
inline float exponentials(const float* x, std::size_t count, float shift, float* to) noexcept {
  namespace vec = simd::native;
  const vec::f32 minus = vec::set(-shift);
  vec::f32 sum = vec::set(0.0F);
  std::size_t i = 0;
  for (; i + vec::lanes <= count; i += vec::lanes) {
    const vec::f32 e = vec::exp(vec::add(vec::load(x + i), minus));
    vec::store(to + i, e);
    sum = vec::add(sum, e);
  }
  if (i < count) {
    float rest[vec::lanes];
    std::fill(rest, rest + vec::lanes, minus_infinity);
    std::copy(x + i, x + count, rest);
    const vec::f32 e = vec::exp(vec::add(vec::load(rest), minus));
    vec::store(rest, e);
    sum = vec::add(sum, e);
    std::copy(rest, rest + (count - i), to + i);
  }
  return vec::reduce_add(sum);
}

/// The logarithm of the sum of e^x[i].
inline float log_sum_exp(const float* x, std::size_t count) noexcept {
  constexpr std::size_t at_once = 256;
  float powers[at_once];
  const float top = largest_of(x, count);
  float sum = 0.0F;
  for (std::size_t i = 0; i < count; i += at_once) { sum += exponentials(x + i, std::min(at_once, count - i), top, powers); }
  return top + math::log(sum);
}

/// to[i] = the largest x[q * stride + i] - shifts[q] of `rows` rows.
inline void largest_less_shift(const float* x, std::size_t stride, std::size_t rows, std::size_t count, const float* shifts,
                               float* to) noexcept {
  namespace vec = simd::native;
  for_vectors(count, [&](std::size_t i, auto part) {
    vec::f32 top = vec::set(minus_infinity);
    for (std::size_t q = 0; q < rows; ++q) { top = vec::max(top, vec::sub(part.load(x + q * stride + i), vec::set(shifts[q]))); }
    part.store(to + i, top);
  });
}

inline void multiply(float* x, std::size_t count, float factor) noexcept {
  namespace vec = simd::native;
  for_vectors(count, [&](std::size_t i, auto part) { part.store(x + i, vec::mul(part.load(x + i), vec::set(factor))); });
}

/// log(e^a + e^b).
inline float log_sum(float a, float b) noexcept {
  const float top = std::max(a, b);
  return top == minus_infinity ? top : top + math::log(math::exp(a - top) + math::exp(b - top));
}

/// x[i] += factor * y[i].
inline void add_multiple(float* x, const float* y, std::size_t count, float factor) noexcept {
  namespace vec = simd::native;
  for_vectors(count, [&](std::size_t i, auto part) { part.store(x + i, vec::fma(vec::set(factor), part.load(y + i), part.load(x + i))); });
}

/// x[i] = cap * tanh(x[i] / cap). Where x[i] is so small beside the cap that tanh rounds to its argument, x[i] stays as it is: the quotient
/// of a cap near the largest number would lose its digits.
inline void soft_cap(float* x, std::size_t count, float cap) noexcept {
  for (std::size_t i = 0; i < count; ++i) {
    const float ratio = x[i] / cap;
    if (math::abs(ratio) > 0x1p-13F) { x[i] = cap * math::tanh(ratio); }
  }
}

}  // namespace kvcompress::kernels
