// include/kvcompress/simd/native.hpp - picks the backend of this translation unit: the widest that its compiler flags allow.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/simd/available.hpp"

#if defined(KVCOMPRESS_AVX512)
#include "kvcompress/simd/avx512.hpp"
namespace kvcompress::inline KVCOMPRESS_ABI::simd {
namespace native = avx512;
inline constexpr const char* backend = "AVX-512 VNNI";
}  // namespace kvcompress::simd
#elif defined(KVCOMPRESS_AVX2)
#include "kvcompress/simd/avx2.hpp"
namespace kvcompress::inline KVCOMPRESS_ABI::simd {
namespace native = avx2;
inline constexpr const char* backend = avx2::has_vnni ? "AVX2 VNNI" : "AVX2";
}  // namespace kvcompress::simd
#elif defined(KVCOMPRESS_NEON)
#include "kvcompress/simd/neon.hpp"
namespace kvcompress::inline KVCOMPRESS_ABI::simd {
namespace native = neon;
inline constexpr const char* backend = "NEON";
}  // namespace kvcompress::simd
#else
#include "kvcompress/simd/scalar.hpp"
namespace kvcompress::inline KVCOMPRESS_ABI::simd {
namespace native = scalar;
inline constexpr const char* backend = "scalar";
}  // namespace kvcompress::simd
#endif
