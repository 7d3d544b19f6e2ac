// tests/registry/plans_test.cpp - which rows plans name, and what is chosen once for several tokens. By name; tests/any has the same of types.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <numeric>

#include "registry/registry.hpp"
#include "support/errors.hpp"
#include "support/random_rows.hpp"
#include "support/saved.hpp"

namespace plans_test {

using namespace kvcompress;
using namespace kvcompress::test;
using examples::registry;

const Shape shape{.layers = 2, .query_heads = 4, .kv_heads = 2, .head_dim = 16};

void end_prompts(AnyCache& cache) {
  for (std::size_t layer = 0; layer < shape.layers; ++layer) { cache.end_prompt(layer); }
}

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

}  // namespace plans_test
