// tests/policies/budget_test.cpp - budgets in rows, fractions and bytes, and what bytes_for says beforehand.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include "kvcompress/policies/full.hpp"
#include "kvcompress/policies/h2o.hpp"
#include "kvcompress/policies/kivi.hpp"
#include "support/counting_memory.hpp"
#include "support/random_rows.hpp"

namespace {

using namespace kvcompress;
using namespace kvcompress::test;

const Shape shape{.layers = 2, .query_heads = 2, .kv_heads = 2, .head_dim = 64};

template <class P>
KVCache<P> filled(const Text& text, std::size_t prompt, const PolicyOptions<P>& options, const Memory& memory = {}) {
  KVCache<P> cache(shape, options, memory);
  for (std::size_t layer = 0; layer < 2; ++layer) {
    static_cast<void>(step(cache, text, 0, prompt, layer));
    cache.end_prompt(layer);
  }
  return cache;
}

TEST(Budget, AFractionIsOfThePromptSeenSoFar) {
  const Text text(shape, 300, 1);
  KVCache<H2O> cache = filled<H2O>(text, 100, {.eviction = {.budget = Budget::fraction(0.2)}});
  EXPECT_EQ(cache.kept(0, 0).size(), 20U);
  for (std::size_t t = 100; t < 150; ++t) { static_cast<void>(step(cache, text, t, 1)); }
  cache.commit(0);
  EXPECT_EQ(cache.kept(0, 1).size(), 20U) << "decoding does not move the budget";
  static_cast<void>(step(cache, text, 150, 100));
  cache.end_prompt(0);
  EXPECT_EQ(cache.kept(0, 0).size(), 50U) << "a later prompt does";
  EXPECT_EQ(cache.kept(1, 0).size(), 20U) << "and only in its layer";
  EXPECT_EQ(filled<H2O>(text, 3, {.eviction = {.budget = Budget::fraction(0.01)}}).kept(0, 0).size(), 1U) << "at least one row";
}

TEST(Budget, BytesAreThoseOfTheRowsOfAllLanes) {
  const Text text(shape, 400, 2);
  for (const std::size_t bytes : {60000U, 100000U, 150000U}) {
    CountingMemory memory;
    using P = Combine<H2O, Kivi<4, 32, 32>>;
    const PolicyOptions<P> options{.eviction = {.budget = Budget::bytes(bytes)}};
    const KVCache<P> cache = filled<P>(text, 400, options, memory.handle());
    const std::size_t rows = cache.kept(0, 0).size();
    EXPECT_LE(KVCache<P>::bytes_for(shape, rows, options), bytes);
    EXPECT_GT(KVCache<P>::bytes_for(shape, rows + 1, options), bytes) << "one row more would not fit";
    EXPECT_EQ(cache.kept(1, 1).size(), rows);
  }
}

template <class P>
void bytes_for_is_close(const PolicyOptions<P>& options, std::size_t residual = 0) {
  for (const std::size_t tokens : {32U, 128U, 300U}) {
    const Text text(shape, tokens, 3);
    const KVCache<P> cache = filled<P>(text, tokens, options);
    const MemoryReport report = cache.memory();
    const std::size_t said = KVCache<P>::bytes_for(shape, tokens, options);
    const std::size_t rows = report.codes + report.scales + report.exact_rows;
    EXPECT_GE(said, rows) << tokens;
    // As many rows exact as may be: KIVI's keys may just have been encoded, all of them.
    EXPECT_LE(said, report.total() - report.scratch + 2 * 2 * residual * 64 * sizeof(half)) << tokens;
  }
}

TEST(BytesFor, IsWhatTheRowsTake) {
  bytes_for_is_close<Full<half>>({});
  bytes_for_is_close<Kivi<4, 32, 32>>({}, 32);
  bytes_for_is_close<Combine<H2O, Kivi<4, 32, 32>>>({.eviction = {.budget = 1000}}, 32);
}

TEST(MemoryReport, BitsPerValueAreThoseOfTheSpecification) {
  const Shape one{.query_heads = 1, .kv_heads = 1, .head_dim = 128};
  const Text text(one, 4096, 4);
  const auto bits = [&](auto cache) {
    cache.append(0, text.key_rows(0, 4096), text.value_rows(0, 4096));
    cache.end_prompt(0);
    return cache.bits_per_value();
  };
  EXPECT_NEAR(bits(KVCache<Full<half>>(one)), 16.0, 0.3);
  // (nq * (b + 32/G) + (T - nq) * 16) / T: keys all encoded (nq = T), values all but 128.
  EXPECT_NEAR(bits(KVCache<Kivi<4, 32, 32>>(one)), (5.0 + (5.0 * (4096 - 32) + 16.0 * 32) / 4096) / 2, 0.4);
}

}  // namespace
