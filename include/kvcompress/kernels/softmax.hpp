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

/// x[i] = cap * tanh(x[i] / cap), within 5e-7 relative: tanh(r) = r P(r^2) / Q(r^2), a rational approximation of our own, 2.1e-8 off before
/// rounding; beyond 9 it is 1 within 3.1e-8. x is multiplied by the quotient, which is 1 where the ratio vanishes: that of a cap near the
/// largest number has lost its digits.
inline void soft_cap(float* x, std::size_t count, float cap) noexcept {
  namespace vec = simd::native;
  constexpr float p[] = {1.341957924e-8F, 2.066106922e-5F, 3.498983603e-3F, 1.338396958e-1F, 1.0F};
  constexpr float q[] = {7.804624607e-7F, 3.291018462e-4F, 2.589015828e-2F, 4.671729106e-1F, 1.0F};
  const vec::f32 most = vec::set(9.0F);
  for_vectors(count, [&](std::size_t i, auto part) {
    const vec::f32 number = part.load(x + i);
    const vec::f32 ratio = vec::div(number, vec::set(cap));
    const vec::f32 inside = vec::max(vec::min(ratio, most), vec::sub(vec::set(0.0F), most));
    const vec::f32 square = vec::mul(inside, inside);
    vec::f32 over = vec::set(p[0]);
    vec::f32 under = vec::set(q[0]);
#pragma GCC unroll 4
    for (std::size_t k = 1; k < 5; ++k) {
      over = vec::fma(over, square, vec::set(p[k]));
      under = vec::fma(under, square, vec::set(q[k]));
    }
    const vec::f32 bound = vec::mul(most, vec::set(cap));  // infinite for the largest caps, which cut nothing
    const vec::f32 cut = vec::max(vec::min(number, bound), vec::sub(vec::set(0.0F), bound));
    part.store(x + i, vec::mul(cut, vec::div(over, under)));
  });
}

}  // namespace kvcompress::kernels
