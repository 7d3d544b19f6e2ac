// tests/registry/record_test.cpp - what policies see of queries that look ahead, repeat a prompt or draft, which rows plans name, what is chosen once
// for several tokens. By name; tests/any has the same of types.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <numeric>

#include "kvcompress/policies/kvzip.hpp"
#include "registry/registry.hpp"
#include "support/random_rows.hpp"
#include "support/saved.hpp"

namespace record {
namespace record_test {

using namespace kvcompress;
using namespace kvcompress::test;
using examples::registry;

const Shape shape{.layers = 2, .query_heads = 4, .kv_heads = 2, .head_dim = 16};
constexpr std::size_t prompt = 120;

void expect_error(ErrorCode code, const std::string& sentence, const std::function<void()>& verb) {
  try {
    verb();
    ADD_FAILURE() << "no error, expected: " << sentence;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    EXPECT_EQ(error.what(), "kvcompress: " + sentence);
  }
}
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

// ---------------------------------------------------------------- plans

/// TriForce's use: drafts are looked over by a view of the rows, which is chosen every few steps, then by all of them.
TEST(Plans, ADraftReadsAViewAndVerificationAllRows) {
  const Text text(shape, 460, 8);
  for (const std::string storage : {"f16", "kivi4:residual=64"}) {
    AnyCache target = registry().make(storage + "+quest:budget=64,page=16,dense_layers=max", shape);
    AnyCache full = registry().make(storage, shape);
    AnyCache chosen = registry().make(storage + "+quest:budget=64,page=16,dense_layers=0", shape);
    for (AnyCache* one : {&target, &full, &chosen}) {
      for (std::size_t layer = 0; layer < shape.layers; ++layer) { static_cast<void>(step(*one, text, 0, 400, layer)); }
      end_prompts(*one);
    }
    std::vector<Plan> views(shape.layers);
    for (std::size_t t = 400; t < 448; t += 2) {
      for (std::size_t layer = 0; layer < shape.layers; ++layer) {
        const bool renew = t % 8 == 0;
        if (renew) {
          target.commit(layer);
          target.select(layer, text.query_rows(t, 1), views[layer], {.query_position = static_cast<Position>(t)});
        }
        Outputs drafts = step(target, text, t, 4, layer, {.record = Record::none, .plan = &views[layer]});
        drafts.resize(text.output_width());
        AnyCache fork = chosen.fork();
        if (renew) { EXPECT_EQ(drafts, step(fork, text, t, 1, layer)) << storage << " token " << t; }
      }
      target.truncate(static_cast<Position>(t));
      for (std::size_t layer = 0; layer < shape.layers; ++layer) {  // two tokens are accepted
        EXPECT_EQ(step(target, text, t, 2, layer), step(full, text, t, 2, layer)) << storage << " token " << t;
        static_cast<void>(step(chosen, text, t, 2, layer));
      }
    }
  }
}
TEST(Plans, AreWhatAnEngineWithPagesMustBring) {
  const Text text(shape, 402, 9);
  AnyCache cache = registry().make("quest:budget=64,page=16,dense_layers=0", shape);
  for (std::size_t layer = 0; layer < shape.layers; ++layer) { static_cast<void>(step(cache, text, 0, 400, layer)); }
  end_prompts(cache);
  Plan plan;
  cache.select(1, text.query_rows(400, 1), plan, {.query_position = 400});
  EXPECT_EQ(plan.layer(), 1U);
  for (std::size_t head = 0; head < shape.kv_heads; ++head) {
    std::size_t pages = 0;
    for (const RowRange& range : plan.ranges(head)) {
      EXPECT_EQ(range.first % 16, 0U);
      pages += (range.size() + 15) / 16;
    }
    EXPECT_EQ(pages, 3U);  // and the newest rows, of which there are none yet
    EXPECT_EQ(plan.rows(head), 400U);
  }
}
/// The same as in a cache that has lost the other rows.
TEST(Plans, OfACallerReadTheirRowsAndLaterOnes) {
  const Shape one_layer{.query_heads = 4, .kv_heads = 2, .head_dim = 16};
  const Text text(one_layer, 160, 10);
  AnyCache cache = registry().make("f32", one_layer);
  static_cast<void>(step(cache, text, 0, 150));
  cache.end_prompt(0);
  AnyCache less = cache.fork();
  less.remove(4, 60);
  less.remove(77, 150);
  Plan plan = cache.plan(0);
  for (std::size_t head = 0; head < one_layer.kv_heads; ++head) {
    plan.read(head, {0, 4});
    plan.read(head, {60, 70});
    plan.read(head, {70, 77});
    EXPECT_EQ(plan.ranges(head).size(), 2U);
  }
  for (AnyCache* one : {&cache, &less}) { one->append(0, text.key_rows(150, 5), text.value_rows(150, 5)); }
  for (const AttendOptions& options : {AttendOptions{}, AttendOptions{.window = 90}, AttendOptions{.start = 2}}) {
    AttendOptions planned = options;
    planned.plan = &plan;
    const Outputs out = attend(cache, text, 155, 5, 0, planned);
    EXPECT_LT(deviation(out, attend(less, text, 155, 5, 0, options)), 1e-5);
    Outputs threads(out.size());
    std::vector<Workspace> workspaces(2, Workspace(one_layer));
    cache.attend(0, text.query_rows(150, 5), Output::tokens_first(threads.data(), 5, 4, 16), workspaces, SerialExecutor{}, planned);
    EXPECT_EQ(threads, out);
    Outputs last(4 * 16);
    cache.attend(0, text.query_rows(154, 1), Output::tokens_first(last.data(), 1, 4, 16), workspaces, SerialExecutor{}, planned);
    EXPECT_TRUE(std::equal(last.begin(), last.end(), out.end() - 64));
  }
  expect_error(ErrorCode::input, "plan: range is [76, 78) of KV head 1, must lie in [77, 150)", [&] { plan.read(1, {76, 78}); });
  expect_error(ErrorCode::input, "plan: range is [80, 151) of KV head 0, must lie in [77, 150)", [&] { plan.read(0, {80, 151}); });
  expect_error(ErrorCode::shape, "plan: kv_head is 2, must be less than 2", [&] { plan.read(2, {0, 1}); });
}
TEST(Plans, AreRefusedOnceRowsHaveMoved) {
  const Text text(shape, 170, 11);
  const auto made = [&] {
    AnyCache cache = registry().make("quest:budget=64,dense_layers=0", shape);
    for (std::size_t layer = 0; layer < shape.layers; ++layer) { static_cast<void>(step(cache, text, 0, 150, layer)); }
    end_prompts(cache);
    for (std::size_t layer = 0; layer < shape.layers; ++layer) { static_cast<void>(step(cache, text, 150, 4, layer)); }
    return cache;
  };
  const auto refused = [&](AnyCache& cache, const Plan& plan, std::size_t layer = 0) {
    if (cache.tokens(layer) == 154) { cache.append(layer, text.key_rows(154, 1), text.value_rows(154, 1)); }
    try {
      static_cast<void>(attend(cache, text, cache.tokens(layer), 1, layer, {.plan = &plan}));
    } catch (const Error& error) { return std::string(error.what()).find("must be") != std::string::npos; }
    return false;
  };
  AnyCache cache = made();
  Plan plan = cache.plan(0);
  EXPECT_FALSE(refused(cache, plan));
  AnyCache other = made();
  EXPECT_TRUE(refused(other, plan));
  AnyCache fork = cache.fork();
  EXPECT_TRUE(refused(fork, plan));
  EXPECT_TRUE(refused(cache, plan, 1));
  EXPECT_TRUE(refused(cache, Plan{}));
  cache.truncate(154);
  EXPECT_FALSE(refused(cache, plan)) << "its rows are all there";
  AnyCache moved = std::move(cache);
  EXPECT_FALSE(refused(moved, plan));
  moved.truncate(154);
  moved.commit(0);
  moved.commit(1);
  moved.remove(10, 20);
  EXPECT_TRUE(refused(moved, plan));
  Plan later = moved.plan(0);
  EXPECT_FALSE(refused(moved, later));
  other = made();
  plan = other.plan(0);
  other.truncate(153);
  other.append(0, text.key_rows(160, 1), text.value_rows(160, 1));
  EXPECT_TRUE(refused(other, plan)) << "one of its rows is another one";
  AnyCache loaded = registry().make("quest:budget=64,dense_layers=0", shape);
  load_from(loaded, saved(moved));
  EXPECT_TRUE(refused(loaded, later));
  AnyCache evicts = registry().make("h2o:budget=60", shape);
  static_cast<void>(step(evicts, text, 0, 150));
  evicts.end_prompt(0);
  static_cast<void>(step(evicts, text, 150, 4));
  plan = evicts.plan(0);
  evicts.commit(0);
  expect_error(ErrorCode::phase, "attend(layer = 0) before append: no rows since the last commit",
               [&] { static_cast<void>(attend(evicts, text, 154, 1, 0, {.record = Record::none, .plan = &plan})); });
  evicts.append(0, text.key_rows(154, 1), text.value_rows(154, 1));
  const std::string before = "attend: plan.epoch() is " + std::to_string(plan.epoch()) + ", must be " +
                             std::to_string(evicts.plan(0).epoch()) +
                             ": rows of the layer have moved since it was made, or it is another cache's";
  expect_error(ErrorCode::phase, before,
               [&] { static_cast<void>(attend(evicts, text, 155, 1, 0, {.record = Record::none, .plan = &plan})); });
}

// ---------------------------------------------------------------- memos

class ReusedChoice : public ::testing::TestWithParam<const char*> {
 protected:
  [[nodiscard]] AnyCache talked(const std::string& more, std::size_t speculation = 0) const {
    AnyCache::Options options = registry().options(std::string(GetParam()) + more, shape);
    options.speculation = speculation;
    AnyCache cache(shape, options);
    for (std::size_t layer = 0; layer < shape.layers; ++layer) { static_cast<void>(step(cache, text, 0, 400, layer)); }
    end_prompts(cache);
    return cache;
  }
  const Text text{shape, 440, 12};
};
/// What was indexed at the choice is read as chosen, and everything that came later.
TEST_P(ReusedChoice, OneChoiceServesSomeTokens) {
  AnyCache cache = talked(",reuse=4");
  AnyCache fresh = talked(",reuse=1");
  std::vector<RowRange> chosen;
  std::size_t renewed = 0;
  for (std::size_t t = 400; t < 430; ++t) {
    static_cast<void>(step(cache, text, t, 1, 1));
    Plan plan;
    cache.select(1, text.query_rows(t, 1), plan);
    fresh.append(1, text.key_rows(t, 1), text.value_rows(t, 1));
    Plan anew;
    fresh.select(1, text.query_rows(t, 1), anew);
    const std::vector<RowRange> ranges(plan.ranges(1).begin(), plan.ranges(1).end() - 1);
    const std::vector<RowRange> best(anew.ranges(1).begin(), anew.ranges(1).end() - 1);
    const auto same = [](const std::vector<RowRange>& a, const std::vector<RowRange>& b) {
      return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                        [](RowRange x, RowRange y) { return x.first == y.first && x.last == y.last; });
    };
    if (t % 4 == 0) {
      EXPECT_TRUE(same(ranges, best)) << t;
      chosen = ranges;
    } else {
      EXPECT_TRUE(same(ranges, chosen)) << t;
      renewed += same(ranges, best) ? 0U : 1U;
    }
  }
  EXPECT_GT(renewed, 0U) << "no other choice would have been made: the test shows nothing";
}
TEST_P(ReusedChoice, TruncateAndSavingReturnToWhatWasChosen) {
  AnyCache never = talked(",reuse=4", 4);
  AnyCache cache = talked(",reuse=4", 4);
  for (std::size_t t = 400; t < 424; ++t) {
    for (std::size_t layer = 0; layer < shape.layers; ++layer) { static_cast<void>(step(cache, text, t + 5, 3, layer)); }
    cache.truncate(static_cast<Position>(t));
    for (std::size_t layer = 0; layer < shape.layers; ++layer) {
      ASSERT_EQ(step(cache, text, t, 1, layer), step(never, text, t, 1, layer)) << t;
    }
    ASSERT_TRUE(saved(cache) == saved(never)) << t;
    if (t % 4 == 1) {
      AnyCache loaded(shape, cache.options());
      load_from(loaded, saved(cache));
      cache = loaded.fork();
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Policies, ReusedChoice,
                         ::testing::Values("quest:budget=64,dense_layers=0,page=8", "kivi4+quest:budget=64,dense_layers=0,page=8"),
                         [](const auto& of) { return of.index == 0 ? "f16" : "kivi4"; });

TEST(ReusedChoices, WhatIsForgottenCannotBeTakenBack) {
  const Text text(shape, 420, 13);
  AnyCache cache = registry().make("quest:budget=64,dense_layers=0,reuse=2", shape);
  for (std::size_t layer = 0; layer < shape.layers; ++layer) { static_cast<void>(step(cache, text, 0, 400, layer)); }
  end_prompts(cache);
  static_cast<void>(step(cache, text, 400, 6));
  expect_error(ErrorCode::phase,
               "truncate: position is 402, must be at least 405: what queries before it chose is forgotten (Options::speculation is 0)",
               [&] { cache.truncate(402); });
  cache.truncate(405);
}

// ---------------------------------------------------------------- KVzip

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
}  // namespace record
