// include/kvcompress/simd/avx2.hpp - the SIMD vocabulary on AVX2, FMA and F16C; meanings stand in scalar.hpp.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/simd/available.hpp"

#if defined(KVCOMPRESS_AVX2)

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kvcompress/core/half.hpp"
#include "kvcompress/simd/rounded_products.hpp"
#include "kvcompress/simd/x86_quads.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::simd::avx2 {

inline constexpr std::size_t lanes = 8;

struct f32 {
  __m256 v;
};

inline f32 set(float x) noexcept { return {_mm256_set1_ps(x)}; }
inline f32 load(const float* from) noexcept { return {_mm256_loadu_ps(from)}; }
inline f32 load(const half* from) noexcept { return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)))}; }
inline f32 load(const bfloat16* from) noexcept {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(wide, 16))};
}
template <class T>
inline f32 load_first(const T* from, std::size_t count) noexcept {
  T padded[lanes] = {};
  for (std::size_t i = 0; i < count; ++i) { padded[i] = from[i]; }
  return load(padded);
}
inline f32 keep(f32 x) noexcept {
  asm("" : "+x"(x.v));
  return x;
}
inline void store(float* to, f32 x) noexcept { _mm256_storeu_ps(to, x.v); }
inline void store(half* to, f32 x) noexcept {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT));
}
inline void store(bfloat16* to, f32 x) noexcept {
  alignas(32) float floats[lanes];
  _mm256_store_ps(floats, x.v);
  for (std::size_t i = 0; i < lanes; ++i) { to[i] = bfloat16(floats[i]); }
}
inline f32 add(f32 a, f32 b) noexcept { return {_mm256_add_ps(a.v, b.v)}; }
inline f32 sub(f32 a, f32 b) noexcept { return {_mm256_sub_ps(a.v, b.v)}; }
inline f32 div(f32 a, f32 b) noexcept { return {_mm256_div_ps(a.v, b.v)}; }
inline f32 mul(f32 a, f32 b) noexcept { return {_mm256_mul_ps(a.v, b.v)}; }
inline f32 fma(f32 a, f32 b, f32 c) noexcept { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
inline f32 max(f32 a, f32 b) noexcept { return {_mm256_max_ps(a.v, b.v)}; }
inline f32 min(f32 a, f32 b) noexcept { return {_mm256_min_ps(a.v, b.v)}; }
inline f32 abs(f32 x) noexcept { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0F), x.v)}; }

/// Cephes' expf: 2^n times a polynomial of degree 6 on [-ln2/2, ln2/2]; within 2e-7 relative.
inline f32 exp(f32 x) noexcept {
  const __m256 in_range = _mm256_cmp_ps(x.v, _mm256_set1_ps(-87.0F), _CMP_GE_OQ);
  const __m256 z = _mm256_max_ps(x.v, _mm256_set1_ps(-87.0F));
  const __m256 n = _mm256_round_ps(_mm256_mul_ps(z, _mm256_set1_ps(1.44269504F)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375F), z);
  r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4F), r);
  __m256 p = _mm256_set1_ps(1.9875691500e-4F);
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.3981999507e-3F));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(8.3334519073e-3F));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(4.1665795894e-2F));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.6666665459e-1F));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(5.0000001201e-1F));
  p = _mm256_fmadd_ps(p, _mm256_mul_ps(r, r), _mm256_add_ps(r, _mm256_set1_ps(1.0F)));
  const __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  return {_mm256_and_ps(in_range, _mm256_mul_ps(p, _mm256_castsi256_ps(power)))};
}
inline float reduce_add(f32 x) noexcept {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(x.v), _mm256_extractf128_ps(x.v, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline void reduce_add(f32 a, f32 b, f32 c, f32 d, float* to) noexcept {
  const __m256 ab = _mm256_hadd_ps(a.v, b.v);
  const __m256 cd = _mm256_hadd_ps(c.v, d.v);
  const __m256 all = _mm256_hadd_ps(ab, cd);
  _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
}
inline float reduce_max(f32 x) noexcept {
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(x.v), _mm256_extractf128_ps(x.v, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
inline float reduce_min(f32 x) noexcept {
  const __m128 four = _mm_min_ps(_mm256_castps256_ps128(x.v), _mm256_extractf128_ps(x.v, 1));
  const __m128 two = _mm_min_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_min_ss(two, _mm_movehdup_ps(two)));
}

using x86::add;
using x86::fma;
using x86::load_quad;
using x86::quad;
using x86::store;
using x86::transpose;

// ---------------------------------------------------------------- integers

struct i32 {
  __m256i v;
};

inline i32 set(std::int32_t x) noexcept { return {_mm256_set1_epi32(x)}; }
inline i32 load(const std::int32_t* from) noexcept { return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))}; }
inline void store(std::int32_t* to, i32 x) noexcept { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), x.v); }
inline i32 load_words(const std::uint8_t* from) noexcept { return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))}; }
inline void store_words(std::uint8_t* to, i32 x) noexcept { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), x.v); }
inline i32 load(const std::uint8_t* from) noexcept {
  return {_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)))};
}
inline i32 round(f32 x) noexcept { return {_mm256_cvtps_epi32(x.v)}; }
inline f32 to_float(i32 x) noexcept { return {_mm256_cvtepi32_ps(x.v)}; }
inline i32 add(i32 a, i32 b) noexcept { return {_mm256_add_epi32(a.v, b.v)}; }
inline i32 bit_and(i32 a, i32 b) noexcept { return {_mm256_and_si256(a.v, b.v)}; }
inline i32 bit_or(i32 a, i32 b) noexcept { return {_mm256_or_si256(a.v, b.v)}; }
inline i32 shift_left(i32 x, int count) noexcept { return {_mm256_sll_epi32(x.v, _mm_cvtsi32_si128(count))}; }
inline i32 shift_right(i32 x, int count) noexcept { return {_mm256_srl_epi32(x.v, _mm_cvtsi32_si128(count))}; }
inline f32 add_pair_products(i32 a, i32 b, f32 sums) noexcept {
  const __m256i high = _mm256_set1_epi32(static_cast<int>(0xFFFF0000U));
  const auto even = [](__m256i x) { return _mm256_castsi256_ps(_mm256_slli_epi32(x, 16)); };
  const auto odd = [&](__m256i x) { return _mm256_castsi256_ps(_mm256_and_si256(x, high)); };
  return {_mm256_fmadd_ps(even(a.v), even(b.v), _mm256_fmadd_ps(odd(a.v), odd(b.v), sums.v))};
}
inline __m256i in_order(__m256i packed) noexcept {  // packing works within 128 bits
  return _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}
inline void store_bytes(std::uint8_t* to, i32 a, i32 b, i32 c, i32 d) noexcept {
  const __m256i bytes = _mm256_packus_epi16(_mm256_packus_epi32(a.v, b.v), _mm256_packus_epi32(c.v, d.v));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), in_order(bytes));
}

/// Bytes of a register, and table[index] of each; indices are below 16, `table` has 16 bytes.
using u8 = std::uint8_t __attribute__((vector_size(32)));
inline u8 look_up(const std::uint8_t* table, u8 index) noexcept {
  const __m256i both = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
  return reinterpret_cast<u8>(_mm256_shuffle_epi8(both, reinterpret_cast<__m256i>(index)));
}

inline void store_weights(std::int8_t* to, i32 a, i32 b, i32 c, i32 d) noexcept {
  const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(a.v, b.v), _mm256_packs_epi32(c.v, d.v));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), in_order(bytes));
}
inline void store_pairs(std::int16_t* to, i32 a, i32 b) noexcept {
  const __m256i in_order = _mm256_permute4x64_epi64(_mm256_packs_epi32(a.v, b.v), 0xD8);  // packing works within 128 bits
  const __m256i pairs = _mm256_shufflelo_epi16(_mm256_shufflehi_epi16(in_order, 0xD8), 0xD8);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), pairs);
}
inline void store_weights(std::int16_t* to, i32 a, i32 b, i32 c, i32 d) noexcept {
  store_pairs(to, a, b);
  store_pairs(to + 2 * lanes, c, d);
}
using in_steps::store_products;

// ---------------------------------------------------------------- lines of codes

inline constexpr std::size_t line_lanes = 16;

#if defined(__AVXVNNI__) || (defined(__AVX512VNNI__) && defined(__AVX512VL__))
inline constexpr bool has_vnni = true;
#else
inline constexpr bool has_vnni = false;
#endif

inline __m256i weights_at(const void* four_bytes) noexcept {
  std::int32_t bytes = 0;
  std::memcpy(&bytes, four_bytes, 4);
  return _mm256_set1_epi32(bytes);
}
/// Adds four products of bytes per lane.
inline __m256i add_bytes(__m256i sums, __m256i codes, __m256i weights) noexcept {
#if defined(__AVXVNNI__)
  return _mm256_dpbusd_avx_epi32(sums, codes, weights);
#elif defined(__AVX512VNNI__) && defined(__AVX512VL__)
  return _mm256_dpbusd_epi32(sums, codes, weights);
#else
  return _mm256_add_epi32(sums, _mm256_madd_epi16(_mm256_maddubs_epi16(codes, weights), _mm256_set1_epi16(1)));  // codes below 129
#endif
}
/// Adds two products of 16-bit numbers per lane.
inline __m256i add_words(__m256i sums, __m256i codes, __m256i weights) noexcept {
#if defined(__AVXVNNI__)
  return _mm256_dpwssd_avx_epi32(sums, codes, weights);
#elif defined(__AVX512VNNI__) && defined(__AVX512VL__)
  return _mm256_dpwssd_epi32(sums, codes, weights);
#else
  return _mm256_add_epi32(sums, _mm256_madd_epi16(codes, weights));
#endif
}

/// Before the next product: otherwise GCC 12 reads the weights of many products first and keeps sums in memory.
inline __m256i in_turn(__m256i sums) noexcept {
  asm("" : "+x"(sums));
  return sums;
}

/// Half a line (eight lanes) of every line, weights of 16 bits: the even bytes first, then the odd ones. The sums of a row of weights stand
/// line_lanes apart.
template <int Width, std::size_t Weights>
[[gnu::noinline]] inline void half_dots(const std::uint8_t* lines, std::size_t count, const std::int16_t* weights, std::size_t stride,
                                        const std::uint8_t* ahead, std::int32_t* sums) noexcept {
  constexpr std::size_t fields = 8 / Width;
  const __m256i mask = _mm256_set1_epi16((1 << Width) - 1);
  __m256i totals[Weights];
#pragma GCC unroll 4
  for (std::size_t w = 0; w < Weights; ++w) { totals[w] = _mm256_setzero_si256(); }
  const std::int16_t* rows[Weights];
#pragma GCC unroll 4
  for (std::size_t w = 0; w < Weights; ++w) { rows[w] = weights + w * stride; }
  for (std::size_t line = 0; line < count; ++line) {
    _mm_prefetch(reinterpret_cast<const char*>(ahead + 64 * line), _MM_HINT_T1);
    const __m256i codes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(lines + 64 * line));
#pragma GCC unroll 8
    for (std::size_t j = 0; j < fields; ++j) {
#pragma GCC unroll 2
      for (std::size_t b = 0; b < 2; ++b) {
        const __m256i field = _mm256_and_si256(_mm256_srli_epi16(codes, static_cast<int>(8 * b) + Width * static_cast<int>(j)), mask);
#pragma GCC unroll 4
        for (std::size_t w = 0; w < Weights; ++w) { totals[w] = in_turn(add_words(totals[w], field, weights_at(rows[w] + 4 * j + 2 * b))); }
      }
    }
#pragma GCC unroll 4
    for (std::size_t w = 0; w < Weights; ++w) { rows[w] += 4 * fields; }
  }
#pragma GCC unroll 4
  for (std::size_t w = 0; w < Weights; ++w) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + w * line_lanes), totals[w]); }
}

/// The same with weights of 8 bits. Without VNNI, products of codes below 16 are added up in 16 bits, eight times at most: 8 * 2 * 15 * 127 =
/// 30480; a code of eight bits is taken as two of four.
template <int Width, std::size_t Weights>
[[gnu::noinline]] inline void half_dots(const std::uint8_t* lines, std::size_t count, const std::int8_t* weights, std::size_t stride,
                                        const std::uint8_t* ahead, std::int32_t* sums) noexcept {
  constexpr std::size_t fields = 8 / Width;
  const __m256i mask = _mm256_set1_epi8(static_cast<char>(Width == 8 ? 15 : (1 << Width) - 1));
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i totals[Weights];
#pragma GCC unroll 4
  for (std::size_t w = 0; w < Weights; ++w) { totals[w] = _mm256_setzero_si256(); }
  const std::int8_t* rows[Weights];
#pragma GCC unroll 4
  for (std::size_t w = 0; w < Weights; ++w) { rows[w] = weights + w * stride; }
  const auto codes_of = [&](std::size_t line) {
    _mm_prefetch(reinterpret_cast<const char*>(ahead + 64 * line), _MM_HINT_T1);
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(lines + 64 * line));
  };
  if constexpr (has_vnni) {
    for (std::size_t line = 0; line < count; ++line) {
      const __m256i codes = codes_of(line);
#pragma GCC unroll 8
      for (std::size_t j = 0; j < fields; ++j) {
        const __m256i field = Width == 8 ? codes : _mm256_and_si256(_mm256_srli_epi16(codes, Width * static_cast<int>(j)), mask);
#pragma GCC unroll 4
        for (std::size_t w = 0; w < Weights; ++w) { totals[w] = in_turn(add_bytes(totals[w], field, weights_at(rows[w] + 4 * j))); }
      }
#pragma GCC unroll 4
      for (std::size_t w = 0; w < Weights; ++w) { rows[w] += 4 * fields; }
    }
  } else {
    constexpr std::size_t lines_at_once = Width;  // eight additions in 16 bits
    constexpr std::size_t nibbles = Width == 8 ? 2 : 1;
    for (std::size_t first = 0; first < count; first += lines_at_once) {
      const std::size_t last = first + lines_at_once < count ? first + lines_at_once : count;
      __m256i words[nibbles][Weights];
#pragma GCC unroll 2
      for (std::size_t n = 0; n < nibbles; ++n) {
#pragma GCC unroll 4
        for (std::size_t w = 0; w < Weights; ++w) { words[n][w] = _mm256_setzero_si256(); }
      }
      for (std::size_t line = first; line < last; ++line) {
        const __m256i codes = codes_of(line);
#pragma GCC unroll 8
        for (std::size_t j = 0; j < fields; ++j) {
#pragma GCC unroll 2
          for (std::size_t n = 0; n < nibbles; ++n) {
            const __m256i field = _mm256_and_si256(_mm256_srli_epi16(codes, Width * static_cast<int>(j) + 4 * static_cast<int>(n)), mask);
#pragma GCC unroll 4
            for (std::size_t w = 0; w < Weights; ++w) {
              words[n][w] = in_turn(_mm256_add_epi16(words[n][w], _mm256_maddubs_epi16(field, weights_at(rows[w] + 4 * j))));
            }
          }
        }
#pragma GCC unroll 4
        for (std::size_t w = 0; w < Weights; ++w) { rows[w] += 4 * fields; }
      }
#pragma GCC unroll 4
      for (std::size_t w = 0; w < Weights; ++w) {
        totals[w] = _mm256_add_epi32(totals[w], _mm256_madd_epi16(words[0][w], ones));
        if constexpr (nibbles == 2) { totals[w] = _mm256_add_epi32(totals[w], _mm256_slli_epi32(_mm256_madd_epi16(words[1][w], ones), 4)); }
      }
    }
  }
#pragma GCC unroll 4
  for (std::size_t w = 0; w < Weights; ++w) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + w * line_lanes), totals[w]); }
}

template <int Width, std::size_t Weights, class Weight>
inline void lane_dots(const std::uint8_t* lines, std::size_t count, const Weight* weights, std::size_t stride, const std::uint8_t* ahead,
                      std::int32_t (*sums)[line_lanes]) noexcept {
  for (std::size_t half = 0; half < 2; ++half) {
    half_dots<Width, Weights>(lines + 32 * half, count, weights, stride, half == 0 ? ahead : lines, &sums[0][8 * half]);
  }
}

}  // namespace kvcompress::simd::avx2

#endif
