// include/kvcompress/simd/scalar.hpp - the SIMD vocabulary in plain C++: the definition that every backend answers to.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

#include "kvcompress/core/half.hpp"
#include "kvcompress/core/math.hpp"

namespace kvcompress::simd::scalar {

/// Numbers in a vector.
inline constexpr std::size_t lanes = 8;

/// Eight floats as a value.
struct f32 {
  float v[lanes];
};

template <class Op>
inline f32 each(Op op) noexcept {
  f32 result{};
  for (std::size_t i = 0; i < lanes; ++i) { result.v[i] = op(i); }
  return result;
}

inline f32 set(float x) noexcept {
  return each([&](std::size_t) { return x; });
}
template <class T>
inline f32 load(const T* from) noexcept {
  return each([&](std::size_t i) { return static_cast<float>(from[i]); });
}
/// The first `count` numbers, zeros behind them; reads nothing beyond.
template <class T>
inline f32 load_first(const T* from, std::size_t count) noexcept {
  return each([&](std::size_t i) { return i < count ? static_cast<float>(from[i]) : 0.0F; });
}
template <class T>
inline void store(T* to, f32 x) noexcept {
  for (std::size_t i = 0; i < lanes; ++i) { to[i] = T(x.v[i]); }
}
inline f32 add(f32 a, f32 b) noexcept {
  return each([&](std::size_t i) { return a.v[i] + b.v[i]; });
}
inline f32 mul(f32 a, f32 b) noexcept {
  return each([&](std::size_t i) { return a.v[i] * b.v[i]; });
}
/// a * b + c, rounded once.
inline f32 fma(f32 a, f32 b, f32 c) noexcept {
  return each([&](std::size_t i) { return math::fma(a.v[i], b.v[i], c.v[i]); });
}
inline f32 max(f32 a, f32 b) noexcept {
  return each([&](std::size_t i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
/// e^x for x <= 0; exactly 0 below -87 and for -infinity.
inline f32 exp(f32 x) noexcept {
  return each([&](std::size_t i) { return x.v[i] < -87.0F ? 0.0F : math::exp(x.v[i]); });
}
inline float reduce_add(f32 x) noexcept {
  return ((x.v[0] + x.v[4]) + (x.v[2] + x.v[6])) + ((x.v[1] + x.v[5]) + (x.v[3] + x.v[7]));
}
inline float reduce_max(f32 x) noexcept {
  float result = x.v[0];
  for (std::size_t i = 1; i < lanes; ++i) { result = x.v[i] > result ? x.v[i] : result; }
  return result;
}

/// Eight codes of `Bits` bits from `Bits` bytes, little-endian, the first code in the lowest bits.
template <int Bits>
inline f32 unpack(const std::uint8_t* from) noexcept {
  std::uint64_t word = 0;
  for (std::size_t i = 0; i < Bits; ++i) { word |= static_cast<std::uint64_t>(from[i]) << (8 * i); }
  return each([&](std::size_t i) { return static_cast<float>(word >> (Bits * i) & ((1U << Bits) - 1U)); });
}

}  // namespace kvcompress::simd::scalar
