// tests/package/unit_a.cpp - one of two source files of a program that include the library, in the test's way; see unit_b.cpp.
// SPDX-License-Identifier: MIT
#include KVCOMPRESS_UMBRELLA

std::size_t bytes_in_a(std::size_t tokens) {
  return kvcompress::KVCache<kvcompress::StreamingLLM>::bytes_for({.query_heads = 2, .kv_heads = 2, .head_dim = 16}, tokens);
}
