// tests/lifecycle/policy_lifecycle_test.cpp - fork, copy, move, clear, truncate and remove under every policy.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include "support/counting_memory.hpp"
#include "support/policies.hpp"

namespace policy_lifecycle_test {

using namespace kvcompress;
using namespace kvcompress::test;

const Shape small{.query_heads = 4, .kv_heads = 2, .head_dim = 32};
constexpr std::size_t budget = 48;
constexpr std::size_t prompt = 90;

/// 48 rows of budget, and observations of 8 tokens that truncate can take back.
template <class P>
PolicyOptions<P> options() {
  auto chosen = options_with<P>(budget);
  chosen.speculation = 8;
  return chosen;
}
/// A cache that has seen tokens [0, end), everything committed.
template <class P>
KVCache<P> cache_at(const Text& text, std::size_t end, const Memory& memory = {}) {
  KVCache<P> cache(small, options<P>(), memory);
  static_cast<void>(run(cache, text, prompt, end));
  return cache;
}
/// Outputs of the tokens [first, last), in steps of 1, 2, 3, 1, 2, 3, ... tokens.
template <class Cache>
Outputs go_on(Cache& cache, const Text& text, std::size_t first, std::size_t last) {
  Outputs all;
  for (std::size_t t = first, count = 0; t < last; t += count) {
    count = std::min(t % 3 + 1, last - t);
    const Outputs out = step(cache, text, t, count);
    all.insert(all.end(), out.begin(), out.end());
  }
  return all;
}
/// Text `a` up to `end`, then text `b`.
Text joined(const Text& a, const Text& b, std::size_t end) {
  Text text = b;
  const auto copy = [&](std::vector<float>& to, const std::vector<float>& from) {
    std::copy_n(from.begin(), static_cast<std::ptrdiff_t>(from.size() / a.tokens * end), to.begin());
  };
  copy(text.keys, a.keys);
  copy(text.values, a.values);
  copy(text.queries, a.queries);
  return text;
}

/// Kept positions and scores of two caches are the same, bit for bit.
template <class P>
void expect_same_state(const KVCache<P>& a, const KVCache<P>& b) {
  for (std::size_t lane = 0; lane < small.kv_heads; ++lane) {
    ASSERT_EQ(a.kept(0, lane), b.kept(0, lane));
    if constexpr (std::is_same_v<typename EvictionOf<P>::State, RowScores>) {
      for (std::size_t r = 0; r < a.table(0, lane).rows(); ++r) {
        ASSERT_EQ(a.table(0, lane).position(r), b.table(0, lane).position(r));
        ASSERT_EQ(a.state(0, lane).largest(r), b.state(0, lane).largest(r)) << "score of row " << r;
      }
    }
  }
}

template <class P>
class PolicyLifecycle : public ::testing::Test {};
TYPED_TEST_SUITE(PolicyLifecycle, Policies);

// Bytes that two caches hold together: what both share is there once.
#define EXPECT_TOGETHER(a, b, memory)                                                             \
  do {                                                                                            \
    EXPECT_EQ((a).memory().shared, (b).memory().shared);                                          \
    EXPECT_EQ((a).memory().total() + (b).memory().total() - (a).memory().shared, (memory).bytes); \
  } while (false)

TYPED_TEST(PolicyLifecycle, AForkAndItsOriginNeverSeeEachOthersWrites) {
  const Text text(small, 260, 21);
  const Text other = joined(text, Text(small, 260, 22), 160);
  KVCache<TypeParam> expect_origin = cache_at<TypeParam>(text, 160);
  KVCache<TypeParam> expect_fork = cache_at<TypeParam>(text, 160);
  CountingMemory memory;
  {
    KVCache<TypeParam> origin = cache_at<TypeParam>(text, 160, memory.handle());
    KVCache<TypeParam> fork = origin.fork();
    EXPECT_GT(fork.memory().shared, (fork.memory().total() - fork.memory().scratch) / 2);
    EXPECT_TOGETHER(origin, fork, memory);
    for (std::size_t t = 160; t < 250; t += 10) {  // both write, in turns
      EXPECT_TRUE(go_on(origin, text, t, t + 10) == go_on(expect_origin, text, t, t + 10)) << "origin at " << t;
      EXPECT_TOGETHER(origin, fork, memory);
      EXPECT_TRUE(go_on(fork, other, t, t + 10) == go_on(expect_fork, other, t, t + 10)) << "fork at " << t;
      EXPECT_TOGETHER(origin, fork, memory);
    }
    expect_same_state(origin, expect_origin);
    expect_same_state(fork, expect_fork);
  }
  EXPECT_EQ(memory.bytes, 0U);
}

TYPED_TEST(PolicyLifecycle, AForkWithOpenRowsIsIndependentToo) {
  const Text text(small, 200, 23);
  for (const bool attended : {false, true}) {
    for (const bool in_prompt : {false, true}) {
      const std::size_t open = in_prompt ? 0 : 130;
      const auto prepared = [&] {
        KVCache<TypeParam> cache(small, options<TypeParam>());
        if (!in_prompt) { static_cast<void>(run(cache, text, prompt, open)); }
        cache.append(0, text.key_rows(open, 6), text.value_rows(open, 6));
        if (attended) { static_cast<void>(attend(cache, text, open + 6, 6)); }
        return cache;
      };
      const auto finish = [&](KVCache<TypeParam>& cache) {  // the rest of the open step, its commit, and more
        Outputs all = attended ? Outputs{} : attend(cache, text, open + 6, 6);
        in_prompt ? cache.end_prompt(0) : cache.commit(0);
        const Outputs more = go_on(cache, text, open + 6, open + 66);
        all.insert(all.end(), more.begin(), more.end());
        return all;
      };
      KVCache<TypeParam> alone = prepared();
      const Outputs expected = finish(alone);
      KVCache<TypeParam> origin = prepared();
      KVCache<TypeParam> fork = origin.fork();
      KVCache<TypeParam> second = fork.fork();
      EXPECT_TRUE(finish(origin) == expected) << "origin, attended " << attended << ", in prompt " << in_prompt;
      EXPECT_TRUE(finish(fork) == expected) << "fork, attended " << attended << ", in prompt " << in_prompt;
      EXPECT_TRUE(finish(second) == expected) << "fork of the fork, attended " << attended << ", in prompt " << in_prompt;
    }
  }
}

TYPED_TEST(PolicyLifecycle, ACopySharesNothing) {
  const Text text(small, 200, 24);
  CountingMemory memory;
  KVCache<TypeParam> origin = cache_at<TypeParam>(text, 130, memory.handle());
  const std::size_t alone = memory.bytes;
  KVCache<TypeParam> copy(origin);
  EXPECT_EQ(origin.memory().shared, 0U);
  EXPECT_EQ(copy.memory().shared, 0U);
  EXPECT_EQ(memory.bytes, alone + copy.memory().total());
  const Outputs expected = go_on(origin, text, 130, 190);
  EXPECT_TRUE(go_on(copy, text, 130, 190) == expected);
  KVCache<TypeParam> assigned(small, options<TypeParam>());
  assigned = cache_at<TypeParam>(text, 130).fork();
  EXPECT_TRUE(go_on(assigned, text, 130, 190) == expected);
}

TYPED_TEST(PolicyLifecycle, AMoveTakesEverythingAndAllocatesNothing) {
  const Text text(small, 200, 25);
  CountingMemory memory;
  KVCache<TypeParam> origin = cache_at<TypeParam>(text, 130, memory.handle());
  KVCache<TypeParam> expected(origin);
  memory.restart();
  KVCache<TypeParam> moved(std::move(origin));
  EXPECT_EQ(memory.calls, 0U);
  EXPECT_TRUE(go_on(moved, text, 130, 190) == go_on(expected, text, 130, 190));
}

TYPED_TEST(PolicyLifecycle, ClearGivesMemoryBackAndStartsAnew) {
  const Text text(small, 150, 26);
  CountingMemory memory;
  KVCache<TypeParam> cache(small, options<TypeParam>(), memory.handle());
  const std::size_t fresh = memory.bytes;
  const Outputs expected = run(cache, text, prompt, text.tokens);
  cache.clear();
  EXPECT_EQ(memory.bytes, fresh);
  EXPECT_EQ(cache.tokens(0), 0U);
  EXPECT_TRUE(run(cache, text, prompt, text.tokens) == expected);
}

TYPED_TEST(PolicyLifecycle, TruncateDownToTheLastCommitEqualsNeverHavingAppended) {
  const Text text(small, 260, 27);
  const Text other = joined(text, Text(small, 260, 28), 150);
  KVCache<TypeParam> expected = cache_at<TypeParam>(text, 150);
  KVCache<TypeParam> cache = cache_at<TypeParam>(text, 150);
  for (std::size_t t = 150; t < 240; t += 6) {
    static_cast<void>(step(cache, other, t, 8));  // a guess of eight tokens, none of which holds
    cache.truncate(static_cast<Position>(t));
    EXPECT_EQ(cache.tokens(0), t);
    EXPECT_TRUE(go_on(cache, text, t, t + 6) == go_on(expected, text, t, t + 6)) << "after truncating to " << t;
    expected.commit(0);
    cache.commit(0);
    expect_same_state(cache, expected);
  }
}

TYPED_TEST(PolicyLifecycle, TruncateIntoOpenRowsKeepsTheFirstOfThem) {
  const Text text(small, 260, 29);
  const Text other = joined(text, Text(small, 260, 30), 153);
  KVCache<TypeParam> expected = cache_at<TypeParam>(text, 150);
  KVCache<TypeParam> cache = cache_at<TypeParam>(text, 150);
  const Outputs first = step(expected, text, 150, 3);
  Outputs guess = step(cache, other, 150, 8);
  guess.resize(first.size());
  EXPECT_TRUE(guess == first);
  cache.truncate(153);
  EXPECT_TRUE(go_on(cache, text, 153, 240) == go_on(expected, text, 153, 240));
  expect_same_state(cache, expected);
}

TYPED_TEST(PolicyLifecycle, TruncateBelowTheLastCommitIsExactOrAnError) {
  const Text text(small, 200, 31);
  KVCache<TypeParam> cache = cache_at<TypeParam>(text, 150);
  if constexpr (!evicts<TypeParam> && !encodes<TypeParam>) {
    KVCache<TypeParam> expected(small, options<TypeParam>());
    static_cast<void>(run(expected, text, prompt, 100));
    cache.truncate(100);
    EXPECT_TRUE(go_on(cache, text, 100, 190) == go_on(expected, text, 100, 190));
  } else if constexpr (!evicts<TypeParam>) {  // as far as rows are exact
    std::size_t encoded = 0;
    for (std::size_t head = 0; head < small.kv_heads; ++head) {
      encoded = std::max({encoded, cache.keys(0, head).settled(), cache.values(0, head).settled()});
    }
    ASSERT_LT(encoded, 150U);
    KVCache<TypeParam> expected = cache_at<TypeParam>(text, 150);
    if (encoded > 0) { EXPECT_THROW(cache.truncate(static_cast<Position>(encoded - 1)), Error); }
    cache.truncate(static_cast<Position>(encoded));
    static_cast<void>(go_on(cache, text, encoded, 150));
    EXPECT_TRUE(go_on(cache, text, 150, 190) == go_on(expected, text, 150, 190));
  } else {
    try {
      cache.truncate(149);
      FAIL() << "no error";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::position);
      EXPECT_STREQ(error.what(), "kvcompress: truncate: position is 149, must be at least the position of the last commit, 150 in layer 0");
    }
    KVCache<TypeParam> expected = cache_at<TypeParam>(text, 150);
    EXPECT_TRUE(go_on(cache, text, 150, 190) == go_on(expected, text, 150, 190));
  }
}

TYPED_TEST(PolicyLifecycle, RemovedPositionsAreGoneAndTheOthersAnswer) {
  const Text text(small, 240, 32);
  KVCache<TypeParam> cache = cache_at<TypeParam>(text, 150);
  const auto before = cache.kept(0, 0);
  cache.remove(2, 5);
  cache.remove(120, 135);
  std::vector<Position> left = before;
  std::erase_if(left, [](Position p) { return (p >= 2 && p < 5) || (p >= 120 && p < 135); });
  ASSERT_LT(left.size(), before.size());
  EXPECT_EQ(cache.kept(0, 0), left);
  for (std::size_t t = 150; t < 240; t += 3) {
    const Outputs out = step(cache, text, t, 3);
    ASSERT_LT(deviation(out, attention_over_held_rows(cache, text, t + 3, 3)), 3e-5 + accumulation_slack(Accumulation::near_exact)) << t;
    cache.commit(0);
    const auto kept = cache.kept(0, 1);
    EXPECT_TRUE(std::none_of(kept.begin(), kept.end(), [](Position p) { return p >= 120 && p < 135; }));
  }
  cache.remove(0, 1000);
  EXPECT_TRUE(cache.kept(0, 0).empty());
  const Text next(small, 240, 33);
  cache.append(0, next.key_rows(0, 1), next.value_rows(0, 1));
  EXPECT_LT(deviation(attend(cache, next, 1, 1), attention_over_held_rows(cache, next, 1, 1)), 3e-5);
  EXPECT_EQ(cache.kept(0, 1), std::vector<Position>{240});
}

TYPED_TEST(PolicyLifecycle, ReportedBytesAreAllocatedBytesAfterEveryVerb) {
  const Text text(small, 400, 34);
  CountingMemory memory;
  {
    KVCache<TypeParam> cache(small, options<TypeParam>(), memory.handle());
    std::mt19937 rng(35);
    std::size_t next = 0;
    const auto check = [&](const char* verb) { ASSERT_EQ(cache.memory().total(), memory.bytes) << verb << " at token " << next; };
    check("construction");
    for (int round = 0; round < 120 && next + 40 < text.tokens; ++round) {
      const std::size_t count = round == 0 ? prompt : rng() % 7 == 0 ? 30 : 1;
      cache.append(0, text.key_rows(next, count), text.value_rows(next, count));
      check("append");
      Outputs out(count * text.output_width());
      cache.attend(0, text.query_rows(next, count), Output::tokens_first(out.data(), count, 4, 32));  // the cache's own workspace
      check("attend");
      next += count;
      if (round > 0 && rng() % 5 == 0 && count == 1) {
        cache.truncate(static_cast<Position>(--next));
        check("truncate");
        continue;
      }
      round == 0 || rng() % 9 == 0 ? cache.end_prompt(0) : cache.commit(0);
      check("commit");
      if (round == 40) { cache.remove(100, 110); }
      if (round == 60) { cache.reserve(256); }
      if (round == 80) { cache = KVCache<TypeParam>(cache); }
      check("remove, reserve or copy");
    }
    cache.clear();
    check("clear");
  }
  EXPECT_EQ(memory.bytes, 0U);
  EXPECT_EQ(memory.live, 0U);
}

}  // namespace policy_lifecycle_test
