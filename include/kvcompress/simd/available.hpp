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

// The instruction set's name, a part of the library's inline namespace (core/abi.hpp): the backend and what else changes its code.
#if defined(KVCOMPRESS_AVX512) && defined(__AVX512BF16__)
#define KVCOMPRESS_INSTRUCTION_SET avx512_bf16
#elif defined(KVCOMPRESS_AVX512)
#define KVCOMPRESS_INSTRUCTION_SET avx512
#elif defined(KVCOMPRESS_AVX2) && ((defined(__AVX512VNNI__) && defined(__AVX512VL__)) || defined(__AVXVNNI__))
#define KVCOMPRESS_INSTRUCTION_SET avx2_vnni
#elif defined(KVCOMPRESS_AVX2)
#define KVCOMPRESS_INSTRUCTION_SET avx2
#elif defined(KVCOMPRESS_NEON)
#define KVCOMPRESS_INSTRUCTION_SET neon
#elif defined(__AVX512F__)
#define KVCOMPRESS_INSTRUCTION_SET scalar_avx512
#elif defined(__AVX2__)
#define KVCOMPRESS_INSTRUCTION_SET scalar_avx2
#elif defined(__AVX__)
#define KVCOMPRESS_INSTRUCTION_SET scalar_avx
#else
#define KVCOMPRESS_INSTRUCTION_SET scalar
#endif
