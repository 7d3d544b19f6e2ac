// tests/lifecycle/shift_test.cpp - a context shift: rows are attended as if their keys had been rotated to the new positions.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <iostream>

#include "kvcompress/low_rank.hpp"
#include "kvcompress/policies/full.hpp"
#include "kvcompress/policies/h2o.hpp"
#include "kvcompress/policies/kivi.hpp"
#include "kvcompress/policies/landmarks.hpp"
#include "kvcompress/policies/quest.hpp"
#include "kvcompress/policies/streaming_llm.hpp"
#include "kvcompress/policies/xkv.hpp"
#include "support/random_rows.hpp"
#include "support/saved.hpp"

namespace {

using namespace kvcompress;
using namespace kvcompress::test;

const Shape shape{.layers = 2, .query_heads = 4, .kv_heads = 2, .head_dim = 32, .keys = KeyForm::unrotated};

template <class Cache>
void add(Cache& cache, const Text& text, std::size_t first, std::size_t count, std::size_t layer) {
  cache.append(layer, text.key_rows(first, count), text.value_rows(first, count));
}
/// 200 tokens, 4 to 99 removed and the later ones moved up, then 20 more tokens: the last one's outputs.
template <class P>
Outputs shifted(const PolicyOptions<P>& options, const Text& text, bool save_between = false) {
  KVCache<P> cache(shape, options);
  for (std::size_t layer = 0; layer < 2; ++layer) {
    static_cast<void>(step(cache, text, 0, 200, layer));
    cache.end_prompt(layer);
  }
  cache.remove(4, 100);
  cache.shift(100, 200, -96);
  EXPECT_EQ(cache.tokens(), 104U);
  if (save_between) {
    KVCache<P> other(shape, options);
    load_from(other, saved(cache));
    cache = other.fork();
  }
  Outputs out;
  for (std::size_t t = 200; t < 220; ++t) {
    for (std::size_t layer = 0; layer < 2; ++layer) {
      const Outputs own = step(cache, text, t, 1, layer);
      out.insert(out.end(), own.begin(), own.end());
    }
  }
  return out;
}
/// What a cache gives that never had the removed tokens.
template <class P = Full<float>>
Outputs never_there(const Text& text, const PolicyOptions<P>& options = {}) {
  KVCache<P> cache(shape, options);
  Outputs out;
  for (std::size_t layer = 0; layer < 2; ++layer) {
    add(cache, text, 0, 4, layer);
    add(cache, text, 100, 100, layer);
    cache.end_prompt(layer);
  }
  for (std::size_t t = 200; t < 220; ++t) {
    for (std::size_t layer = 0; layer < 2; ++layer) {
      const Outputs own = step(cache, text, t, 1, layer);
      out.insert(out.end(), own.begin(), own.end());
    }
  }
  return out;
}

TEST(Shift, ExactRowsAreAttendedAtTheirNewPositions) {
  const Text text(shape, 230, 1);
  const Outputs expected = never_there(text);
  EXPECT_LT(deviation(shifted<Full<float>>({}, text), expected), 2e-5);
  EXPECT_LT(deviation(shifted<Full<float>>({}, text, true), expected), 2e-5);
  EXPECT_LT(deviation(shifted<Combine<Full<float>, Quest>>({.retrieval = {.budget = 4096}}, text), expected), 2e-5);
  EXPECT_LT(deviation(shifted<Combine<H2O, Full<float>>>({.eviction = {.budget = 4096}}, text), expected), 2e-5);
}

/// Attention over shifted codes is about as far from attention over exact keys rotated anew as codes of keys rotated anew are.
TEST(Shift, CodesAreNotTouched) {
  const Text text(shape, 230, 2);
  const Outputs exact = never_there(text);
  const auto check = [&]<class P>(const PolicyOptions<P>& options) {
    const auto own = deviation(never_there<P>(text, options), exact);
    const auto of_shifted = deviation(shifted<P>(options, text), exact);
    std::cout << "worst deviation: codes of keys rotated anew " << own << ", shifted codes " << of_shifted << "\n";
    EXPECT_LT(of_shifted, 1.5 * own);
    EXPECT_EQ(shifted<P>(options, text), shifted<P>(options, text, true)) << "saved between and loaded";
  };
  check(PolicyOptions<Kivi<4>>{.storage = {.residual = 32}});
  check(PolicyOptions<Kivi<2>>{.storage = {.residual = 32}});
}

TEST(Shift, KeysHeldUnrotatedAreTurnedToo) {
  const Text text(shape, 230, 3);
  const PolicyOptions<XKV<float>> whole{.storage = {.layers_per_group = 2, .rank_keys = 128, .rank_values = 128}};  // nothing is lost
  EXPECT_LT(deviation(shifted<XKV<float>>(whole, text), never_there(text)), 1e-3);
}

TEST(Shift, RowsAreReadWhereTheyStand) {
  const Text text(shape, 230, 4);
  KVCache<Full<float>> cache(shape);
  KVCache<Full<float>> expected(shape);
  for (std::size_t layer = 0; layer < 2; ++layer) {
    add(cache, text, 0, 60, layer);
    cache.end_prompt(layer);
    add(expected, text, 0, 10, layer);
    add(expected, text, 30, 30, layer);
    expected.end_prompt(layer);
  }
  cache.remove(10, 30);
  cache.shift(30, 60, -20);
  cache.shift(30, 40, 0);
  EXPECT_EQ(cache.kept(1, 1), expected.kept(1, 1));
  std::vector<float> key(32);
  std::vector<float> value(32);
  std::vector<float> wanted(32);
  for (std::size_t row = 0; row < 40; ++row) {
    cache.read(1, 1, row, key.data(), value.data());
    expected.read(1, 1, row, wanted.data(), value.data());
    for (std::size_t c = 0; c < 32; ++c) { ASSERT_NEAR(key[c], wanted[c], 1e-5F); }
  }
  EXPECT_EQ(cache.memory().positions, 2 * expected.memory().positions + 2 * 40 * 2 * sizeof(Position))
      << "4 bytes a row, and the positions";
}

TEST(Shift, WhatCannotMoveIsRefused) {
  const Text text(shape, 100, 5);
  KVCache<Full<float>> cache(shape);
  const auto refused = [](auto& of, Position first, Position last, std::int64_t delta, const std::string& sentence) {
    const File before = saved(of);
    try {
      of.shift(first, last, delta);
      ADD_FAILURE() << sentence;
    } catch (const Error& error) { EXPECT_EQ(error.what(), "kvcompress: " + sentence); }
    EXPECT_EQ(saved(of), before);
  };
  add(cache, text, 0, 50, 0);
  refused(cache, 0, 50, 1, "shift with 50 uncommitted rows in layer 0: commit first");
  add(cache, text, 0, 50, 1);
  cache.end_prompt(0);
  cache.end_prompt(1);
  refused(cache, 20, 10, 0, "shift: first is 20, must be at most last = 10");
  refused(cache, 4, 50, -5, "shift: delta is -5, must be at least -4");
  refused(cache, 4, 50, -1, "shift: the rows at positions [4, 50) move by -1, must pass no row of layer 0, KV head 0: remove it first");
  refused(cache, 0, 10, 41, "shift: delta is 41, must be at most 40: the rows must stay before the next token of layer 0");
  refused(cache, 0, 50, 4294967290, "shift: delta is 4294967290, must leave positions below 4294967295");
  cache.shift(0, 50, 1000);
  EXPECT_EQ(cache.tokens(1), 1050U);
  EXPECT_EQ(cache.kept(0, 0).front(), 1000U);

  KVCache<Landmarks> landmarks(shape);
  for (std::size_t layer = 0; layer < 2; ++layer) {
    static_cast<void>(step(landmarks, text, 0, 50, layer));
    landmarks.end_prompt(layer);
  }
  refused(landmarks, 0, 50, 1, "shift with landmarks, whose index is made at the original positions");
}

}  // namespace
