// include/kvcompress/simd/scalar.hpp - the SIMD vocabulary in plain C++: the definition that every backend answers to.
// SPDX-License-Identifier: MIT
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "kvcompress/core/half.hpp"
#include "kvcompress/core/math.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::simd::scalar {

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
/// Loaded once, into a register: compilers repeat a load for every use that can read memory.
inline f32 keep(f32 x) noexcept { return x; }
template <class T>
inline void store(T* to, f32 x) noexcept {
  for (std::size_t i = 0; i < lanes; ++i) { to[i] = T(x.v[i]); }
}
inline f32 sub(f32 a, f32 b) noexcept {
  return each([&](std::size_t i) { return a.v[i] - b.v[i]; });
}
inline f32 add(f32 a, f32 b) noexcept {
  return each([&](std::size_t i) { return a.v[i] + b.v[i]; });
}
inline f32 mul(f32 a, f32 b) noexcept {
  return each([&](std::size_t i) { return a.v[i] * b.v[i]; });
}
inline f32 div(f32 a, f32 b) noexcept {
  return each([&](std::size_t i) { return a.v[i] / b.v[i]; });
}
/// a * b + c, rounded once.
inline f32 fma(f32 a, f32 b, f32 c) noexcept {
  return each([&](std::size_t i) { return math::fma(a.v[i], b.v[i], c.v[i]); });
}
inline f32 max(f32 a, f32 b) noexcept {
  return each([&](std::size_t i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline f32 min(f32 a, f32 b) noexcept {
  return each([&](std::size_t i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline f32 abs(f32 x) noexcept {
  return each([&](std::size_t i) { return math::abs(x.v[i]); });
}
/// e^x for x <= 0; exactly 0 below -87 and for -infinity.
inline f32 exp(f32 x) noexcept {
  return each([&](std::size_t i) { return x.v[i] < -87.0F ? 0.0F : math::exp(x.v[i]); });
}
inline float reduce_add(f32 x) noexcept { return ((x.v[0] + x.v[4]) + (x.v[2] + x.v[6])) + ((x.v[1] + x.v[5]) + (x.v[3] + x.v[7])); }
/// The sums of four vectors to to[0, 4).
inline void reduce_add(f32 a, f32 b, f32 c, f32 d, float* to) noexcept {
  to[0] = reduce_add(a);
  to[1] = reduce_add(b);
  to[2] = reduce_add(c);
  to[3] = reduce_add(d);
}
inline float reduce_min(f32 x) noexcept {
  float result = x.v[0];
  for (std::size_t i = 1; i < lanes; ++i) { result = x.v[i] < result ? x.v[i] : result; }
  return result;
}
inline float reduce_max(f32 x) noexcept {
  float result = x.v[0];
  for (std::size_t i = 1; i < lanes; ++i) { result = x.v[i] > result ? x.v[i] : result; }
  return result;
}

/// Four floats on every machine: a number for each of four queries.
struct quad {
  float v[4];
};

inline quad load_quad(const float* from) noexcept { return {{from[0], from[1], from[2], from[3]}}; }
inline void store(float* to, quad x) noexcept { __builtin_memcpy(to, x.v, sizeof x.v); }
inline quad add(quad a, quad b) noexcept { return {{a.v[0] + b.v[0], a.v[1] + b.v[1], a.v[2] + b.v[2], a.v[3] + b.v[3]}}; }
inline quad fma(float a, quad b, quad c) noexcept {
  for (std::size_t i = 0; i < 4; ++i) { c.v[i] = math::fma(a, b.v[i], c.v[i]); }
  return c;
}
/// Number j of vector i and number i of vector j change places.
inline void transpose(quad& a, quad& b, quad& c, quad& d) noexcept {
  const quad rows[4] = {a, b, c, d};
  const auto column = [&](std::size_t i) { return quad{{rows[0].v[i], rows[1].v[i], rows[2].v[i], rows[3].v[i]}}; };
  a = column(0);
  b = column(1);
  c = column(2);
  d = column(3);
}

// ---------------------------------------------------------------- integers

/// As many 32-bit integers as a vector has floats.
struct i32 {
  std::int32_t v[lanes];
};

template <class Op>
inline i32 each_integer(Op op) noexcept {
  i32 result{};
  for (std::size_t i = 0; i < lanes; ++i) { result.v[i] = static_cast<std::int32_t>(op(i)); }
  return result;
}

inline i32 set(std::int32_t x) noexcept {
  return each_integer([&](std::size_t) { return x; });
}
inline i32 load(const std::int32_t* from) noexcept {
  return each_integer([&](std::size_t i) { return from[i]; });
}
inline void store(std::int32_t* to, i32 x) noexcept {
  for (std::size_t i = 0; i < lanes; ++i) { to[i] = x.v[i]; }
}
/// Four bytes a lane.
inline i32 load_words(const std::uint8_t* from) noexcept {
  i32 words{};
  __builtin_memcpy(words.v, from, sizeof words.v);
  return words;
}
inline void store_words(std::uint8_t* to, i32 x) noexcept { __builtin_memcpy(to, x.v, sizeof x.v); }
/// As many bytes as lanes.
inline i32 load(const std::uint8_t* from) noexcept {
  return each_integer([&](std::size_t i) { return from[i]; });
}
/// To the nearest integer, halves to even; |x| < 2^31.
inline i32 round(f32 x) noexcept {
  return each_integer([&](std::size_t i) { return math::round_half_even(x.v[i]); });
}
inline f32 to_float(i32 x) noexcept {
  return each([&](std::size_t i) { return static_cast<float>(x.v[i]); });
}
/// sums + a.odd * b.odd + a.even * b.even, where every lane holds two bfloat16, the even one in its lower half. Where hardware does it,
/// the sums are rounded its way.
inline f32 add_pair_products(i32 a, i32 b, f32 sums) noexcept {
  const auto number = [](std::uint32_t bits) { return std::bit_cast<float>(bits); };
  return each([&](std::size_t i) {
    const auto x = static_cast<std::uint32_t>(a.v[i]);
    const auto y = static_cast<std::uint32_t>(b.v[i]);
    return math::fma(number(x << 16U), number(y << 16U), math::fma(number(x & 0xFFFF'0000U), number(y & 0xFFFF'0000U), sums.v[i]));
  });
}
inline i32 add(i32 a, i32 b) noexcept {
  return each_integer([&](std::size_t i) { return a.v[i] + b.v[i]; });
}
inline i32 bit_and(i32 a, i32 b) noexcept {
  return each_integer([&](std::size_t i) { return a.v[i] & b.v[i]; });
}
inline i32 bit_or(i32 a, i32 b) noexcept {
  return each_integer([&](std::size_t i) { return a.v[i] | b.v[i]; });
}
inline i32 shift_left(i32 x, int count) noexcept {
  return each_integer([&](std::size_t i) { return static_cast<std::uint32_t>(x.v[i]) << count; });
}
/// Fills with zeros from the left.
inline i32 shift_right(i32 x, int count) noexcept {
  return each_integer([&](std::size_t i) { return static_cast<std::uint32_t>(x.v[i]) >> count; });
}
/// a, b, c, d as bytes, one behind the other; the numbers must fit.
inline void store_bytes(std::uint8_t* to, i32 a, i32 b, i32 c, i32 d) noexcept {
  const i32 all[] = {a, b, c, d};
  for (std::size_t i = 0; i < 4 * lanes; ++i) { to[i] = static_cast<std::uint8_t>(all[i / lanes].v[i % lanes]); }
}

/// Bytes of a register, and table[index] of each; indices are below 16, `table` has 16 bytes.
using u8 = std::uint8_t __attribute__((vector_size(16)));
inline u8 look_up(const std::uint8_t* table, u8 index) noexcept {
  for (int i = 0; i < 16; ++i) { index[i] = table[index[i]]; }
  return index;
}

/// The products a * b, rounded to whole numbers, which must fit: as 8 bits one behind the other, or as 16 bits with every four numbers in the
/// order 0, 2, 1, 3: pair order. Returns `sum` with all of them added, each to some lane. A backend may round once or twice.
template <class Weight>
inline i32 store_products(Weight* to, const f32 (&a)[4], const f32 (&b)[4], i32 sum) noexcept {
  constexpr std::size_t pair_order[] = {0, 2, 1, 3};
  for (std::size_t i = 0; i < 4 * lanes; ++i) {
    const std::size_t at = sizeof(Weight) == 1 ? i : i / 4 * 4 + pair_order[i % 4];
    const std::int32_t product = round(mul(a[at / lanes], b[at / lanes])).v[at % lanes];
    to[i] = static_cast<Weight>(product);
    sum.v[at % lanes] += product;
  }
  return sum;
}

// ---------------------------------------------------------------- lines of codes

/// Lanes of a line, on every backend: a line is 64 bytes, four for each lane.
inline constexpr std::size_t line_lanes = 16;

/// Sums of integer codes with integer weights. A line holds 32 / Width steps of each lane: of byte k of a lane, the field at bit
/// Width * j is step 4 j + k. sums[w][lane] = sum over the steps of `count` lines of code(step, lane) * weights[w * stride + step];
/// weights of 16 bits stand in pair order (see store_products). Sums must stay below 2^31. `ahead`: where as many lines lie that will be read
/// soon; a hint.
template <int Width, std::size_t Weights, class Weight>
inline void lane_dots(const std::uint8_t* lines, std::size_t count, const Weight* weights, std::size_t stride,
                      const std::uint8_t* /*ahead*/, std::int32_t (*sums)[line_lanes]) noexcept {
  static_assert(Width == 1 || Width == 2 || Width == 4 || Width == 8);
  constexpr std::size_t pair_order[] = {0, 2, 1, 3};
  for (std::size_t w = 0; w < Weights; ++w) {
    for (std::size_t lane = 0; lane < line_lanes; ++lane) { sums[w][lane] = 0; }
  }
  for (std::size_t line = 0; line < count; ++line, lines += 64, weights += 32 / Width) {
    for (std::size_t lane = 0; lane < line_lanes; ++lane) {
      for (std::size_t step = 0; step < 32 / Width; ++step) {
        const int code = lines[4 * lane + step % 4] >> (Width * static_cast<int>(step / 4)) & ((1 << Width) - 1);
        const std::size_t place = sizeof(Weight) == 1 ? step : step / 4 * 4 + pair_order[step % 4];
        for (std::size_t w = 0; w < Weights; ++w) { sums[w][lane] += code * weights[w * stride + place]; }
      }
    }
  }
}

}  // namespace kvcompress::simd::scalar
