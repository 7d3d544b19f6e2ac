// tests/registry/record_test.cpp - what policies see of queries that look ahead, repeat a prompt or draft. By name; tests/any has the same of types.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <algorithm>

#include "kvcompress/policies/kvzip.hpp"
#include "registry/registry.hpp"
#include "support/errors.hpp"
#include "support/random_rows.hpp"
#include "support/saved.hpp"

namespace record_test {

using namespace kvcompress;
using namespace kvcompress::test;
using examples::registry;

const Shape shape{.layers = 2, .query_heads = 4, .kv_heads = 2, .head_dim = 16};
constexpr std::size_t prompt = 120;

/// Queries of the tokens [first, last) that look for the key of `row` only.
void look_for(Text& text, std::size_t row, std::size_t first, std::size_t last) {
  for (std::size_t t = first; t < last; ++t) {
    for (std::size_t head = 0; head < shape.query_heads; ++head) {
      const float* key = text.keys.data() + (row * shape.kv_heads + head / shape.group()) * shape.head_dim;
      float* query = text.queries.data() + (t * shape.query_heads + head) * shape.head_dim;
      std::transform(key, key + shape.head_dim, query, [](float x) { return 4.0F * x; });
    }
  }
}
void end_prompts(AnyCache& cache) {
  for (std::size_t layer = 0; layer < shape.layers; ++layer) { cache.end_prompt(layer); }
}
bool keeps(const AnyCache& cache, Position row) {
  for (std::size_t layer = 0; layer < shape.layers; ++layer) {
    for (std::size_t head = 0; head < shape.kv_heads; ++head) {
      const std::vector<Position> kept = cache.kept(layer, head);
      if (!std::binary_search(kept.begin(), kept.end(), row)) { return false; }
    }
  }
  return true;
}

class Observed : public ::testing::TestWithParam<const char*> {
 protected:
  Observed() { look_for(text, needle, prompt, prompt + 6); }
  [[nodiscard]] AnyCache prompted() const {
    AnyCache cache = registry().make(GetParam(), shape);
    for (std::size_t layer = 0; layer < shape.layers; ++layer) { static_cast<void>(step(cache, text, 0, prompt, layer)); }
    return cache;
  }
  void look_ahead(AnyCache& cache, Record record) const {
    for (std::size_t layer = 0; layer < shape.layers; ++layer) {
      static_cast<void>(step(cache, text, prompt, 6, layer, {.record = record}));
    }
  }
  static constexpr std::size_t needle = 37;
  Text text{shape, prompt + 60, 4};
};

/// SpecKV's use: the rows of a draft's look-ahead go, what its queries looked at stays.
TEST_P(Observed, KeptQueriesCountThoughTheirRowsAreGone) {
  AnyCache without = prompted();
  AnyCache cache = prompted();
  look_ahead(cache, Record::kept);
  AnyCache fork = cache.fork();
  AnyCache loaded = registry().make(GetParam(), shape);
  load_from(loaded, saved(cache));
  for (AnyCache* one : {&cache, &fork, &loaded}) {
    one->truncate(prompt);
    EXPECT_EQ(one->tokens(1), prompt);
  }
  for (AnyCache* one : {&without, &cache, &fork, &loaded}) { end_prompts(*one); }
  EXPECT_FALSE(keeps(without, needle));
  EXPECT_TRUE(keeps(cache, needle));
  EXPECT_TRUE(saved(fork) == saved(cache));
  EXPECT_TRUE(saved(loaded) == saved(cache));
}

TEST_P(Observed, NothingIsSeenOfDrafts) {
  AnyCache without = prompted();
  AnyCache cache = prompted();
  look_ahead(cache, Record::none);
  cache.truncate(prompt);
  EXPECT_TRUE(saved(cache) == saved(without));
  for (AnyCache* one : {&without, &cache}) {
    end_prompts(*one);
    for (std::size_t layer = 0; layer < shape.layers; ++layer) { static_cast<void>(step(*one, text, prompt + 10, 1, layer)); }
  }
  look_ahead(cache, Record::none);  // commits the step before
  cache.truncate(prompt + 1);
  for (std::size_t layer = 0; layer < shape.layers; ++layer) { without.commit(layer); }
  EXPECT_TRUE(saved(cache) == saved(without));
}

INSTANTIATE_TEST_SUITE_P(Policies, Observed,
                         ::testing::Values("h2o:budget=40,recent=4", "snapkv:budget=40,window=4,kernel=1", "largest_attention:budget=40",
                                           "adakv:budget=40,window=4", "cake:budget=40,window=4", "snapkv:budget=40,window=4+kivi4",
                                           "h2o:budget=40,recent=4+merge"),
                         [](const auto& of) {
  std::string name = of.param;
  std::erase_if(name, [](char c) { return std::isalnum(static_cast<unsigned char>(c)) == 0; });
  return name;
});

TEST(Record, KeptQueriesAreThoseOfTheAttentionTheyHad) {  // all rows that they saw share it, those that are gone, too
  const Text text(shape, prompt + 6, 6);
  AnyCache whole = registry().make("h2o:budget=1000", shape);
  AnyCache cache = registry().make("h2o:budget=1000", shape);
  for (AnyCache* one : {&whole, &cache}) { static_cast<void>(step(*one, text, 0, prompt)); }
  static_cast<void>(step(whole, text, prompt, 6));
  static_cast<void>(step(cache, text, prompt, 6, 0, {.record = Record::kept}));
  cache.truncate(prompt);
  const auto scores = [](const AnyCache& of, std::size_t head) {
    const auto& state = *static_cast<const RowScores*>(of.state(0, head).inner());
    std::vector<float> all(prompt);
    for (std::size_t r = 0; r < prompt; ++r) { all[r] = state.get(r, 0); }
    return all;
  };
  for (std::size_t head = 0; head < shape.kv_heads; ++head) { EXPECT_EQ(scores(cache, head), scores(whole, head)); }
  expect_error(
      ErrorCode::phase,
      "truncate: position is 120, must be at least 126: observed queries before it are counted already (Options::speculation is 0)",
      [&] { whole.truncate(prompt); });
}

TEST(Record, WhatCannotBeSeenIsRefused) {
  const Text text(shape, prompt + 20, 7);
  AnyCache unseen = registry().make("snapkv:budget=40,window=4", shape);
  static_cast<void>(step(unseen, text, 0, prompt, 0, {.record = Record::none}));
  expect_error(ErrorCode::phase, "end_prompt(layer = 0) before attend or observe: observation_window needs the last queries of the prompt",
               [&] { unseen.end_prompt(0); });
  AnyCache chooses = registry().make("snapkv:budget=80,window=4+quest:budget=32,page=8,dense_layers=0", shape);
  static_cast<void>(step(chooses, text, 0, prompt));
  chooses.end_prompt(0);
  chooses.begin_prompt(0);
  chooses.append(0, text.key_rows(prompt, 5), text.value_rows(prompt, 5));
  expect_error(ErrorCode::option,
               "attend: record is kept, must be usual or none: the queries read only the rows that page_bounds chooses, and "
               "observation_window observes all",
               [&] { static_cast<void>(attend(chooses, text, prompt + 5, 5, 0, {.record = Record::kept})); });
  const Plan plan = chooses.plan(0);
  expect_error(ErrorCode::option,
               "attend: record is usual, must be kept or none with a plan: observation_window observes attention over all rows",
               [&] { static_cast<void>(attend(chooses, text, prompt + 5, 5, 0, {.plan = &plan})); });
}

TEST(KVzip, KeepsWhatRepeatingThePromptLooksAt) {
  Text text(shape, prompt + 60, 14);
  for (const std::string storage : {"", "+kivi4:residual=32", "+rot4", "+gear4", "+quest:budget=32,page=8,dense_layers=0"}) {
    AnyCache cache = registry().make("kvzip:budget=25%" + storage, shape);
    for (std::size_t layer = 0; layer < shape.layers; ++layer) { static_cast<void>(step(cache, text, 0, prompt, layer)); }
    expect_error(
        ErrorCode::phase,
        "end_prompt(layer = 0) before attend or observe with Record::kept: repeat_attention needs queries that repeat the prompt, of "
        "every KV head",
        [&] { cache.end_prompt(0); });
    look_for(text, 37, prompt, prompt + 30);
    for (const std::size_t first : {std::size_t{4}, std::size_t{60}}) {
      for (std::size_t layer = 0; layer < shape.layers; ++layer) {
        const Plan plan = repeat_plan(cache, layer, first, first + 60 - (first == 60 ? 0 : 4));
        static_cast<void>(step(cache, text, prompt + first / 4, 15, layer, {.record = Record::kept, .plan = &plan}));
      }
      cache.truncate(prompt);
    }
    end_prompts(cache);
    EXPECT_TRUE(keeps(cache, 0) && keeps(cache, 3)) << "sinks";
    EXPECT_TRUE(keeps(cache, 37)) << storage;
    std::size_t rows = 0;
    for (std::size_t layer = 0; layer < shape.layers; ++layer) { rows += cache.kept(layer, 0).size() + cache.kept(layer, 1).size(); }
    EXPECT_EQ(rows, prompt) << "a quarter of four lanes";
    for (std::size_t layer = 0; layer < shape.layers; ++layer) {
      static_cast<void>(step(cache, text, prompt + 45, 3, layer));
      cache.commit(layer);
    }
    EXPECT_EQ(cache.kept(1, 1).back(), prompt + 2);
  }
}

}  // namespace record_test
