// examples/dispatch/attention.hpp - what the program and its variants share: plain functions, no type of the library.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

/// One compiled variant of the library, seen from outside. A cache is made, filled and read by the same variant.
struct AttentionVariant {
  const char* backend;  ///< the vector instructions it uses
  void* (*create)(std::size_t query_heads, std::size_t kv_heads, std::size_t head_dim);
  /// Keys and values (tokens, kv_heads, head_dim).
  void (*append)(void* cache, const float* keys, const float* values, std::size_t tokens);
  /// Ends the prompt: rows are compressed from here on.
  void (*end_prompt)(void* cache);
  /// Attention of the newest token: queries and out (query_heads, head_dim).
  void (*attend)(void* cache, const float* queries, float* out);
  void (*destroy)(void* cache);
};

// attention.cpp, compiled for each instruction set.
extern const AttentionVariant attention_baseline;
extern const AttentionVariant attention_avx2;
extern const AttentionVariant attention_avx512;
