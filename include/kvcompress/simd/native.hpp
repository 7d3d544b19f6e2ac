// include/kvcompress/simd/native.hpp - picks the backend of this translation unit from its compiler flags.
// SPDX-License-Identifier: MIT
#pragma once

#if !defined(KVCOMPRESS_SCALAR) && defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#include "kvcompress/simd/avx2.hpp"
namespace kvcompress::simd {
namespace native = avx2;
inline constexpr const char* backend = "AVX2";
}  // namespace kvcompress::simd

#else

#include "kvcompress/simd/scalar.hpp"
namespace kvcompress::simd {
namespace native = scalar;
inline constexpr const char* backend = "scalar";
}  // namespace kvcompress::simd

#endif
