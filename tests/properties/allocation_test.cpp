// tests/properties/allocation_test.cpp - when decoding takes memory: never under a budget, never after reserve, else once per block.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include "support/counting_memory.hpp"
#include "support/policies.hpp"

namespace allocation_test {

using namespace kvcompress;
using namespace kvcompress::test;

const Shape small{.query_heads = 4, .kv_heads = 2, .head_dim = 32};

/// Decodes the tokens [first, last) with commits, in the cache's own workspace.
template <class P>
void decode(KVCache<P>& cache, const Text& text, std::size_t first, std::size_t last) {
  Outputs out(text.output_width());
  for (std::size_t t = first; t < last; ++t) {
    cache.append(0, text.key_rows(t, 1), text.value_rows(t, 1));
    cache.attend(0, text.query_rows(t, 1), Output::tokens_first(out.data(), 1, small.query_heads, small.head_dim));
    cache.commit(0);
  }
}
template <class P>
void prefill(KVCache<P>& cache, const Text& text, std::size_t prompt) {
  Outputs out(prompt * text.output_width());
  cache.append(0, text.key_rows(0, prompt), text.value_rows(0, prompt));
  cache.attend(0, text.query_rows(0, prompt), Output::tokens_first(out.data(), prompt, small.query_heads, small.head_dim));
  cache.end_prompt(0);
}

template <class P>
class Allocation : public ::testing::Test {};
TYPED_TEST_SUITE(Allocation, Policies);

TYPED_TEST(Allocation, NoneInSteadyStateUnderABudget) {
  if constexpr (evicts<TypeParam>) {
    const Text text(small, 1700, 41);
    CountingMemory memory;
    KVCache<TypeParam> cache(small, options_with<TypeParam>(96), memory.handle());
    prefill(cache, text, 200);
    decode(cache, text, 200, 700);
    const std::size_t bytes = memory.bytes;
    memory.restart();
    decode(cache, text, 700, text.tokens);
    EXPECT_EQ(memory.calls, 0U);
    EXPECT_EQ(memory.bytes, bytes);
  }
}

TYPED_TEST(Allocation, NoneAfterReserve) {
  for (const bool before_the_prompt : {false, true}) {
    const Text text(small, 900, 42);
    CountingMemory memory;
    KVCache<TypeParam> cache(small, options_with<TypeParam>(), memory.handle());
    if (before_the_prompt) { cache.reserve(text.tokens); }
    prefill(cache, text, 100);
    decode(cache, text, 100, 101);  // the first decoded token may size the workspace
    if (!before_the_prompt) { cache.reserve(text.tokens); }
    memory.restart();
    decode(cache, text, 101, text.tokens);
    EXPECT_EQ(memory.calls, 0U) << (before_the_prompt ? "reserved before the prompt" : "reserved after the prompt");
  }
}

TYPED_TEST(Allocation, AtMostOnePerBlockOtherwise) {
  const Text text(small, 1200, 43);
  CountingMemory memory;
  KVCache<TypeParam> cache(small, options_with<TypeParam>(), memory.handle());
  prefill(cache, text, 100);
  decode(cache, text, 100, 176);
  memory.restart();
  decode(cache, text, 176, text.tokens);
  // A block per 32 exact or 128 encoded rows for the keys and the values of each of two lanes, beside it one per 8 keys that wait to
  // be encoded; and tables that double: of blocks, positions and scores (three times for 1024 more rows), and the workspace's logits.
  const std::size_t rows = text.tokens - 176;
  const std::size_t blocks = 2 * (encodes<TypeParam> ? 2 * rows / 128 + rows / 8 : 2 * rows / 32);
  EXPECT_LE(memory.calls, blocks + 2 * 2 * 3 + 2 * 2 * 3 + 2 * 3);
  EXPECT_GE(memory.calls, 2 * 2 * rows / (encodes<TypeParam> ? 128 : 32));
}

}  // namespace allocation_test
