// tests/quantization/gear_eviction_test.cpp - rows that leave GEAR's stores: dead segments, and live rows encoded anew.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "kvcompress/policies/gear.hpp"
#include "kvcompress/policies/streaming_llm.hpp"
#include "support/counting_memory.hpp"
#include "support/gear_stores.hpp"
#include "support/random_matrix.hpp"
#include "support/random_rows.hpp"

namespace gear_eviction_test {

using namespace kvcompress;
using namespace kvcompress::test;
using reference::Index;
using reference::Matrix;
using Heads = std::vector<Matrix>;
using Keys = GearKeys<4, Kcvt, float>;
using GroupKeys = GearKeys<4, KiviGroups<32>, float>;
using Values = GearValues<4, Kcvt, ValueVectors::layer, float>;

Heads random_heads(std::size_t tokens, std::size_t dim, unsigned seed) {
  std::mt19937 rng(seed);
  Heads all;
  for (int h = 0; h < 2; ++h) {
    all.emplace_back(random_matrix(rng, static_cast<Index>(tokens), static_cast<Index>(dim)).cast<float>().cast<double>());
  }
  return all;
}
/// A prompt and decoded tokens one by one.
template <class Store, class Options>
GearLayer<Store> filled(const Heads& x, const Options& options, std::size_t prompt, const Memory& memory = {}) {
  const auto tokens = static_cast<std::size_t>(x[0].rows());
  GearLayer<Store> layer(2, static_cast<std::size_t>(x[0].cols()), options, memory);
  layer.append(x, 0, prompt);
  layer.settle(true);
  for (std::size_t t = prompt; t < tokens; ++t) {
    layer.append(x, t, t + 1);
    layer.settle(false);
  }
  return layer;
}
/// A table in which every row is alive but those that dead(row) names.
template <class Dead>
RowTable table_of(std::size_t rows, Dead&& dead) {
  RowTable table(false, {});
  for (std::size_t r = 0; r < rows; ++r) { table.append(static_cast<Position>(r)); }
  Vector<Position> order;
  table.prepare_to_kill(order);
  for (std::size_t r = 0; r < rows; ++r) {
    if (dead(r)) { table.kill(r); }
  }
  table.settle(order);
  return table;
}
std::vector<Index> survivors(const RowTable& table) {
  std::vector<Index> rows;
  for (std::size_t r = 0; r < table.rows(); ++r) {
    if (table.alive(r)) { rows.push_back(static_cast<Index>(r)); }
  }
  return rows;
}

TEST(GearEviction, BlocksAreSegmentsAndLeaveWhole) {
  const Heads x = random_heads(150, 16, 1);
  auto layer = filled<Keys>(x, GearOptions<20>{}, 70);  // segments of 60, 20, 20, 20, 20 rows, 10 exact ones
  Keys& keys = layer.stores[0];
  ASSERT_EQ(keys.settled(), 140U);
  for (const auto& [row, first, last] : {std::array<std::size_t, 3>{0, 0, 60}, {59, 0, 60}, {60, 60, 80}, {99, 80, 100}, {139, 120, 140}}) {
    EXPECT_EQ(keys.block_at(row).first, first);
    EXPECT_EQ(keys.block_at(row).last, last);
  }
  const Matrix before = layer.decoded(0);
  keys.erase_block(80);
  keys.erase_block(0);
  ASSERT_EQ(keys.rows(), 70U);
  Matrix expected(70, 16);
  expected << before.middleRows(60, 20), before.middleRows(100, 50);
  EXPECT_EQ(layer.decoded(0), expected);
}

/// Removes dead rows: those of untouched segments and exact ones stay bit for bit, the others within what a second encoding costs.
template <class Store, class Options>
void check_compaction(const Options& options, std::size_t multiple) {
  std::mt19937 rng(2);
  const Heads x = random_heads(333, 24, 2);
  for (int round = 0; round < 8; ++round) {
    auto layer = filled<Store>(x, options, 130);
    const std::size_t settled = layer.stores[0].settled();
    std::vector<Store> fork(layer.stores);  // goes on reading the old segments
    const Heads before{layer.decoded(0), layer.decoded(1)};
    const RowTable table = table_of(
        333, [&](std::size_t r) { return round == 7 ? r < 330 : r >= 64 && r % 8 <= static_cast<std::size_t>(round) && rng() % 4 > 0; });
    const auto rows = survivors(table);
    layer.compact(table);
    for (std::size_t h = 0; h < 2; ++h) {
      const Store& store = layer.stores[h];
      ASSERT_EQ(store.rows(), rows.size());
      EXPECT_EQ(store.settled() % multiple, 0U);
      EXPECT_LE(store.rows() - store.settled(), 2 * options.buffer);
      const Matrix expected = before[h](rows, Eigen::indexing::all);
      const Matrix after = layer.decoded(h);
      EXPECT_LE((after - expected).norm(), 0.15 * expected.norm());
      std::size_t exact = 0;  // rows that were exact and still are
      for (const Index row : rows) { exact += static_cast<std::size_t>(row) >= settled ? 1U : 0U; }
      EXPECT_EQ(after.bottomRows(static_cast<Index>(exact)), expected.bottomRows(static_cast<Index>(exact)));
      EXPECT_EQ(store.settled(), layer.stores[0].settled());
    }
    layer.stores.swap(fork);
    EXPECT_EQ(layer.decoded(0), before[0]);
    EXPECT_EQ(layer.decoded(1), before[1]);
    layer.stores.swap(fork);
    layer.append(x, 0, 100);
    layer.settle(false);
    EXPECT_LT(layer.stores[0].rows() - layer.stores[0].settled(), options.buffer);
  }
}

TEST(GearEviction, LiveRowsAreEncodedAnewAndKeepTheirOrder) {
  check_compaction<Keys>(GearOptions<20>{}, 1);
  check_compaction<Values>(GearOptions<20>{}, 1);
  check_compaction<GroupKeys>(GearOptions<32>{.sparsity = 0.05}, 32);
}

TEST(GearEviction, SegmentsWithoutDeadRowsAreNotEncodedAnew) {
  const Heads x = random_heads(200, 16, 3);
  auto layer = filled<Keys>(x, GearOptions<20>{}, 100);
  const Matrix before = layer.decoded(0);
  const auto* first = &layer.stores[0].body()[0];
  layer.compact(table_of(200, [](std::size_t r) { return r >= 120 && r % 2 == 0; }));
  EXPECT_EQ(&layer.stores[0].body()[0], first);
  EXPECT_EQ(layer.decoded(0).topRows(120), before.topRows(120));
}

TEST(GearEviction, ARefusedPreparationChangesNothing) {
  const Heads x = random_heads(150, 16, 4);
  std::size_t refusals = 0;
  for (std::size_t n = 0; n < 80; ++n) {
    CountingMemory memory;
    {
      auto layer = filled<Values>(x, GearOptions<20>{}, 70, memory.handle());
      const Matrix before = layer.decoded(1);
      const RowTable table = table_of(150, [](std::size_t r) { return r % 3 != 0; });
      memory.refuse_after(n);
      bool refused = false;
      try {
        layer.compact(table);
      } catch (const Error&) {
        refused = true;
        EXPECT_EQ(layer.decoded(1), before);
        memory.allow();
        layer.compact(table);
      }
      memory.allow();
      EXPECT_EQ(layer.stores[1].rows(), 50U);
      refusals += refused ? 1U : 0U;
      if (!refused) { n = 80; }
    }
    EXPECT_EQ(memory.live, 0U);
  }
  EXPECT_GE(refusals, 4U);
}

TEST(Caches, KeepCopiesOfWhatShapeAndOptionsPointTo) {
  const Shape small{.head_dim = 16, .keys = KeyForm::unrotated};
  const Text text(small, 80, 31);
  using P = Combine<StreamingLLM, Gear<4>>;
  const auto outputs = [&](KVCache<P>& cache) {
    Outputs all(80 * text.output_width());
    Workspace workspace(cache.shape());
    for (std::size_t t = 0; t < 80; t += t == 0 ? 70 : 1) {
      const std::size_t count = t == 0 ? 70 : 1;
      cache.append(0, text.key_rows(t, count), text.value_rows(t, count));
      cache.attend(0, text.query_rows(t, count), Output::tokens_first(all.data() + t * text.output_width(), count, 1, 16), workspace);
      if (t == 0) { cache.end_prompt(0); }
    }
    return all;
  };
  std::vector<double> factors{1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0};
  std::vector<float> start(16 * 4);
  for (std::size_t i = 0; i < start.size(); ++i) { start[i] = text.keys[i]; }
  Shape shape = small;
  shape.rope.frequency_factors = factors.data();
  CountingMemory memory;
  {
    KVCache<P> cache(shape, {.eviction = {.window = 40}, .storage = {.start = start.data()}}, memory.handle());
    factors.assign(factors.size(), std::numeric_limits<double>::quiet_NaN());
    start.assign(start.size(), std::numeric_limits<float>::quiet_NaN());
    EXPECT_EQ(cache.memory().total(), memory.bytes);
    KVCache<P> fork = cache.fork();
    KVCache<P> copy(cache);
    EXPECT_GE(cache.memory().shared, 8 * sizeof(double) + 64 * sizeof(float));
    const Outputs right = outputs(cache);
    EXPECT_TRUE(right == outputs(fork));
    EXPECT_TRUE(right == outputs(copy));
    cache.clear();
    EXPECT_TRUE(right == outputs(cache));
    EXPECT_EQ(cache.shape().rope.frequency_factors[7], 8.0);
    for (const float number : right) { ASSERT_TRUE(std::isfinite(number)); }
  }
  EXPECT_EQ(memory.live, 0U);
}

}  // namespace gear_eviction_test
