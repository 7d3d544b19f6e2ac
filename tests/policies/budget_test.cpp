// tests/policies/budget_test.cpp - budgets in rows, fractions and bytes, and what bytes_for says beforehand.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <ctime>
#include <string>

#include "kvcompress/policies/full.hpp"
#include "kvcompress/policies/gear.hpp"
#include "kvcompress/policies/h2o.hpp"
#include "kvcompress/policies/kivi.hpp"
#include "kvcompress/policies/snapkv.hpp"
#include "support/random_rows.hpp"
#include "support/resident.hpp"

namespace budget_test {

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

std::size_t held(const MemoryReport& report) { return report.total() - report.scratch; }

/// A prompt, 200 decoded tokens and a second prompt under budgets in bytes, from the least that does.
template <class P>
void bytes_are_a_bound(PolicyOptions<P> options = {}) {
  const Text text(shape, 640, 2);
  options.eviction.budget = Budget::bytes(1);
  std::size_t least = 0;
  try {
    KVCache<P> none(shape, options);
    ADD_FAILURE() << "a budget of one byte";
  } catch (const Error& error) {
    const std::string sentence = error.what();
    EXPECT_NE(sentence.find("budget is 1 bytes, must be at least "), std::string::npos) << sentence;
    least = std::stoul(sentence.substr(sentence.find("at least ") + 9));
  }
  options.eviction.budget = Budget::bytes(least - 1);
  EXPECT_THROW(KVCache<P>(shape, options), Error);
  for (const std::size_t bytes : {least, least + 30000, std::size_t{250'000}}) {
    options.eviction.budget = Budget::bytes(bytes);
    KVCache<P> cache = filled<P>(text, 400, options);
    EXPECT_LE(held(cache.memory()), bytes);
    if (bytes >= 250'000) { EXPECT_GE(3 * held(cache.memory()), bytes) << "the budget serves"; }
    EXPECT_GE(cache.kept(1, 1).size(), 1U);
    for (std::size_t t = 400; t < 600; ++t) {
      for (std::size_t layer = 0; layer < 2; ++layer) {
        static_cast<void>(step(cache, text, t, 1, layer));
        cache.commit(layer);
      }
      ASSERT_LE(held(cache.memory()), bytes) << t;
    }
    for (std::size_t layer = 0; layer < 2; ++layer) {
      static_cast<void>(step(cache, text, 600, 40, layer));
      cache.end_prompt(layer);
    }
    EXPECT_LE(held(cache.memory()), bytes) << "a second prompt";
  }
}

TEST(Budget, BytesAreABoundOfH2O) { bytes_are_a_bound<H2O>(); }
TEST(Budget, BytesAreABoundOfH2OOverCodes) { bytes_are_a_bound<Combine<H2O, Kivi<4, 32, 32>>>(); }
TEST(Budget, BytesAreABoundOfH2OOverSegments) { bytes_are_a_bound<Combine<H2O, Gear<4, Kcvt, ValueVectors::head>>>(); }
TEST(Budget, BytesAreABoundOfSnapKVOverCodes) { bytes_are_a_bound<Combine<SnapKV, Kivi<4, 32, 32>>>({.eviction = {.window = 8}}); }

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

TEST(EndPrompt, CostsTheSamePerTokenForAMillionAndItsMemoryReachesTheSystem) {
  const Shape one{.query_heads = 1, .kv_heads = 1, .head_dim = 32};
  using P = Kivi<4, 32, 32>;
  const Text text(one, 4096, 5);
  const auto end = [&](std::size_t tokens, bool look) {
    empty_heap();
    const std::size_t before = resident_bytes();
    KVCache<P> cache(one);
    for (std::size_t t = 0; t < tokens; t += text.tokens) {
      cache.append(0, text.key_rows(0, text.tokens), text.value_rows(0, text.tokens));
    }
    const std::clock_t start = std::clock();  // others may be busy too
    cache.end_prompt(0);
    const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
    if (look) {
      EXPECT_LT(static_cast<double>(resident_bytes() - before), 1.3 * static_cast<double>(cache.memory().total()) + 2e6);
      EXPECT_EQ(cache.table(0, 0).rows(), tokens);
      EXPECT_LT(held(cache.fork().memory()) - cache.fork().memory().shared, 10'000U) << "a fork of it is cheap";
    }
    return seconds / static_cast<double>(tokens);
  };
  end(1U << 14U, false);
  const double of_few = end(1U << 14U, false);
  const double of_many = end(1U << 20U, resident_bytes() > 0);
  EXPECT_LT(of_many, 3 * of_few) << "8 times as much before, when blocks that left moved all others";
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

}  // namespace budget_test
