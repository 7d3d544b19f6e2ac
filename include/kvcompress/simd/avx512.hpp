// include/kvcompress/simd/avx512.hpp - the SIMD vocabulary on AVX-512 (F, BW, DQ, VL, VNNI); meanings stand in scalar.hpp.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/simd/available.hpp"

#if defined(KVCOMPRESS_AVX512)

#include <immintrin.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kvcompress/core/half.hpp"
#include "kvcompress/simd/x86_quads.hpp"

// GCC 12 finds "__Y is used uninitialized" in its own AVX-512 intrinsics (GCC bug 105593), wherever they are inlined.
#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 13
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

namespace kvcompress::inline KVCOMPRESS_ABI::simd::avx512 {

inline constexpr std::size_t lanes = 16;

struct f32 {
  __m512 v;
};

inline f32 set(float x) noexcept { return {_mm512_set1_ps(x)}; }
inline f32 load(const float* from) noexcept { return {_mm512_loadu_ps(from)}; }
inline f32 load(const half* from) noexcept { return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)))}; }
inline f32 load(const bfloat16* from) noexcept {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
}
inline __mmask16 first(std::size_t count) noexcept { return static_cast<__mmask16>((1U << count) - 1U); }
inline f32 load_first(const float* from, std::size_t count) noexcept { return {_mm512_maskz_loadu_ps(first(count), from)}; }
inline f32 load_first(const half* from, std::size_t count) noexcept {
  return {_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(count), from))};
}
inline f32 load_first(const bfloat16* from, std::size_t count) noexcept {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first(count), from));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
}
inline f32 keep(f32 x) noexcept {
  asm("" : "+v"(x.v));
  return x;
}
inline void store(float* to, f32 x) noexcept { _mm512_storeu_ps(to, x.v); }
inline void store(half* to, f32 x) noexcept {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT));
}
inline void store(bfloat16* to, f32 x) noexcept {
  alignas(64) float floats[lanes];
  _mm512_store_ps(floats, x.v);
  for (std::size_t i = 0; i < lanes; ++i) { to[i] = bfloat16(floats[i]); }
}
inline f32 add(f32 a, f32 b) noexcept { return {_mm512_add_ps(a.v, b.v)}; }
inline f32 sub(f32 a, f32 b) noexcept { return {_mm512_sub_ps(a.v, b.v)}; }
inline f32 mul(f32 a, f32 b) noexcept { return {_mm512_mul_ps(a.v, b.v)}; }
inline f32 div(f32 a, f32 b) noexcept { return {_mm512_div_ps(a.v, b.v)}; }
inline f32 fma(f32 a, f32 b, f32 c) noexcept { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline f32 max(f32 a, f32 b) noexcept { return {_mm512_max_ps(a.v, b.v)}; }
inline f32 min(f32 a, f32 b) noexcept { return {_mm512_min_ps(a.v, b.v)}; }
inline f32 abs(f32 x) noexcept { return {_mm512_abs_ps(x.v)}; }

/// Cephes' expf: 2^n times a polynomial of degree 6 on [-ln2/2, ln2/2]; within 2e-7 relative.
inline f32 exp(f32 x) noexcept {
  const __mmask16 in_range = _mm512_cmp_ps_mask(x.v, _mm512_set1_ps(-87.0F), _CMP_GE_OQ);
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x.v, _mm512_set1_ps(1.44269504F)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375F), x.v);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4F), r);
  __m512 p = _mm512_set1_ps(1.9875691500e-4F);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1F));
  p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), _mm512_add_ps(r, _mm512_set1_ps(1.0F)));
  return {_mm512_maskz_scalef_ps(in_range, p, n)};
}
inline float reduce_add(f32 x) noexcept { return _mm512_reduce_add_ps(x.v); }
inline void reduce_add(f32 a, f32 b, f32 c, f32 d, float* to) noexcept {
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a.v, b.v), _mm512_unpackhi_ps(a.v, b.v));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c.v, d.v), _mm512_unpackhi_ps(c.v, d.v));
  const __m512 all = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xEE));
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
  _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
}
inline float reduce_max(f32 x) noexcept { return _mm512_reduce_max_ps(x.v); }
inline float reduce_min(f32 x) noexcept { return _mm512_reduce_min_ps(x.v); }

using x86::add;
using x86::fma;
using x86::load_quad;
using x86::quad;
using x86::store;
using x86::transpose;

// ---------------------------------------------------------------- integers

struct i32 {
  __m512i v;
};

inline i32 set(std::int32_t x) noexcept { return {_mm512_set1_epi32(x)}; }
inline i32 load(const std::int32_t* from) noexcept { return {_mm512_loadu_si512(from)}; }
inline void store(std::int32_t* to, i32 x) noexcept { _mm512_storeu_si512(to, x.v); }
inline i32 load_words(const std::uint8_t* from) noexcept { return {_mm512_loadu_si512(from)}; }
inline void store_words(std::uint8_t* to, i32 x) noexcept { _mm512_storeu_si512(to, x.v); }
inline i32 load(const std::uint8_t* from) noexcept {
  return {_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)))};
}
inline i32 round(f32 x) noexcept { return {_mm512_cvtps_epi32(x.v)}; }
inline f32 to_float(i32 x) noexcept { return {_mm512_cvtepi32_ps(x.v)}; }
inline i32 add(i32 a, i32 b) noexcept { return {_mm512_add_epi32(a.v, b.v)}; }
inline i32 bit_and(i32 a, i32 b) noexcept { return {_mm512_and_si512(a.v, b.v)}; }
inline i32 bit_or(i32 a, i32 b) noexcept { return {_mm512_or_si512(a.v, b.v)}; }
inline i32 shift_left(i32 x, int count) noexcept { return {_mm512_sll_epi32(x.v, _mm_cvtsi32_si128(count))}; }
inline i32 shift_right(i32 x, int count) noexcept { return {_mm512_srl_epi32(x.v, _mm_cvtsi32_si128(count))}; }
inline f32 add_pair_products(i32 a, i32 b, f32 sums) noexcept {
#if defined(__AVX512BF16__)
  return {_mm512_dpbf16_ps(sums.v, std::bit_cast<__m512bh>(a.v), std::bit_cast<__m512bh>(b.v))};
#else
  const __m512i high = _mm512_set1_epi32(static_cast<int>(0xFFFF0000U));
  const auto even = [](__m512i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(x, 16)); };
  const auto odd = [&](__m512i x) { return _mm512_castsi512_ps(_mm512_and_si512(x, high)); };
  return {_mm512_fmadd_ps(even(a.v), even(b.v), _mm512_fmadd_ps(odd(a.v), odd(b.v), sums.v))};
#endif
}
inline __m512i in_order(__m512i packed) noexcept {  // packing works within 128 bits
  return _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), packed);
}
inline void store_bytes(std::uint8_t* to, i32 a, i32 b, i32 c, i32 d) noexcept {
  _mm512_storeu_si512(to, in_order(_mm512_packus_epi16(_mm512_packus_epi32(a.v, b.v), _mm512_packus_epi32(c.v, d.v))));
}

/// Bytes of a register, and table[index] of each; indices are below 16, `table` has 16 bytes.
using u8 = std::uint8_t __attribute__((vector_size(64)));
inline u8 look_up(const std::uint8_t* table, u8 index) noexcept {
  const __m512i all = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
  return reinterpret_cast<u8>(_mm512_shuffle_epi8(all, reinterpret_cast<__m512i>(index)));
}

/// a * b + 1.5 * 2^23 is a number whose lowest bits are the rounded product, once negative ones are cut to their width.
inline __m512i rounded_low(f32 a, f32 b) noexcept { return _mm512_castps_si512(_mm512_fmadd_ps(a.v, b.v, _mm512_set1_ps(12582912.0F))); }
inline i32 store_products(std::int8_t* to, const f32 (&a)[4], const f32 (&b)[4], i32 sum) noexcept {
  // Packing works within 128 bits: it gets 8 numbers from one half, then 8 from the other, which leaves 64 bits to put in order.
  const __m512i low_halves = _mm512_set_epi16(62, 60, 58, 56, 54, 52, 50, 48, 46, 44, 42, 40, 38, 36, 34, 32,  //
                                              30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  const __m512i first = _mm512_permutex2var_epi16(rounded_low(a[0], b[0]), low_halves, rounded_low(a[1], b[1]));
  const __m512i second = _mm512_permutex2var_epi16(rounded_low(a[2], b[2]), low_halves, rounded_low(a[3], b[3]));
  const __m512i bytes = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), _mm512_packs_epi16(first, second));
  _mm512_storeu_si512(to, bytes);
  return {_mm512_dpbusd_epi32(sum.v, _mm512_set1_epi8(1), bytes)};
}
inline i32 store_products(std::int16_t* to, const f32 (&a)[4], const f32 (&b)[4], i32 sum) noexcept {
  const __m512i pair_order = _mm512_set_epi16(62, 58, 60, 56, 54, 50, 52, 48, 46, 42, 44, 40, 38, 34, 36, 32,  //
                                              30, 26, 28, 24, 22, 18, 20, 16, 14, 10, 12, 8, 6, 2, 4, 0);
  const __m512i first = _mm512_permutex2var_epi16(rounded_low(a[0], b[0]), pair_order, rounded_low(a[1], b[1]));
  const __m512i second = _mm512_permutex2var_epi16(rounded_low(a[2], b[2]), pair_order, rounded_low(a[3], b[3]));
  _mm512_storeu_si512(to, first);
  _mm512_storeu_si512(to + 32, second);
  const __m512i ones = _mm512_set1_epi16(1);
  return {_mm512_dpwssd_epi32(_mm512_dpwssd_epi32(sum.v, first, ones), second, ones)};
}

// ---------------------------------------------------------------- lines of codes

inline constexpr std::size_t line_lanes = 16;

/// Written out: given intrinsics GCC 12 broadcasts every weight into a register of its own, copies every sum and runs out of registers.
inline __m512i add_products(__m512i sums, __m512i codes, const std::int8_t* four) noexcept {
  asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sums) : "v"(codes), "m"(*reinterpret_cast<const char(*)[4]>(four)));
  return sums;
}
inline __m512i add_products(__m512i sums, __m512i codes, const std::int16_t* two) noexcept {
  asm("vpdpwssd %2%{1to16%}, %1, %0" : "+v"(sums) : "v"(codes), "m"(*reinterpret_cast<const char(*)[4]>(two)));
  return sums;
}

/// Codes stay at their bit place, one accumulator per field: an AND instead of a shift and an AND, and one shift at the end, which is
/// exact. With weights of 16 bits the even bytes are met first, then the odd ones. Out of line, because GCC 12 spills the accumulators
/// where it inlines this.
template <int Width, std::size_t Weights, class Weight>
[[gnu::noinline]] inline void lane_dots_at_once(const std::uint8_t* lines, std::size_t count, const Weight* weights, std::size_t stride,
                                                const std::uint8_t* ahead, std::int32_t (*sums)[line_lanes]) noexcept {
  constexpr std::size_t fields = 8 / Width;
  constexpr std::size_t bytes = sizeof(Weight);                   // bytes of a number that codes are met as
  constexpr std::size_t sets = fields * Weights < 4 ? bytes : 1;  // enough sums to hide the latency of adding
  __m512i totals[sets][fields][Weights];
#pragma GCC unroll 2
  for (std::size_t s = 0; s < sets; ++s) {
#pragma GCC unroll 8
    for (std::size_t j = 0; j < fields; ++j) {
#pragma GCC unroll 16
      for (std::size_t w = 0; w < Weights; ++w) { totals[s][j][w] = _mm512_setzero_si512(); }
    }
  }
  const Weight* rows[Weights];
#pragma GCC unroll 16
  for (std::size_t w = 0; w < Weights; ++w) { rows[w] = weights + w * stride; }
  for (std::size_t line = 0; line < count; ++line, lines += 64, ahead += 64) {
    _mm_prefetch(reinterpret_cast<const char*>(ahead), _MM_HINT_T1);
    const __m512i all = _mm512_loadu_si512(lines);
#pragma GCC unroll 2
    for (std::size_t b = 0; b < bytes; ++b) {
      const __m512i codes = b == 0 ? all : _mm512_srli_epi16(all, 8);
#pragma GCC unroll 8
      for (std::size_t j = 0; j < fields; ++j) {
        constexpr int mask = (1 << Width) - 1;
        const int in_place = mask << (Width * static_cast<int>(j));
        const bool alone = Width == 8 && (bytes == 1 || b == 1);  // nothing else is left in the number
        const __m512i wanted = bytes == 1 ? _mm512_set1_epi8(static_cast<char>(in_place)) : _mm512_set1_epi16(static_cast<short>(in_place));
        const __m512i field = alone ? codes : _mm512_and_si512(codes, wanted);
#pragma GCC unroll 16
        for (std::size_t w = 0; w < Weights; ++w) {
          __m512i& total = totals[sets == 1 ? 0 : b][j][w];
          total = add_products(total, field, rows[w] + 4 * j + 2 * b);
        }
      }
    }
#pragma GCC unroll 16
    for (std::size_t w = 0; w < Weights; ++w) { rows[w] += 4 * fields; }
  }
#pragma GCC unroll 16
  for (std::size_t w = 0; w < Weights; ++w) {
    __m512i sum = _mm512_setzero_si512();
#pragma GCC unroll 8
    for (std::size_t j = 0; j < fields; ++j) {
      const __m512i total = sets == 1 ? totals[0][j][w] : _mm512_add_epi32(totals[0][j][w], totals[sets - 1][j][w]);
      sum = _mm512_add_epi32(sum, _mm512_sra_epi32(total, _mm_cvtsi32_si128(Width * static_cast<int>(j))));
    }
    _mm512_storeu_si512(sums[w], sum);
  }
}

template <int Width, std::size_t Weights, class Weight>
inline void lane_dots(const std::uint8_t* lines, std::size_t count, const Weight* weights, std::size_t stride, const std::uint8_t* ahead,
                      std::int32_t (*sums)[line_lanes]) noexcept {
  constexpr std::size_t at_once = Weights * (8 / Width) <= 16 ? Weights : 2 * Width;  // 16 accumulators
  for (std::size_t w = 0; w < Weights; w += at_once) {
    lane_dots_at_once<Width, at_once>(lines, count, weights + w * stride, stride, ahead, sums + w);
  }
}

}  // namespace kvcompress::simd::avx512

#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 13
#pragma GCC diagnostic pop
#endif

#endif
