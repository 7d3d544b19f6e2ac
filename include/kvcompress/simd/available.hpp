// include/kvcompress/simd/available.hpp - which backends the flags of this translation unit allow.
// SPDX-License-Identifier: MIT
#pragma once

#if !defined(KVCOMPRESS_SCALAR) && defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__) && \
    defined(__AVX512VNNI__)
#define KVCOMPRESS_AVX512 1
#endif
#if !defined(KVCOMPRESS_SCALAR) && defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define KVCOMPRESS_AVX2 1
#endif
#if !defined(KVCOMPRESS_SCALAR) && defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)
#define KVCOMPRESS_NEON 1
#endif
