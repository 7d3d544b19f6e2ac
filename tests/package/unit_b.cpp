// tests/package/unit_b.cpp - the other one: both say the same of the same type.
// SPDX-License-Identifier: MIT
#include KVCOMPRESS_UMBRELLA

std::size_t bytes_in_a(std::size_t tokens);

int main() {
  using Cache = kvcompress::KVCache<kvcompress::StreamingLLM>;
  const std::size_t here = Cache::bytes_for({.query_heads = 2, .kv_heads = 2, .head_dim = 16}, 100);
  return here > 0 && here == bytes_in_a(100) && kvcompress::version_major == 0 ? 0 : 1;
}
