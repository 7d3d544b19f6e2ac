// include/kvcompress/simd/neon.hpp - the SIMD vocabulary on 64-bit ARM with dot products; meanings stand in scalar.hpp.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/simd/available.hpp"

#if defined(KVCOMPRESS_NEON)

#include <arm_neon.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kvcompress/core/half.hpp"
#include "kvcompress/simd/rounded_products.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::simd::neon {

inline constexpr std::size_t lanes = 8;

/// Eight floats in two registers: loops that are written for eight lanes keep two chains of additions busy.
struct f32 {
  float32x4_t a;
  float32x4_t b;
};

inline f32 set(float x) noexcept { return {vdupq_n_f32(x), vdupq_n_f32(x)}; }
inline f32 load(const float* from) noexcept { return {vld1q_f32(from), vld1q_f32(from + 4)}; }
inline f32 load(const half* from) noexcept {
  const float16x8_t all = vreinterpretq_f16_u16(vld1q_u16(reinterpret_cast<const std::uint16_t*>(from)));
  return {vcvt_f32_f16(vget_low_f16(all)), vcvt_high_f32_f16(all)};
}
inline f32 load(const bfloat16* from) noexcept {
  const uint16x8_t all = vld1q_u16(reinterpret_cast<const std::uint16_t*>(from));
  return {vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(all), 16)), vreinterpretq_f32_u32(vshll_high_n_u16(all, 16))};
}
template <class T>
inline f32 load_first(const T* from, std::size_t count) noexcept {
  T padded[lanes] = {};
  for (std::size_t i = 0; i < count; ++i) { padded[i] = from[i]; }
  return load(padded);
}
inline f32 keep(f32 x) noexcept {
  asm("" : "+w"(x.a), "+w"(x.b));
  return x;
}
inline void store(float* to, f32 x) noexcept {
  vst1q_f32(to, x.a);
  vst1q_f32(to + 4, x.b);
}
inline void store(half* to, f32 x) noexcept {
  vst1q_u16(reinterpret_cast<std::uint16_t*>(to), vreinterpretq_u16_f16(vcvt_high_f16_f32(vcvt_f16_f32(x.a), x.b)));
}
inline void store(bfloat16* to, f32 x) noexcept {
  float floats[lanes];
  store(floats, x);
  for (std::size_t i = 0; i < lanes; ++i) { to[i] = bfloat16(floats[i]); }
}
inline f32 add(f32 x, f32 y) noexcept { return {vaddq_f32(x.a, y.a), vaddq_f32(x.b, y.b)}; }
inline f32 sub(f32 x, f32 y) noexcept { return {vsubq_f32(x.a, y.a), vsubq_f32(x.b, y.b)}; }
inline f32 mul(f32 x, f32 y) noexcept { return {vmulq_f32(x.a, y.a), vmulq_f32(x.b, y.b)}; }
inline f32 div(f32 x, f32 y) noexcept { return {vdivq_f32(x.a, y.a), vdivq_f32(x.b, y.b)}; }
inline f32 fma(f32 x, f32 y, f32 z) noexcept { return {vfmaq_f32(z.a, x.a, y.a), vfmaq_f32(z.b, x.b, y.b)}; }
// By comparison, so that with a NaN the second operand is taken, as elsewhere.
inline f32 max(f32 x, f32 y) noexcept { return {vbslq_f32(vcgtq_f32(x.a, y.a), x.a, y.a), vbslq_f32(vcgtq_f32(x.b, y.b), x.b, y.b)}; }
inline f32 min(f32 x, f32 y) noexcept { return {vbslq_f32(vcltq_f32(x.a, y.a), x.a, y.a), vbslq_f32(vcltq_f32(x.b, y.b), x.b, y.b)}; }
inline f32 abs(f32 x) noexcept { return {vabsq_f32(x.a), vabsq_f32(x.b)}; }

/// Cephes' expf: 2^n times a polynomial of degree 6 on [-ln2/2, ln2/2]; within 2e-7 relative.
inline float32x4_t exp4(float32x4_t x) noexcept {
  const uint32x4_t in_range = vcgeq_f32(x, vdupq_n_f32(-87.0F));
  const float32x4_t z = vmaxq_f32(x, vdupq_n_f32(-87.0F));
  const float32x4_t n = vrndnq_f32(vmulq_f32(z, vdupq_n_f32(1.44269504F)));
  float32x4_t r = vfmsq_f32(z, n, vdupq_n_f32(0.693359375F));
  r = vfmsq_f32(r, n, vdupq_n_f32(-2.12194440e-4F));
  float32x4_t p = vdupq_n_f32(1.9875691500e-4F);
  p = vfmaq_f32(vdupq_n_f32(1.3981999507e-3F), p, r);
  p = vfmaq_f32(vdupq_n_f32(8.3334519073e-3F), p, r);
  p = vfmaq_f32(vdupq_n_f32(4.1665795894e-2F), p, r);
  p = vfmaq_f32(vdupq_n_f32(1.6666665459e-1F), p, r);
  p = vfmaq_f32(vdupq_n_f32(5.0000001201e-1F), p, r);
  p = vfmaq_f32(vaddq_f32(r, vdupq_n_f32(1.0F)), p, vmulq_f32(r, r));
  const int32x4_t power = vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)), 23);
  const float32x4_t result = vmulq_f32(p, vreinterpretq_f32_s32(power));
  return vreinterpretq_f32_u32(vandq_u32(in_range, vreinterpretq_u32_f32(result)));
}
inline f32 exp(f32 x) noexcept { return {exp4(x.a), exp4(x.b)}; }
inline float reduce_add(f32 x) noexcept { return vaddvq_f32(vaddq_f32(x.a, x.b)); }
inline void reduce_add(f32 w, f32 x, f32 y, f32 z, float* to) noexcept {
  const float32x4_t wx = vpaddq_f32(vaddq_f32(w.a, w.b), vaddq_f32(x.a, x.b));
  const float32x4_t yz = vpaddq_f32(vaddq_f32(y.a, y.b), vaddq_f32(z.a, z.b));
  vst1q_f32(to, vpaddq_f32(wx, yz));
}
inline float reduce_max(f32 x) noexcept { return vmaxvq_f32(vmaxq_f32(x.a, x.b)); }
inline float reduce_min(f32 x) noexcept { return vminvq_f32(vminq_f32(x.a, x.b)); }

struct quad {
  float32x4_t v;
};

inline quad load_quad(const float* from) noexcept { return {vld1q_f32(from)}; }
inline void store(float* to, quad x) noexcept { vst1q_f32(to, x.v); }
inline quad add(quad a, quad b) noexcept { return {vaddq_f32(a.v, b.v)}; }
inline quad fma(float a, quad b, quad c) noexcept { return {vfmaq_n_f32(c.v, b.v, a)}; }
inline void transpose(quad& a, quad& b, quad& c, quad& d) noexcept {
  const float32x4x2_t ab = vtrnq_f32(a.v, b.v);
  const float32x4x2_t cd = vtrnq_f32(c.v, d.v);
  a.v = vcombine_f32(vget_low_f32(ab.val[0]), vget_low_f32(cd.val[0]));
  b.v = vcombine_f32(vget_low_f32(ab.val[1]), vget_low_f32(cd.val[1]));
  c.v = vcombine_f32(vget_high_f32(ab.val[0]), vget_high_f32(cd.val[0]));
  d.v = vcombine_f32(vget_high_f32(ab.val[1]), vget_high_f32(cd.val[1]));
}

// ---------------------------------------------------------------- integers

struct i32 {
  int32x4_t a;
  int32x4_t b;
};

inline i32 set(std::int32_t x) noexcept { return {vdupq_n_s32(x), vdupq_n_s32(x)}; }
inline i32 load(const std::int32_t* from) noexcept { return {vld1q_s32(from), vld1q_s32(from + 4)}; }
inline i32 load(const std::uint8_t* from) noexcept {
  const uint16x8_t words = vmovl_u8(vld1_u8(from));
  return {vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(words))), vreinterpretq_s32_u32(vmovl_high_u16(words))};
}
inline i32 load_words(const std::uint8_t* from) noexcept {
  return {vreinterpretq_s32_u8(vld1q_u8(from)), vreinterpretq_s32_u8(vld1q_u8(from + 16))};
}
inline void store(std::int32_t* to, i32 x) noexcept {
  vst1q_s32(to, x.a);
  vst1q_s32(to + 4, x.b);
}
inline void store_words(std::uint8_t* to, i32 x) noexcept {
  vst1q_u8(to, vreinterpretq_u8_s32(x.a));
  vst1q_u8(to + 16, vreinterpretq_u8_s32(x.b));
}
inline i32 round(f32 x) noexcept { return {vcvtnq_s32_f32(x.a), vcvtnq_s32_f32(x.b)}; }
inline f32 to_float(i32 x) noexcept { return {vcvtq_f32_s32(x.a), vcvtq_f32_s32(x.b)}; }
inline i32 add(i32 x, i32 y) noexcept { return {vaddq_s32(x.a, y.a), vaddq_s32(x.b, y.b)}; }
inline i32 bit_and(i32 x, i32 y) noexcept { return {vandq_s32(x.a, y.a), vandq_s32(x.b, y.b)}; }
inline i32 bit_or(i32 x, i32 y) noexcept { return {vorrq_s32(x.a, y.a), vorrq_s32(x.b, y.b)}; }
inline i32 shift_left(i32 x, int count) noexcept { return {vshlq_s32(x.a, vdupq_n_s32(count)), vshlq_s32(x.b, vdupq_n_s32(count))}; }
inline int32x4_t shift_right4(int32x4_t x, int count) noexcept {
  return vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(x), vdupq_n_s32(-count)));
}
inline i32 shift_right(i32 x, int count) noexcept { return {shift_right4(x.a, count), shift_right4(x.b, count)}; }
inline float32x4_t add_pair_products4(int32x4_t a, int32x4_t b, float32x4_t sums) noexcept {
  const auto even = [](int32x4_t x) { return vreinterpretq_f32_s32(vshlq_n_s32(x, 16)); };
  const auto odd = [](int32x4_t x) { return vreinterpretq_f32_s32(vbicq_s32(x, vdupq_n_s32(0xFFFF))); };
  return vfmaq_f32(vfmaq_f32(sums, odd(a), odd(b)), even(a), even(b));
}
inline f32 add_pair_products(i32 x, i32 y, f32 sums) noexcept {
  return {add_pair_products4(x.a, y.a, sums.a), add_pair_products4(x.b, y.b, sums.b)};
}
inline int16x8_t words_of(i32 x) noexcept { return vmovn_high_s32(vmovn_s32(x.a), x.b); }
inline void store_weights(std::int8_t* to, i32 a, i32 b, i32 c, i32 d) noexcept {
  vst1q_s8(to, vmovn_high_s16(vmovn_s16(words_of(a)), words_of(b)));
  vst1q_s8(to + 16, vmovn_high_s16(vmovn_s16(words_of(c)), words_of(d)));
}
inline void store_bytes(std::uint8_t* to, i32 a, i32 b, i32 c, i32 d) noexcept {
  store_weights(reinterpret_cast<std::int8_t*>(to), a, b, c, d);
}
/// Bytes of a register, and table[index] of each; indices are below 16, `table` has 16 bytes.
using u8 = std::uint8_t __attribute__((vector_size(16)));
inline u8 look_up(const std::uint8_t* table, u8 index) noexcept {
  return reinterpret_cast<u8>(vqtbl1q_u8(vld1q_u8(table), reinterpret_cast<uint8x16_t>(index)));
}
inline void store_pairs(std::int16_t* to, i32 a, i32 b) noexcept {
  const uint8x16_t order = {0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15};
  vst1q_u8(reinterpret_cast<std::uint8_t*>(to), vqtbl1q_u8(vreinterpretq_u8_s16(words_of(a)), order));
  vst1q_u8(reinterpret_cast<std::uint8_t*>(to + 8), vqtbl1q_u8(vreinterpretq_u8_s16(words_of(b)), order));
}
inline void store_weights(std::int16_t* to, i32 a, i32 b, i32 c, i32 d) noexcept {
  store_pairs(to, a, b);
  store_pairs(to + 2 * lanes, c, d);
}
using in_steps::store_products;

// ---------------------------------------------------------------- lines of codes

inline constexpr std::size_t line_lanes = 16;

/// Four weights, repeated; of 8 bits in order, of 16 bits in pair order, cut into a high signed and a low unsigned byte.
struct Four {
  int8x16_t high;
  uint8x16_t low;
};
inline Four weights_at(const std::int8_t* from) noexcept {
  std::int32_t bytes = 0;
  std::memcpy(&bytes, from, 4);
  return {vreinterpretq_s8_s32(vdupq_n_s32(bytes)), vdupq_n_u8(0)};
}
inline Four weights_at(const std::int16_t* from) noexcept {
  std::int64_t words = 0;
  std::memcpy(&words, from, 8);
  const uint8x16_t order = {0, 4, 2, 6, 0, 4, 2, 6, 0, 4, 2, 6, 0, 4, 2, 6};  // low bytes of the words 0, 2, 1, 3: pair order undone
  const uint8x16_t all = vreinterpretq_u8_s64(vdupq_n_s64(words));
  const uint8x16_t low = vqtbl1q_u8(all, order);
  return {vreinterpretq_s8_u8(vqtbl1q_u8(all, vaddq_u8(order, vdupq_n_u8(1)))), low};
}

/// A quarter of a line (four lanes) of every line. Codes of eight bits are taken as two of four, since signed products want them below 128.
template <int Width, std::size_t Weights, class Weight>
[[gnu::noinline]] inline void quarter_dots(const std::uint8_t* lines, std::size_t count, const Weight* weights, std::size_t stride,
                                           const std::uint8_t* ahead, std::int32_t (*sums)[4]) noexcept {
  constexpr int fields = 8 / Width;
  constexpr int nibbles = Width == 8 ? 2 : 1;
  const uint8x16_t mask = vdupq_n_u8(Width == 8 ? 15 : (1 << Width) - 1);
  int32x4_t high[nibbles][Weights];
  uint32x4_t low[nibbles][Weights];
  for (int n = 0; n < nibbles; ++n) {
    for (std::size_t w = 0; w < Weights; ++w) {
      high[n][w] = vdupq_n_s32(0);
      low[n][w] = vdupq_n_u32(0);
    }
  }
  for (std::size_t line = 0; line < count; ++line, weights += 32 / Width) {
    __builtin_prefetch(ahead + 64 * line, 0, 2);
    const uint8x16_t codes = vld1q_u8(lines + 64 * line);
    for (int j = 0; j < fields; ++j) {
      uint8x16_t field[nibbles];
      for (int n = 0; n < nibbles; ++n) {
        field[n] = vandq_u8(vshlq_u8(codes, vdupq_n_s8(static_cast<std::int8_t>(-(Width * j + 4 * n)))), mask);
      }
      for (std::size_t w = 0; w < Weights; ++w) {
        const Four four = weights_at(weights + w * stride + 4 * j);
        for (int n = 0; n < nibbles; ++n) {
          high[n][w] = vdotq_s32(high[n][w], vreinterpretq_s8_u8(field[n]), four.high);
          if constexpr (sizeof(Weight) == 2) { low[n][w] = vdotq_u32(low[n][w], field[n], four.low); }
        }
      }
    }
  }
  for (std::size_t w = 0; w < Weights; ++w) {
    int32x4_t sum = vdupq_n_s32(0);
    for (int n = 0; n < nibbles; ++n) {
      const int32x4_t part = sizeof(Weight) == 2 ? vaddq_s32(vshlq_n_s32(high[n][w], 8), vreinterpretq_s32_u32(low[n][w])) : high[n][w];
      sum = vaddq_s32(sum, n == 0 ? part : vshlq_n_s32(part, 4));
    }
    vst1q_s32(sums[w], sum);
  }
}

template <int Width, std::size_t Weights, class Weight>
inline void lane_dots(const std::uint8_t* lines, std::size_t count, const Weight* weights, std::size_t stride, const std::uint8_t* ahead,
                      std::int32_t (*sums)[line_lanes]) noexcept {
  for (std::size_t quarter = 0; quarter < 4; ++quarter) {
    std::int32_t four[Weights][4];
    quarter_dots<Width, Weights>(lines + 16 * quarter, count, weights, stride, ahead, four);
    for (std::size_t w = 0; w < Weights; ++w) { std::memcpy(&sums[w][4 * quarter], four[w], 16); }
  }
}

}  // namespace kvcompress::simd::neon

#endif
