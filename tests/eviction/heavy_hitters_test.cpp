// tests/eviction/heavy_hitters_test.cpp - H2O's rule against the reference, and the invariants of its specification.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <numeric>
#include <set>

#include "kvcompress/policies/full.hpp"
#include "kvcompress/policies/h2o.hpp"
#include "kvcompress/reference/h2o.hpp"
#include "support/random_rows.hpp"

namespace heavy_hitters_test {

using namespace kvcompress;
using namespace kvcompress::test;
using reference::Index;

using Policy = Combine<H2O, Full<float>>;
using Cache = KVCache<Policy>;

double total_score(const Cache& cache, std::size_t lane) {
  double sum = 0.0;
  for (std::size_t r = 0; r < cache.table(0, lane).rows(); ++r) { sum += static_cast<double>(cache.state(0, lane).largest(r)); }
  return sum;
}

TEST(HeavyHitters, FollowsTheReferenceOverRandomShapes) {
  for (unsigned seed = 0; seed < 12; ++seed) {
    std::mt19937 rng(seed);
    const std::size_t kv_heads = rng() % 2 + 1;
    const std::size_t group = rng() % 4 + 1;
    const bool in_cache = seed % 3 == 0;
    const Shape shape{.query_heads = kv_heads * group, .kv_heads = kv_heads, .head_dim = 8 * (rng() % 4 + 1), .keys = KeyForm::unrotated};
    const std::size_t heavy = rng() % 16 + 1;
    const std::size_t recent = rng() % 16 + 1;
    const Text text(shape, 110, seed + 200);
    Cache cache(shape, {.eviction = {.budget = heavy + recent, .recent = recent, .in_cache_positions = in_cache}, .speculation = seed % 2});
    std::vector<reference::H2OState> states(
        kv_heads, {.options = {.heavy = static_cast<Index>(heavy), .recent = static_cast<Index>(recent), .in_cache_positions = in_cache}});
    for (std::size_t t = 0, count = 0; t < text.tokens; t += count) {
      count = std::min<std::size_t>(t == 0 ? rng() % 60 + 1 : rng() % 4 == 0 ? rng() % 9 + 1 : 1, text.tokens - t);
      const Outputs out = step(cache, text, t, count);
      t == 0 || rng() % 5 == 0 ? cache.end_prompt(0) : cache.commit(0);
      const auto from = static_cast<Index>(t);
      const auto rows = static_cast<Index>(count);
      for (std::size_t lane = 0; lane < kv_heads; ++lane) {
        auto& state = states[lane];
        state.append(text.key_matrix(lane).middleRows(from, rows), text.value_matrix(lane).middleRows(from, rows));
        std::vector<reference::Matrix> queries;
        for (std::size_t h = 0; h < group; ++h) { queries.push_back(text.query_matrix(lane * group + h).middleRows(from, rows)); }
        const auto results = state.attend(queries);
        for (std::size_t h = 0; h < group; ++h) {
          for (Index i = 0; i < rows; ++i) {
            for (Index c = 0; c < results[h].output.cols(); ++c) {
              const std::size_t at =
                  (static_cast<std::size_t>(i) * shape.query_heads + lane * group + h) * shape.head_dim + static_cast<std::size_t>(c);
              ASSERT_NEAR(out[at], results[h].output(i, c), 3e-5) << "seed " << seed << " token " << t;
            }
          }
        }
        state.commit();
        const std::vector<Position> expected(state.positions.begin(), state.positions.end());
        ASSERT_EQ(cache.kept(0, lane), expected) << "seed " << seed << " token " << t;
        ASSERT_NEAR(total_score(cache, lane), static_cast<double>(group) * state.scores.sum(), 1e-3);
      }
    }
  }
}

TEST(HeavyHitters, EveryQueryAddsExactlyOne) {
  const Shape shape{.query_heads = 6, .kv_heads = 2, .head_dim = 16};
  const Text text(shape, 90, 1);
  Cache cache(shape, {.eviction = {.budget = 1000}});
  static_cast<void>(run(cache, text, 60, 90));
  EXPECT_NEAR(total_score(cache, 0), 90.0 * 3, 1e-3);
  EXPECT_NEAR(total_score(cache, 1), 90.0 * 3, 1e-3);
  for (std::size_t r = 0; r < 90; ++r) { EXPECT_GE(cache.state(0, 0).largest(r), 0.0F); }
}

TEST(HeavyHitters, OlderRowsWinTies) {
  const Shape shape{.query_heads = 1, .kv_heads = 1, .head_dim = 8};
  Text text(shape, 40, 2);
  std::fill(text.queries.begin(), text.queries.end(), 0.0F);  // uniform attention: earlier rows have larger sums, later ones equal ...
  Cache cache(shape, {.eviction = {.budget = 12, .recent = 4}});
  static_cast<void>(run(cache, text, 30, 40));
  EXPECT_EQ(cache.kept(0, 0), (std::vector<Position>{0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 39}));
  Cache one(shape, {.eviction = {.budget = 12, .recent = 4}});  // ... and after the last query alone all are equal
  one.append(0, text.key_rows(0, 30), text.value_rows(0, 30));
  static_cast<void>(attend(one, text, 30, 1));
  one.end_prompt(0);
  EXPECT_EQ(one.kept(0, 0), (std::vector<Position>{0, 1, 2, 3, 4, 5, 6, 7, 26, 27, 28, 29}));
}

TEST(HeavyHitters, WhatIsEvictedNeverReturnsAndTheNewestStay) {
  const Shape shape{.query_heads = 2, .kv_heads = 1, .head_dim = 16};
  const Text text(shape, 300, 3);
  Cache cache(shape, {.eviction = {.budget = 24, .recent = 9}});
  static_cast<void>(run(cache, text, 50, 50));
  std::set<Position> gone;
  std::vector<Position> before(50);
  std::iota(before.begin(), before.end(), Position{0});
  for (std::size_t t = 50; t < 300; ++t) {
    static_cast<void>(step(cache, text, t, 1));
    cache.commit(0);
    const auto kept = cache.kept(0, 0);
    ASSERT_EQ(kept.size(), 24U);
    for (std::size_t i = 0; i < 9; ++i) { ASSERT_EQ(kept[23 - i], t - i); }
    for (const Position p : before) {
      if (!std::binary_search(kept.begin(), kept.end(), p)) { gone.insert(p); }
    }
    for (const Position p : kept) { ASSERT_FALSE(gone.contains(p)); }
    before = kept;
  }
  EXPECT_EQ(gone.size(), 300U - 24U);
}

TEST(HeavyHitters, HeavyRowsSurviveWhereRecentOnesWouldNot) {
  const Shape shape{.query_heads = 1, .kv_heads = 1, .head_dim = 16};
  Text text(shape, 120, 4);
  for (std::size_t t = 0; t < text.tokens; ++t) {  // every query looks for channel 0, which row 17 alone has
    text.keys[t * 16] = t == 17 ? 30.0F : 0.0F;
    text.queries[t * 16] = 3.0F;
  }
  Cache cache(shape, {.eviction = {.budget = 8}});
  static_cast<void>(run(cache, text, 60, 120));
  EXPECT_TRUE(std::ranges::binary_search(cache.kept(0, 0), Position{17}));
}

TEST(HeavyHitters, LosingARowNobodySeesChangesNoOutput) {
  const Shape shape{.query_heads = 1, .kv_heads = 1, .head_dim = 16};
  Text text(shape, 60, 5);
  for (std::size_t t = 0; t < text.tokens; ++t) {  // row 10 gets a logit of -400 from every query
    text.keys[t * 16] = t == 10 ? -400.0F : 0.0F;
    text.queries[t * 16] = 4.0F;
  }
  Cache cache(shape, {.eviction = {.budget = 59, .recent = 20}});
  const Outputs out = run(cache, text, 40, 60);
  EXPECT_LT(deviation(out, full_attention(text)), 2e-5);
  EXPECT_FALSE(std::ranges::binary_search(cache.kept(0, 0), Position{10}));
}

TEST(HeavyHitters, HalfOfTheBudgetIsRecentIfNothingElseIsSaid) {
  const Shape shape{.query_heads = 2, .kv_heads = 1, .head_dim = 16};
  Text text(shape, 120, 9);
  for (std::size_t t = 0; t < text.tokens; ++t) {  // the older a row, the more it is attended to
    for (std::size_t c = 0; c < 16; ++c) { text.keys[t * 16 + c] = c == 0 ? 4.0F - 0.05F * static_cast<float>(t) : 0.0F; }
    text.queries[t * 32] = text.queries[t * 32 + 16] = 8.0F;
  }
  for (const auto& [budget, recent] : {std::pair<std::size_t, std::size_t>{24, 12}, {25, 12}, {3, 1}, {1, 1}}) {
    Cache cache(shape, {.eviction = {.budget = budget}});
    static_cast<void>(run(cache, text, 80, 120));
    std::vector<Position> expected;
    for (std::size_t i = 0; i < budget - recent; ++i) { expected.push_back(static_cast<Position>(i)); }
    for (std::size_t i = 120 - recent; i < 120; ++i) { expected.push_back(static_cast<Position>(i)); }
    EXPECT_EQ(cache.kept(0, 0), expected) << "budget " << budget;
  }
}

TEST(HeavyHitters, PermutingHeadsPermutesWhatIsKept) {
  const Shape shape{.query_heads = 2, .kv_heads = 2, .head_dim = 16};
  const Text text(shape, 80, 6);
  Text swapped = text;
  for (auto* numbers : {&swapped.keys, &swapped.values, &swapped.queries}) {
    for (std::size_t at = 0; at < numbers->size(); at += 32) {
      std::swap_ranges(numbers->begin() + static_cast<std::ptrdiff_t>(at), numbers->begin() + static_cast<std::ptrdiff_t>(at + 16),
                       numbers->begin() + static_cast<std::ptrdiff_t>(at + 16));
    }
  }
  Cache a(shape, {.eviction = {.budget = 20}});
  Cache b(shape, {.eviction = {.budget = 20}});
  static_cast<void>(run(a, text, 40, 80));
  static_cast<void>(run(b, swapped, 40, 80));
  EXPECT_EQ(a.kept(0, 0), b.kept(0, 1));
  EXPECT_EQ(a.kept(0, 1), b.kept(0, 0));
  EXPECT_NE(a.kept(0, 0), a.kept(0, 1));
}

TEST(HeavyHitters, ReductionsOverTheGroupRankAsDefined) {
  const Shape shape{.query_heads = 3, .kv_heads = 1, .head_dim = 16};
  const Text text(shape, 70, 7);
  const auto consecutive = reference::consecutive(0, 70);
  std::vector<reference::Vector> sums;
  for (std::size_t h = 0; h < 3; ++h) {
    sums.push_back(reference::column_sums(
        reference::attention(text.query_matrix(h), text.key_matrix(0), text.value_matrix(0), consecutive, consecutive).probabilities));
  }
  std::vector<std::vector<Position>> kept;
  for (const auto& [ours, theirs] : {std::pair{Reduction::mean, reference::HeadReduction::mean},
                                     {Reduction::sum, reference::HeadReduction::sum},
                                     {Reduction::max, reference::HeadReduction::max}}) {
    Cache cache(shape, {.eviction = {.budget = 25, .recent = 5, .reduction = ours}});
    static_cast<void>(run(cache, text, 70, 70));
    const reference::Rows expected = reference::h2o_keep(reference::reduce_heads(sums, theirs), 20, 5);
    kept.push_back(cache.kept(0, 0));
    EXPECT_EQ(kept.back(), std::vector<Position>(expected.begin(), expected.end()));
  }
  EXPECT_EQ(kept[0], kept[1]);
  EXPECT_NE(kept[0], kept[2]);
}

TEST(HeavyHitters, ObserveCountsWhatAttendCounts) {
  for (const bool in_cache : {false, true}) {
    const Shape shape{.query_heads = 4, .kv_heads = 2, .head_dim = 16};
    const Text text(shape, 100, 8);
    const PolicyOptions<Policy> options{.eviction = {.budget = 24, .in_cache_positions = in_cache}, .speculation = 2};
    Cache attended(shape, options);
    Cache observed(shape, options);
    Cache told(shape, options);  // with the log-sum-exp that attention found
    Position at = 0;
    for (std::size_t t = 0, count = 0; t < text.tokens; t += count) {
      count = t < 60 ? 30 : t % 3 == 0 ? 2 : 1;
      count = std::min(count, text.tokens - t);
      at = t == 30 ? 50 : at;  // a gap inside the prompt
      std::vector<Position> positions(count);
      std::iota(positions.begin(), positions.end(), at);
      for (Cache* cache : {&attended, &observed, &told}) { cache->append(0, text.key_rows(t, count), text.value_rows(t, count), at); }
      std::vector<float> log_sum_exp(count * shape.query_heads);
      Outputs out(count * text.output_width());
      attended.attend(0, text.query_rows(t, count), Output::tokens_first(out.data(), count, 4, 16), {.log_sum_exp = log_sum_exp.data()});
      observed.observe(0, text.query_rows(t, count), positions);
      told.observe(0, text.query_rows(t, count), positions, {}, log_sum_exp.data());
      at += static_cast<Position>(count);
      if (t == 0) { continue; }
      for (Cache* cache : {&attended, &observed, &told}) { t == 30 ? cache->end_prompt(0) : cache->commit(0); }
      for (const Cache* cache : {&observed, &told}) {
        ASSERT_EQ(attended.kept(0, 0), cache->kept(0, 0)) << "in-cache positions " << in_cache << ", token " << t;
        ASSERT_EQ(attended.kept(0, 1), cache->kept(0, 1)) << "in-cache positions " << in_cache << ", token " << t;
        ASSERT_NEAR(total_score(attended, 0), total_score(*cache, 0), 1e-4);
      }
    }
  }
}

TEST(HeavyHitters, APromptThatNobodyAttendedIsRefused) {
  const Shape shape{.query_heads = 4, .kv_heads = 2, .head_dim = 8};
  const Text text(shape, 320, 21);
  KVCache<H2O> cache(shape, {.eviction = {.budget = 64, .recent = 16}});
  const auto expect_refused = [&] {
    const auto before = cache.kept(0, 0);
    try {
      cache.end_prompt(0);
      FAIL() << "no error";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::phase);
      EXPECT_STREQ(error.what(),
                   "kvcompress: end_prompt(layer = 0) before attend or observe: heavy_hitters needs the queries of the prompt, of every "
                   "KV head");
    }
    EXPECT_EQ(cache.kept(0, 0), before);
  };
  cache.append(0, text.key_rows(0, 300), text.value_rows(0, 300));
  expect_refused();
  Outputs out(300 * text.output_width());
  const Output to = Output::tokens_first(out.data(), 300, 4, 8);
  cache.attend(0, text.query_rows(0, 300), to, {}, {0, 1});
  expect_refused();  // nobody asked the second KV head
  cache.attend(0, text.query_rows(0, 300), to, {}, {1, 2});
  cache.end_prompt(0);
  EXPECT_EQ(cache.kept(0, 1).size(), 64U);
  static_cast<void>(step(cache, text, 300, 1));
  cache.append(0, text.key_rows(301, 19), text.value_rows(301, 19));
  expect_refused();  // a second prompt
  const std::vector<Position> newest{319};
  cache.observe(0, text.query_rows(319, 1), newest);
  EXPECT_NO_THROW(cache.end_prompt(0));
}

TEST(HeavyHitters, PaddingUsesNoBudget) {
  const Shape shape{.query_heads = 2, .kv_heads = 1, .head_dim = 8};
  const Text text(shape, 300, 22);
  for (const Budget budget : {Budget(40), Budget::fraction(0.4)}) {  // of the 100 tokens that are no padding
    for (const std::size_t padding : {200U, 262U}) {
      KVCache<H2O> padded(shape, {.eviction = {.budget = budget, .recent = 6}});
      static_cast<void>(step(padded, text, 0, 300, 0, {.start = static_cast<Position>(padding)}));
      padded.end_prompt(0);
      const auto kept = padded.kept(0, 0);
      const std::size_t tokens = 300 - padding;
      EXPECT_EQ(kept.size(), budget.rows_of != 0 ? std::min<std::size_t>(40, tokens) : tokens * 4 / 10);
      EXPECT_GE(kept.front(), padding);
    }
  }
}

}  // namespace heavy_hitters_test
