// include/kvcompress/simd/x86_quads.hpp - quads of the SIMD vocabulary, the same for AVX2 and AVX-512; meanings stand in scalar.hpp.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/simd/available.hpp"

#if defined(KVCOMPRESS_AVX2)

#include <immintrin.h>

namespace kvcompress::inline KVCOMPRESS_ABI::simd::x86 {

struct quad {
  __m128 v;
};

inline quad load_quad(const float* from) noexcept { return {_mm_loadu_ps(from)}; }
inline void store(float* to, quad x) noexcept { _mm_storeu_ps(to, x.v); }
inline quad add(quad a, quad b) noexcept { return {_mm_add_ps(a.v, b.v)}; }
inline quad fma(float a, quad b, quad c) noexcept { return {_mm_fmadd_ps(_mm_set1_ps(a), b.v, c.v)}; }
inline void transpose(quad& a, quad& b, quad& c, quad& d) noexcept { _MM_TRANSPOSE4_PS(a.v, b.v, c.v, d.v); }

}  // namespace kvcompress::simd::x86

#endif
