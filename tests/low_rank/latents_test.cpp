// tests/low_rank/latents_test.cpp - xKV over the latents of multi-head latent attention: key and value in one row.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include "kvcompress/policies/streaming_llm.hpp"
#include "kvcompress/policies/xkv.hpp"
#include "support/counting_memory.hpp"
#include "support/policies.hpp"

namespace latents_test {

using namespace kvcompress;
using namespace kvcompress::test;

const Shape mla{.layers = 3, .query_heads = 4, .kv_heads = 1, .head_dim = 40, .key_dim = 40, .value_dim = 32, .rope = {.theta = 0.0}};

/// Texts whose values are the leading channels of their keys.
std::vector<Text> latent_texts(std::size_t tokens) {
  std::vector<Text> texts;
  for (unsigned layer = 0; layer < mla.layers; ++layer) {
    Text& text = texts.emplace_back(mla, tokens, 60 + layer);
    for (std::size_t t = 0; t < tokens; ++t) {
      std::copy_n(text.keys.begin() + static_cast<std::ptrdiff_t>(40 * t), 32, text.values.begin() + static_cast<std::ptrdiff_t>(32 * t));
    }
  }
  return texts;
}
template <class P>
void check(const PolicyOptions<P>& options, double full_bound) {
  const std::vector<Text> texts = latent_texts(330);
  CountingMemory memory;
  KVCache<P> cache(mla, options, memory.handle());
  for (std::size_t t = 0, count = 0; t < 330; t += count) {
    count = t == 0 ? 150 : 1;
    for (std::size_t layer = 0; layer < mla.layers; ++layer) {
      const Outputs out = step(cache, texts[layer], t, count, layer);
      if (t % 9 != 0 && t != 0) { continue; }
      ASSERT_LT(deviation(out, attention_over_held_rows(cache, texts[layer], t + count, count, layer)), 3e-5)
          << "token " << t << ", layer " << layer;
    }
    for (std::size_t layer = 0; layer < mla.layers; ++layer) { t == 0 ? cache.end_prompt(layer) : cache.commit(layer); }
    ASSERT_EQ(cache.memory().total(), memory.bytes);
  }
  std::vector<float> key(40);
  std::vector<float> value(32);
  for (std::size_t layer = 0; layer < mla.layers; ++layer) {
    const RowTable& table = cache.table(layer, 0);
    for (std::size_t row = 0; row < table.rows(); ++row) {
      if (!table.alive(row)) { continue; }
      cache.read(layer, 0, row, key.data(), value.data());
      for (std::size_t c = 0; c < 40; ++c) {
        const float given = texts[layer].keys[40 * table.position(row) + c];
        ASSERT_NEAR(key[c], given, c < 32 ? full_bound : 0.0) << "channel " << c << ", position " << table.position(row);
      }
      ASSERT_TRUE(std::equal(value.begin(), value.end(), key.begin()));
    }
  }
}

TEST(Latents, FullRankIsExactAndRotaryKeysAreBitIdentical) {
  check<XKVLatents<float>>({.storage = {{.layers_per_group = 2, .rank_keys = 64}, 32}}, 2e-5);
}

TEST(Latents, AttentionIsOverTheHeldRowsAtLowRank) {
  check<XKVLatents<float>>({.storage = {{.layers_per_group = 3, .rank_keys = 20}, 32}}, 6.0);
}

TEST(Latents, BlocksOfEvictedRowsGo) {
  PolicyOptions<Combine<StreamingLLM, XKVLatents<float>>> options;
  options.storage.latent = 32;
  options.storage.rank_keys = 24;
  options.eviction = {.sinks = 2, .window = 60, .in_cache_positions = false};
  check(options, 6.0);
}

TEST(Latents, AlatentIsHeldOnce) {
  const std::vector<Text> texts = latent_texts(256);
  KVCache<XKVLatents<half>> cache(mla, {.storage = {{.layers_per_group = 3, .rank_keys = 24}, 32}});
  for (std::size_t layer = 0; layer < mla.layers; ++layer) { static_cast<void>(step(cache, texts[layer], 0, 256, layer)); }
  for (std::size_t layer = 0; layer < mla.layers; ++layer) { cache.end_prompt(layer); }
  const MemoryReport report = cache.memory();
  EXPECT_EQ(report.factors, (256U + 3U * 32U) * 24U * 2U);
  EXPECT_EQ(report.exact_rows, 3U * 256U * 8U * 2U) << "the rotary keys";
}

}  // namespace latents_test
