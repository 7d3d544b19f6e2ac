// tests/registry/shift_test.cpp - a context shift: rows are attended as if their keys had been rotated to the new positions.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <iostream>

#include "registry/registry.hpp"
#include "support/random_rows.hpp"
#include "support/saved.hpp"

namespace shift_test {

using namespace kvcompress;
using namespace kvcompress::test;

const Shape shape{.layers = 2, .query_heads = 4, .kv_heads = 2, .head_dim = 32, .keys = KeyForm::unrotated};

AnyCache make(const std::string& policy) { return examples::registry().make(policy, shape); }

void add(AnyCache& cache, const Text& text, std::size_t first, std::size_t count, std::size_t layer) {
  cache.append(layer, text.key_rows(first, count), text.value_rows(first, count));
}
/// 20 tokens more, one by one: the outputs of all.
Outputs go_on(AnyCache& cache, const Text& text) {
  Outputs out;
  for (std::size_t t = 200; t < 220; ++t) {
    for (std::size_t layer = 0; layer < 2; ++layer) {
      const Outputs own = step(cache, text, t, 1, layer);
      out.insert(out.end(), own.begin(), own.end());
    }
  }
  return out;
}
/// 200 tokens, 4 to 99 removed and the later ones moved up, then 20 more.
Outputs shifted(const std::string& policy, const Text& text, bool save_between = false) {
  AnyCache cache = make(policy);
  for (std::size_t layer = 0; layer < 2; ++layer) { static_cast<void>(step(cache, text, 0, 200, layer)); }
  for (std::size_t layer = 0; layer < 2; ++layer) { cache.end_prompt(layer); }
  cache.remove(4, 100);
  cache.shift(100, 200, -96);
  EXPECT_EQ(cache.tokens(), 104U);
  if (save_between) {
    AnyCache other = make(policy);
    load_from(other, saved(cache));
    cache = other.fork();
  }
  return go_on(cache, text);
}
/// What a cache gives that never had the removed tokens.
Outputs never_there(const Text& text, const std::string& policy = "f32") {
  AnyCache cache = make(policy);
  for (std::size_t layer = 0; layer < 2; ++layer) {
    add(cache, text, 0, 4, layer);
    add(cache, text, 100, 100, layer);
    cache.end_prompt(layer);
  }
  return go_on(cache, text);
}

TEST(Shift, ExactRowsAreAttendedAtTheirNewPositions) {
  const Text text(shape, 230, 1);
  const Outputs expected = never_there(text);
  EXPECT_LT(deviation(shifted("f32", text), expected), 2e-5);
  EXPECT_LT(deviation(shifted("f32", text, true), expected), 2e-5);
  EXPECT_LT(deviation(shifted("f32+quest:budget=4096", text), expected), 2e-5);
  EXPECT_LT(deviation(shifted("h2o:budget=4096+f32", text), expected), 2e-5);
  EXPECT_LT(deviation(shifted("streaming:window=4096+f32", text), expected), 2e-5);  // in-cache positions: nothing to turn
}

/// Attention over shifted codes is about as far from attention over exact keys rotated anew as codes of keys rotated anew are.
TEST(Shift, CodesAreNotTouched) {
  const Text text(shape, 230, 2);
  const Outputs exact = never_there(text);
  for (const char* const policy : {"kivi4:residual=32", "kivi2:residual=32"}) {
    const double own = deviation(never_there(text, policy), exact);
    const double of_shifted = deviation(shifted(policy, text), exact);
    std::cout << policy << ", worst deviation: codes of keys rotated anew " << own << ", shifted codes " << of_shifted << "\n";
    EXPECT_LT(of_shifted, 1.5 * own);
    EXPECT_EQ(shifted(policy, text), shifted(policy, text, true)) << "saved between and loaded";
  }
}

TEST(Shift, KeysHeldUnrotatedAreTurnedToo) {
  const Text text(shape, 230, 3);
  const std::string whole = "xkv:layers_per_group=2,rank_keys=128,rank_values=128";  // only the rounding of factors is lost
  const Outputs exact = never_there(text);
  EXPECT_LT(deviation(shifted(whole, text), exact), 2.0 * deviation(never_there(text, whole), exact));
}

TEST(Shift, RowsAreReadWhereTheyStand) {
  const Text text(shape, 230, 4);
  AnyCache cache = make("f32");
  AnyCache expected = make("f32");
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
  AnyCache cache = make("f32");
  const auto refused = [](AnyCache& of, Position first, Position last, std::int64_t delta, const std::string& sentence) {
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

  AnyCache landmarks = make("landmarks");
  for (std::size_t layer = 0; layer < 2; ++layer) {
    static_cast<void>(step(landmarks, text, 0, 50, layer));
    landmarks.end_prompt(layer);
  }
  refused(landmarks, 0, 50, 1, "shift with landmarks, whose index is made at the original positions");
}

}  // namespace shift_test
