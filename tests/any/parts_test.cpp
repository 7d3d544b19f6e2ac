// tests/any/parts_test.cpp - the parts of evictions that no other test lives with: a cache of theirs is saved and loaded, keeps its budget, and refuses
// options that are wrong.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include "any/lives.hpp"
#include "kvcompress/any/any_eviction.hpp"
#include "kvcompress/eviction/allocators/head_table.hpp"
#include "kvcompress/eviction/allocators/pruned_shares.hpp"
#include "kvcompress/eviction/allocators/top_mass.hpp"
#include "kvcompress/eviction/scorers/attention_moments.hpp"
#include "kvcompress/eviction/scorers/average_attention.hpp"
#include "kvcompress/eviction/scorers/decayed_attention.hpp"
#include "kvcompress/eviction/scorers/in_chunks.hpp"
#include "kvcompress/eviction/scorers/key_difference.hpp"
#include "kvcompress/eviction/scorers/key_leverage.hpp"
#include "kvcompress/eviction/scorers/largest_attention.hpp"
#include "kvcompress/eviction/scorers/output_change.hpp"
#include "kvcompress/eviction/scorers/row_norms.hpp"
#include "kvcompress/eviction/selectors/best_of_each_chunk.hpp"
#include "kvcompress/eviction/selectors/crush.hpp"
#include "kvcompress/eviction/selectors/gated_chunks.hpp"
#include "kvcompress/policies/chunkkv.hpp"
#include "kvcompress/policies/criticalkv.hpp"
#include "kvcompress/policies/finch.hpp"
#include "kvcompress/policies/keyformer.hpp"
#include "kvcompress/policies/knorm.hpp"
#include "kvcompress/policies/lagkv.hpp"
#include "kvcompress/policies/prefixkv.hpp"
#include "kvcompress/policies/qfilters.hpp"
#include "kvcompress/policies/simlayerkv.hpp"
#include "kvcompress/policies/triattention.hpp"

namespace parts_test {

using namespace kvcompress;
using namespace kvcompress::test;

struct Chosen {
  using Eviction = AnyEviction;
};
const Shape shape{.layers = 2, .query_heads = 4, .kv_heads = 2, .head_dim = 32};

template <class E>
KVCache<Chosen> cache_of(const typename E::Options& options) {
  KVCache<Chosen>::Options all;
  all.eviction.chosen = {{AnyEviction::of<E>(options)}, {}};
  all.speculation = 3;
  return KVCache<Chosen>(shape, all);
}
/// Lives; a cache that loads what it saved goes on as it does. At most `most` rows of a prompt stay, all decoded ones where `later` is so.
template <class E>
void expect_life(const typename E::Options& options, std::size_t most) {
  const Text text(shape, 210, 7);
  KVCache<Chosen> cache = cache_of<E>(options);
  live(cache, text, shape);
  for (std::size_t layer = 0; layer < shape.layers; ++layer) {
    for (std::size_t head = 0; head < shape.kv_heads; ++head) {
      const auto kept = cache.kept(layer, head);
      EXPECT_FALSE(kept.empty());
      EXPECT_LE(std::count_if(kept.begin(), kept.end(), [](auto position) { return position < 150; }), static_cast<std::ptrdiff_t>(most));
    }
  }
  KVCache<Chosen> loaded = cache_of<E>(options);
  load_from(loaded, saved(cache));
  EXPECT_EQ(step(loaded, text, 202, 2, 1), step(cache, text, 202, 2, 1));
  cache.commit(1);
  loaded.commit(1);
  EXPECT_EQ(saved(loaded), saved(cache));
  for (std::size_t head = 0; head < shape.kv_heads; ++head) { EXPECT_EQ(loaded.kept(1, head), cache.kept(1, head)); }
}
template <class E>
void expect_refused(const typename E::Options& options, const std::string& sentence) {
  try {
    cache_of<E>(options);
    ADD_FAILURE() << "made, expected: " << sentence;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::option);
    EXPECT_EQ(error.what(), "kvcompress: " + sentence);
  }
}
std::vector<float> some_numbers(std::size_t count) {
  std::vector<float> numbers(count);
  for (std::size_t i = 0; i < count; ++i) { numbers[i] = static_cast<float>(i % 7) - 3.0F; }
  return numbers;
}
const LoadedNumbers keys(some_numbers(2 * 2 * 32));
const LoadedNumbers queries(some_numbers(2 * 4 * 32));
const LoadedNumbers lengths(std::vector<float>(2 * 4 * 16, 4.0F));
const WindowAttention::Options window{.window = 8};

TEST(Parts, ScorersOfKeysAndValuesLive) {
  expect_life<Knorm::Eviction>({.budget = 40}, 40);
  expect_life<LagKV::Eviction>({.budget = 60, .scorer = {.lag = 16}}, 60);
  expect_life<LagKV::Eviction>({.budget = 60, .scorer = {.lag = 100}}, 60);
  expect_life<Evict<RowNorms>>({.budget = 60}, 60);
  expect_life<Evict<KeyLeverage>>({.budget = 60, .scorer = {.rank = 8}}, 60);
  expect_life<QFilters::Eviction>({.budget = 60, .period = 10, .scorer = {.filters = keys}}, 60);
  expect_life<TriAttention::Eviction>({.budget = 60, .scorer = {.means = queries, .lengths = lengths}}, 60);
  expect_life<TriAttention::Eviction>({.budget = 170, .period = 10, .scorer = {.means = queries, .lengths = lengths}}, 150);
}
TEST(Parts, ScorersOfAttentionLive) {
  expect_life<Evict<AverageAttention>>({.budget = 40, .recent = 10}, 40);
  expect_life<Keyformer::Eviction>({.budget = 40}, 40);
  expect_life<Evict<DecayedAttention>>({.budget = 40, .sinks = 4, .recent = 10, .period = 20, .scorer = {.window = 16}}, 40);
  expect_life<Evict<OutputChange>>({.budget = 60, .scorer = {.window = 8}}, 60);
  expect_life<FINCH::Eviction>({.budget = 60, .scorer = {.window = 8}}, 60);
  expect_life<Evict<LargestAttention>>({.budget = 60, .scorer = {.value_norm = true}}, 60);
  expect_life<Evict<AttentionMoments>>({.budget = 60, .scorer = {.window = 8}}, 60);
}
TEST(Parts, LoadedNumbersAreThoseOfASavedCache) {
  const Text text(shape, 210, 7);
  KVCache<Chosen> cache = cache_of<QFilters::Eviction>({.budget = 60, .scorer = {.filters = keys}});
  live(cache, text, shape);
  std::vector<float> others = some_numbers(keys.size());
  others.back() += 1.0F;
  KVCache<Chosen> other = cache_of<QFilters::Eviction>({.budget = 60, .scorer = {.filters = LoadedNumbers(others)}});
  test::expect_refused(other, saved(cache), "load: options.eviction.filters.hash is ");
}
/// Padding goes before rows are scored: what stays is the same as without it, but for the positions.
template <class E>
void expect_unpadded(const typename E::Options& options) {
  constexpr std::size_t padding = 5;
  const Text text(shape, 210, 9);
  KVCache<Chosen> padded = cache_of<E>(options);
  KVCache<Chosen> plain = cache_of<E>(options);
  step(padded, text, 0, 100, 0, {.start = padding});
  step(plain, text, padding, 100 - padding, 0);
  padded.end_prompt(0);
  plain.end_prompt(0);
  for (std::size_t head = 0; head < shape.kv_heads; ++head) {
    auto shifted = plain.kept(0, head);
    for (auto& position : shifted) { position += padding; }
    EXPECT_EQ(padded.kept(0, head), shifted) << E::name;
  }
}
TEST(Parts, DoNotSeePadding) {
  expect_unpadded<Knorm::Eviction>({.budget = 40});
  expect_unpadded<LagKV::Eviction>({.budget = 40, .scorer = {.lag = 16}});
  expect_unpadded<Evict<RowNorms>>({.budget = 40});
  expect_unpadded<Evict<AverageAttention>>({.budget = 40});
  expect_unpadded<Evict<DecayedAttention>>({.budget = 40, .scorer = {.window = 16}});
  expect_unpadded<Evict<OutputChange>>({.budget = 40, .scorer = {.window = 8}});
  expect_unpadded<ChunkKV::Eviction>({.budget = 40, .scorer = window});
  expect_unpadded<CriticalKV::Eviction>({.budget = 40, .scorer = window});
  expect_unpadded<SimLayerKV::Eviction>({.threshold = 0.0, .recent = 32});
  expect_unpadded<PrefixKV::Eviction>({.removed = LoadedNumbers(std::vector<float>{0.5F, 1.0F})});
}
TEST(Parts, SelectorsLive) {
  expect_life<ChunkKV::Eviction>({.budget = 60, .scorer = window}, 60);
  expect_life<ChunkKV::Eviction>({.budget = 60, .sinks = 3, .scorer = window, .selector = {.length = 70}}, 60);
  expect_life<Evict<InLayer<WindowAttention>, Uniform, GatedChunks>>({.budget = 60, .scorer = window}, 60);
  expect_life<Evict<InChunks<KeyDifference>, Uniform, BestOfEachChunk>>(
      {.budget = 60, .scorer = {.length = 40}, .selector = {.length = 40}}, 60);
  expect_life<Evict<WindowAttention, Uniform, Crush>>({.budget = 60, .scorer = window, .selector = {.block = 8}}, 60);
  expect_life<CriticalKV::Eviction>({.budget = 60, .scorer = window}, 60);
  expect_life<CriticalAdaKV::Eviction>({.budget = 60, .scorer = window}, 120);
}
TEST(Parts, BudgetsOfLayersAndHeadsLive) {
  const LoadedNumbers table(std::vector<float>{10, 20, 30, 40, 0, 1, 200, 200});
  expect_life<Evict<WindowAttention, HeadTable>>({.budget = 60, .scorer = window, .allocator = {.rows = table}}, 150);
  expect_life<Evict<WindowAttention, TopMass>>({.budget = 60, .scorer = window, .allocator = {.mass = 0.5}}, 60);
  const LoadedNumbers shares(std::vector<float>{0.5F, 0.5F, 0.9F, 0.1F});
  expect_life<Evict<WindowAttention, PrunedShares>>({.budget = 60, .scorer = window, .allocator = {.shares = shares}}, 135);
  expect_life<SimLayerKV::Eviction>({.threshold = 0.0, .recent = 32}, 4 + 31);
  expect_life<SimLayerKV::Eviction>({.threshold = 1.0, .recent = 32}, 150);
  expect_life<PrefixKV::Eviction>({.removed = LoadedNumbers(std::vector<float>{0.5F, 1.0F})}, 75);
}
TEST(Parts, RefuseWrongOptions) {
  expect_refused<LagKV::Eviction>({.scorer = {.lag = 0}}, "lag_relative: lag is 0, must be 1 to 4294967294");
  expect_refused<Evict<RowNorms>>({.scorer = {.projection = LoadedNumbers(some_numbers(33))}},
                                  "row_norms: projection has 33 numbers, must have a multiple of the key width = 32");
  expect_refused<Evict<KeyLeverage>>({.scorer = {.rank = 2000}}, "key_leverage: rank is 2000, must be 1 to 1024");
  expect_refused<QFilters::Eviction>({}, "filtered_keys: filters has 0 numbers, must have layers * kv_heads * the key width = 128");
  expect_refused<TriAttention::Eviction>({.scorer = {.means = queries}},
                                         "future_logits: lengths has 0 numbers, must have layers * query_heads * rotary pairs = 128");
  expect_refused<Keyformer::Eviction>({.scorer = {.temperature = 0.0}}, "noisy_attention: temperature is 0, must be 0.01 to 1000");
  expect_refused<Evict<DecayedAttention>>({.scorer = {.decay = 1.5}}, "decayed_attention: decay is 1.5, must be 0 to 1");
  expect_refused<Evict<OutputChange>>({.scorer = {.kernel = 4}}, "output_change: kernel is 4, must be odd");
  expect_refused<Evict<InChunks<KeyDifference>>>({.scorer = {.length = 0}}, "in_chunks: length is 0, must be 1 to 4294967294");
  expect_refused<Evict<WindowAttention, HeadTable>>({}, "head_table: rows has 0 numbers, must have layers * query_heads = 8");
  expect_refused<Evict<WindowAttention, PrunedShares>>({}, "pruned_shares: shares has 0 numbers, must have layers * kv_heads = 4");
  expect_refused<Evict<WindowAttention, TopMass>>({.allocator = {.mass = 2.0}}, "top_mass: mass is 2, must be 0 to 1");
  expect_refused<Evict<AttentionMoments>>({.scorer = {.window = 1}}, "attention_moments: window is 1, must be at least 2");
  expect_refused<SimLayerKV::Eviction>({.recent = 1}, "lazy_layers: recent is 1, must be 2 to 4294967294");
  expect_refused<PrefixKV::Eviction>({}, "prefix_layers: removed has 0 numbers, must have one for each of 2 layers");
}

}  // namespace parts_test
