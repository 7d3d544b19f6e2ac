// examples/llama/vector8.hpp - eight floats as one value: AVX2 where the build has it, else two fours.
// SPDX-License-Identifier: MIT
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define LLAMA_AVX2 1
#include <immintrin.h>
#endif

namespace llama {

/// IEEE half to float, all values. For one value at a time; the vector loads are below.
inline float from_half(std::uint16_t half) noexcept {
#if defined(LLAMA_AVX2)
  return _cvtsh_ss(half);
#else
  const std::uint32_t sign = (half & 0x8000U) << 16U;
  const std::uint32_t magnitude = half & 0x7FFFU;
  // Shifted into place the exponent is 112 too small; the product is exact, for subnormal halves too.
  const float scaled = std::bit_cast<float>(magnitude << 13U) * 0x1p112F;
  const std::uint32_t bits = magnitude >= 0x7C00U ? (magnitude << 13U) | 0x7F800000U : std::bit_cast<std::uint32_t>(scaled);
  return std::bit_cast<float>(bits | sign);
#endif
}

/// The upper half of a float, back to float.
inline float from_bfloat(std::uint16_t upper) noexcept { return std::bit_cast<float>(static_cast<std::uint32_t>(upper) << 16U); }

template <class T>
inline T read(const void* from) noexcept {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

namespace vec {

#if defined(LLAMA_AVX2)

struct f32x8 {
  __m256 v;
};

inline f32x8 set(float x) noexcept { return {_mm256_set1_ps(x)}; }
inline f32x8 load(const void* from) noexcept { return {_mm256_loadu_ps(static_cast<const float*>(from))}; }
inline void store(float* to, f32x8 x) noexcept { _mm256_storeu_ps(to, x.v); }
inline f32x8 mul(f32x8 a, f32x8 b) noexcept { return {_mm256_mul_ps(a.v, b.v)}; }
inline f32x8 fma(f32x8 a, f32x8 b, f32x8 c) noexcept { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }

/// How many tokens a tile takes so that its sums stay in registers.
inline constexpr std::size_t tile_tokens = 2;

inline __m128i load_8_bytes(const void* from) noexcept { return _mm_loadl_epi64(static_cast<const __m128i*>(from)); }

inline f32x8 load_i8(const void* from) noexcept { return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(load_8_bytes(from)))}; }
/// The low (shift 0) or high (shift 4) nibbles of eight bytes, less 8.
template <int Shift>
inline f32x8 load_u4(const void* from) noexcept {
  const __m256i wide = _mm256_srli_epi32(_mm256_cvtepu8_epi32(load_8_bytes(from)), Shift);
  return {_mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_and_si256(wide, _mm256_set1_epi32(15)), _mm256_set1_epi32(8)))};
}
inline f32x8 load_half(const void* from) noexcept { return {_mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(from)))}; }
inline f32x8 load_bfloat(const void* from) noexcept {
  const __m128i raw = _mm_loadu_si128(static_cast<const __m128i*>(from));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(raw), 16))};
}

/// The sum of the lanes, always in the same order.
inline float sum(f32x8 x) noexcept {
  const __m128 half = _mm_add_ps(_mm256_castps256_ps128(x.v), _mm256_extractf128_ps(x.v, 1));
  const __m128 pair = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)));
}

#else

// The vector extension of GCC and Clang: SSE2, NEON or whatever the target has.
using f32x4 = float __attribute__((vector_size(16)));
using i64x2 = std::int64_t __attribute__((vector_size(16)));
using i32x4 = std::int32_t __attribute__((vector_size(16)));
using i16x8 = std::int16_t __attribute__((vector_size(16)));
using i8x16 = std::int8_t __attribute__((vector_size(16)));

struct f32x8 {
  f32x4 low, high;
};

inline f32x8 set(float x) noexcept { return {f32x4{x, x, x, x}, f32x4{x, x, x, x}}; }
inline f32x8 load(const void* from) noexcept { return read<f32x8>(from); }
inline void store(float* to, f32x8 x) noexcept { std::memcpy(to, &x, sizeof x); }
inline f32x8 mul(f32x8 a, f32x8 b) noexcept { return {a.low * b.low, a.high * b.high}; }
inline f32x8 fma(f32x8 a, f32x8 b, f32x8 c) noexcept { return {a.low * b.low + c.low, a.high * b.high + c.high}; }

inline constexpr std::size_t tile_tokens = 1;

// Interleaving by the one pattern that every target has an instruction for; GCC 12 spells out any other
// element by element.
inline f32x4 interleave_low(i16x8 a, i16x8 b) noexcept {
  return reinterpret_cast<f32x4>(__builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11));
}
inline f32x4 interleave_high(i16x8 a, i16x8 b) noexcept {
  return reinterpret_cast<f32x4>(__builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15));
}
/// Eight signed bytes as floats: each is repeated four times, and a shift leaves its sign-extended value.
inline f32x8 widen(i8x16 x) noexcept {
  const auto twice = reinterpret_cast<i16x8>(__builtin_shufflevector(x, x, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23));
  const auto low = reinterpret_cast<i32x4>(interleave_low(twice, twice));
  const auto high = reinterpret_cast<i32x4>(interleave_high(twice, twice));
  return {__builtin_convertvector(low >> 24, f32x4), __builtin_convertvector(high >> 24, f32x4)};
}
inline i8x16 load_8_bytes(const void* from) noexcept { return reinterpret_cast<i8x16>(i64x2{read<std::int64_t>(from), 0}); }
inline f32x8 load_i8(const void* from) noexcept { return widen(load_8_bytes(from)); }
/// The low (shift 0) or high (shift 4) nibbles of eight bytes, less 8.
template <int Shift>
inline f32x8 load_u4(const void* from) noexcept {
  return widen((load_8_bytes(from) >> Shift & 15) - 8);
}
inline f32x8 load_bfloat(const void* from) noexcept {
  const auto x = read<i16x8>(from);
  const i16x8 zero = {};
  return {interleave_low(zero, x), interleave_high(zero, x)};
}
/// from_half above, four at a time, for halves that lie in the upper sixteen bits.
inline f32x4 shift_half(f32x4 upper) noexcept {
  const auto bits = reinterpret_cast<i32x4>(upper);
  const i32x4 magnitude = (bits & 0x7FFF0000) >> 3;
  const auto scaled = reinterpret_cast<i32x4>(reinterpret_cast<f32x4>(magnitude) * 0x1p112F);
  const i32x4 infinite = (magnitude >= 0x0F800000) & 0x7F800000;
  return reinterpret_cast<f32x4>(scaled | infinite | (bits & std::numeric_limits<std::int32_t>::min()));
}
inline f32x8 load_half(const void* from) noexcept {
  const f32x8 upper = load_bfloat(from);
  return {shift_half(upper.low), shift_half(upper.high)};
}

inline float sum(f32x8 x) noexcept {
  const f32x4 half = x.low + x.high;
  return (half[0] + half[2]) + (half[1] + half[3]);
}

#endif

}  // namespace vec
}  // namespace llama
