// include/kvcompress/simd/avx2.hpp - the SIMD vocabulary on AVX2, FMA and F16C; meanings stand in scalar.hpp.
// SPDX-License-Identifier: MIT
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kvcompress/core/half.hpp"

namespace kvcompress::simd::avx2 {

inline constexpr std::size_t lanes = 8;

struct f32 {
  __m256 v;
};

inline f32 set(float x) noexcept { return {_mm256_set1_ps(x)}; }
inline f32 load(const float* from) noexcept { return {_mm256_loadu_ps(from)}; }
inline f32 load(const half* from) noexcept {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)))};
}
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
inline f32 mul(f32 a, f32 b) noexcept { return {_mm256_mul_ps(a.v, b.v)}; }
inline f32 fma(f32 a, f32 b, f32 c) noexcept { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
inline f32 max(f32 a, f32 b) noexcept { return {_mm256_max_ps(a.v, b.v)}; }

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
inline float reduce_max(f32 x) noexcept {
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(x.v), _mm256_extractf128_ps(x.v, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

template <int Bits>
inline f32 unpack(const std::uint8_t* from) noexcept {
  if constexpr (Bits == 8) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
    return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes))};
  } else if constexpr (Bits == 1 || Bits == 2 || Bits == 4) {
    std::uint32_t word = 0;
    std::memcpy(&word, from, Bits);
    const __m256i shifts = _mm256_setr_epi32(0, Bits, 2 * Bits, 3 * Bits, 4 * Bits, 5 * Bits, 6 * Bits, 7 * Bits);
    const __m256i codes = _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32(static_cast<int>(word)), shifts),
                                           _mm256_set1_epi32((1 << Bits) - 1));
    return {_mm256_cvtepi32_ps(codes)};
  } else {
    std::uint64_t word = 0;
    std::memcpy(&word, from, Bits);
    const __m256i all = _mm256_set1_epi64x(static_cast<long long>(word));
    const __m256i low = _mm256_srlv_epi64(all, _mm256_setr_epi64x(0, Bits, 4 * Bits, 5 * Bits));
    const __m256i high = _mm256_srlv_epi64(all, _mm256_setr_epi64x(2 * Bits, 3 * Bits, 6 * Bits, 7 * Bits));
    const __m256 both = _mm256_shuffle_ps(_mm256_castsi256_ps(low), _mm256_castsi256_ps(high), 0x88);
    return {_mm256_cvtepi32_ps(_mm256_and_si256(_mm256_castps_si256(both), _mm256_set1_epi32((1 << Bits) - 1)))};
  }
}

}  // namespace kvcompress::simd::avx2
