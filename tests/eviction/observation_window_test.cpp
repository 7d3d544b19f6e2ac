// tests/eviction/observation_window_test.cpp - SnapKV's rule against the reference, and the invariants of its specification.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <numeric>

#include "kvcompress/policies/full.hpp"
#include "kvcompress/policies/snapkv.hpp"
#include "kvcompress/reference/snapkv.hpp"
#include "support/random_rows.hpp"

namespace observation_window_test {

using namespace kvcompress;
using namespace kvcompress::test;
using reference::Index;

using Policy = Combine<SnapKV, Full<float>>;
using Cache = KVCache<Policy>;
using Options = ObservationWindow::Options;

const Shape small{.query_heads = 4, .kv_heads = 2, .head_dim = 16};

/// Feeds `prompt` tokens as one prompt in chunks.
Cache prefilled(const Text& text, const Options& options, std::size_t prompt, std::size_t chunk, const AttendOptions& attended = {}) {
  Cache cache(text.shape, {.eviction = options});
  for (std::size_t first = 0; first < prompt; first += chunk) {
    const std::size_t count = std::min(chunk, prompt - first);
    cache.append(0, text.key_rows(first, count), text.value_rows(first, count));
    static_cast<void>(attend(cache, text, first + count, count, 0, attended));
  }
  cache.end_prompt(0);
  return cache;
}
/// What the reference keeps of the first `prompt` tokens of a lane.
std::vector<Position> expected_rows(const Text& text, const Options& options, std::size_t prompt, std::size_t lane) {
  const auto rows = static_cast<Index>(prompt);
  std::vector<reference::Matrix> queries;
  for (std::size_t h = 0; h < text.shape.group(); ++h) {
    queries.push_back(text.query_matrix(lane * text.shape.group() + h).topRows(rows));
  }
  const reference::Rows kept =
      reference::snapkv_select(queries, text.key_matrix(lane).topRows(rows),
                               {.window = static_cast<Index>(options.window),
                                .capacity = static_cast<Index>(options.budget.rows_of),
                                .kernel = static_cast<Index>(options.kernel),
                                .pooling = options.pooling == Pooling::max ? reference::Pooling::max : reference::Pooling::average,
                                .reduction = options.reduction == Reduction::max   ? reference::HeadReduction::max
                                             : options.reduction == Reduction::sum ? reference::HeadReduction::sum
                                                                                   : reference::HeadReduction::mean});
  return {kept.begin(), kept.end()};
}

TEST(ObservationWindow, KeepsWhatTheReferenceKeepsForEveryPoolingAndReduction) {
  const Text text(small, 150, 1);
  for (const Pooling pooling : {Pooling::average, Pooling::max}) {
    for (const Reduction reduction : {Reduction::mean, Reduction::max, Reduction::sum}) {
      for (const std::size_t kernel : {1U, 3U, 5U, 7U, 31U}) {
        for (const std::size_t window : {1U, 8U, 20U}) {
          const Options options{.budget = 40, .window = window, .kernel = kernel, .pooling = pooling, .reduction = reduction};
          const Cache cache = prefilled(text, options, 150, 150);
          for (std::size_t lane = 0; lane < 2; ++lane) {
            EXPECT_EQ(cache.kept(0, lane), expected_rows(text, options, 150, lane)) << "kernel " << kernel << " window " << window;
          }
        }
      }
    }
  }
}

TEST(ObservationWindow, PromptsAroundTheBudgetKeepTheBudgetOrEverything) {
  const Text text(small, 60, 2);
  const Options options{.budget = 40, .window = 8, .kernel = 5};
  for (const std::size_t prompt : {1U, 5U, 8U, 9U, 39U, 40U, 41U, 48U, 60U}) {
    const Cache cache = prefilled(text, options, prompt, prompt);
    const auto kept = cache.kept(0, 0);
    EXPECT_EQ(kept.size(), std::min<std::size_t>(prompt, 40));
    EXPECT_TRUE(std::ranges::adjacent_find(kept, std::greater_equal<>()) == kept.end()) << "ascending, no duplicates";
    for (std::size_t i = 0; i < std::min<std::size_t>(prompt, 8); ++i) { EXPECT_EQ(kept[kept.size() - 1 - i], prompt - 1 - i); }
    if (prompt > 40) { EXPECT_EQ(kept, expected_rows(text, options, prompt, 0)); }
  }
}

TEST(ObservationWindow, ALastChunkShorterThanTheWindowStillHasAWholeWindow) {
  const Text text(small, 100, 3);
  const Options options{.budget = 30, .window = 12, .kernel = 3};
  const auto expected = expected_rows(text, options, 100, 1);
  for (const std::size_t chunk : {1U, 5U, 11U, 33U, 95U, 99U}) {
    EXPECT_EQ(prefilled(text, options, 100, chunk).kept(0, 1), expected) << "chunks of " << chunk;
  }
}

TEST(ObservationWindow, ALargerBudgetOnlyAddsRows) {
  const Text text(small, 120, 4);
  std::vector<Position> smaller;
  for (std::size_t budget = 20; budget < 120; budget += 9) {
    const auto kept = prefilled(text, {.budget = budget, .window = 8, .kernel = 5}, 120, 120).kept(0, 0);
    EXPECT_TRUE(std::ranges::includes(kept, smaller)) << budget;
    smaller = kept;
  }
}

TEST(ObservationWindow, FindsEveryNeedleThatTheLastQueriesLookAt) {
  const Shape shape{.query_heads = 1, .kv_heads = 1, .head_dim = 16};
  Text text(shape, 400, 5);
  const std::vector<Position> needles{13, 101, 202, 299};
  for (std::size_t t = 0; t < 400; ++t) {
    text.keys[t * 16] = std::ranges::find(needles, t) != needles.end() ? 20.0F : 0.0F;
    text.queries[t * 16] = t >= 392 ? 5.0F : 0.0F;
  }
  for (const Pooling pooling : {Pooling::average, Pooling::max}) {
    const auto kept = prefilled(text, {.budget = 40, .window = 8, .kernel = 5, .pooling = pooling}, 400, 400).kept(0, 0);
    EXPECT_TRUE(std::ranges::includes(kept, needles));
  }
}

TEST(ObservationWindow, UniformAttentionKeepsTheFirstRows) {
  Text text(small, 60, 6);
  std::fill(text.queries.begin(), text.queries.end(), 0.0F);
  const auto kept = prefilled(text, {.budget = 20, .window = 4, .kernel = 1}, 60, 60).kept(0, 0);
  std::vector<Position> expected(16);
  std::iota(expected.begin(), expected.end(), Position{0});
  expected.insert(expected.end(), {56, 57, 58, 59});
  EXPECT_EQ(kept, expected);
}

TEST(ObservationWindow, DecodedRowsStayUnlessBounded) {
  const Text text(small, 150, 7);
  const Options options{.budget = 40, .window = 8};
  Cache all = prefilled(text, options, 100, 100);
  Options bounded = options;
  bounded.decode_budget = 10;
  Cache some = prefilled(text, bounded, 100, 100);
  auto prompt_rows = all.kept(0, 0);
  EXPECT_EQ(prompt_rows.size(), 40U);
  for (std::size_t t = 100; t < 150; ++t) {
    static_cast<void>(step(all, text, t, 1));
    static_cast<void>(step(some, text, t, 1));
    all.commit(0);
    some.commit(0);
    auto expected = prompt_rows;
    for (std::size_t p = 100; p <= t; ++p) { expected.push_back(static_cast<Position>(p)); }
    EXPECT_EQ(all.kept(0, 0), expected);
    expected = prompt_rows;
    for (std::size_t p = std::max<std::size_t>(100, t >= 9 ? t - 9 : 0); p <= t; ++p) { expected.push_back(static_cast<Position>(p)); }
    EXPECT_EQ(some.kept(0, 0), expected) << t;
  }
}

TEST(ObservationWindow, ObserveVotesAsAttendDoes) {
  const Text text(small, 100, 8);
  const Options options{.budget = 30, .window = 8};
  Cache observed(small, {.eviction = options});
  observed.append(0, text.key_rows(0, 100), text.value_rows(0, 100));
  std::vector<Position> positions(60);
  std::iota(positions.begin(), positions.end(), Position{40});
  observed.observe(0, text.query_rows(40, 60), positions);
  observed.end_prompt(0);
  EXPECT_EQ(observed.kept(0, 0), prefilled(text, options, 100, 100).kept(0, 0));
  EXPECT_EQ(observed.kept(0, 1), expected_rows(text, options, 100, 1));
}

TEST(ObservationWindow, VotesWithTheOptionsTheQueriesWereAttendedWith) {
  const Text text(small, 100, 9);
  const Options options{.budget = 30, .window = 8, .kernel = 1};
  const auto padded = prefilled(text, options, 100, 100, {.start = 60}).kept(0, 0);  // 40 rows to see, 30 to keep
  EXPECT_TRUE(std::ranges::all_of(padded, [](Position p) { return p >= 60; }));
  Text doubled = text;
  for (float& x : doubled.queries) { x *= 2.0F; }
  EXPECT_EQ(prefilled(text, options, 100, 100, {.scale = 0.5F}).kept(0, 1), expected_rows(doubled, options, 100, 1));  // 2 / sqrt(16)
  EXPECT_NE(prefilled(text, options, 100, 100, {.scale = 0.5F}).kept(0, 1), expected_rows(text, options, 100, 1));
}

TEST(ObservationWindow, ASecondPromptVotesAnewOverEveryRowHeld) {
  const Text text(small, 140, 10);
  const Options options{.budget = 30, .window = 8, .kernel = 3};
  Cache cache = prefilled(text, options, 80, 80);
  for (std::size_t t = 80; t < 90; ++t) { static_cast<void>(step(cache, text, t, 1)); }
  cache.commit(0);
  for (std::size_t lane = 0; lane < 2; ++lane) { EXPECT_EQ(cache.kept(0, lane).size(), 40U); }
  const auto held = cache.kept(0, 1);
  static_cast<void>(step(cache, text, 90, 50));
  cache.end_prompt(0);
  std::vector<Index> rows(held.begin(), held.end());  // what the last 8 queries voted on
  for (Index t = 90; t < 140; ++t) { rows.push_back(t); }
  std::vector<reference::Matrix> queries;
  for (std::size_t h = 2; h < 4; ++h) { queries.push_back(text.query_matrix(h)(rows, Eigen::all)); }
  const auto kept = reference::snapkv_select(queries, text.key_matrix(1)(rows, Eigen::all),
                                             {.window = 8, .capacity = 30, .kernel = 3, .pooling = reference::Pooling::max});
  std::vector<Position> expected;
  for (const Index row : kept) { expected.push_back(static_cast<Position>(rows[static_cast<std::size_t>(row)])); }
  EXPECT_EQ(cache.kept(0, 1), expected);
}

TEST(ObservationWindow, TheRowWithTheSmallestScoreGoesFirst) {
  const Shape shape{.query_heads = 1, .kv_heads = 1, .head_dim = 16};
  const Text text(shape, 80, 11);
  const reference::Vector scores = reference::snapkv_scores(text.query_matrix(0), text.key_matrix(0), 10);
  EXPECT_LE(scores.sum(), 10.0);
  Cache cache = prefilled(text, {.budget = 80 - 1, .window = 10, .kernel = 1}, 80, 80);  // drops the one row with the smallest score
  Index least = 0;
  scores.minCoeff(&least);
  EXPECT_FALSE(std::ranges::binary_search(cache.kept(0, 0), static_cast<Position>(least)));
}

TEST(ObservationWindow, PaddingNeitherAsksNorStays) {
  const Shape shape{.query_heads = 2, .kv_heads = 1, .head_dim = 8};
  const Text text(shape, 300, 31);
  for (const std::size_t padding : {50U, 200U, 270U, 296U}) {  // in the last one, most queries of the window are padding
    const AttendOptions options{.start = static_cast<Position>(padding)};
    KVCache<SnapKV> padded(shape, {.eviction = {.budget = 40, .window = 8}});
    static_cast<void>(step(padded, text, 0, 300, 0, options));
    padded.end_prompt(0);
    KVCache<SnapKV> plain(shape, {.eviction = {.budget = 40, .window = 8}});
    plain.append(0, text.key_rows(padding, 300 - padding), text.value_rows(padding, 300 - padding), static_cast<Position>(padding));
    static_cast<void>(attend(plain, text, 300, 300 - padding));
    plain.end_prompt(0);
    EXPECT_EQ(padded.kept(0, 0), plain.kept(0, 0));
    EXPECT_EQ(padded.kept(0, 0).size(), std::min<std::size_t>(40, 300 - padding));
  }
}

}  // namespace observation_window_test
