// tests/eviction/sink_window_test.cpp - StreamingLLM's rule against the reference, and the invariants of its specification.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include "kvcompress/policies/full.hpp"
#include "kvcompress/policies/streaming_llm.hpp"
#include "kvcompress/reference/streaming_llm.hpp"
#include "support/random_rows.hpp"

namespace sink_window_test {

using namespace kvcompress;
using namespace kvcompress::test;
using reference::Index;

using Policy = Combine<StreamingLLM, Full<float>>;

KVCache<Policy> make(const Shape& shape, std::size_t sinks, std::size_t window, bool in_cache_positions = true) {
  return KVCache<Policy>(shape, {.eviction = {.sinks = sinks, .window = window, .in_cache_positions = in_cache_positions}});
}
std::vector<Position> positions_of(const reference::StreamingLLMState& state) {
  std::vector<Position> out;
  for (const std::int64_t p : state.positions) { out.push_back(static_cast<Position>(p)); }
  return out;
}
/// Column block of outputs that belongs to `head`, as the reference gives it.
double head_deviation(const Outputs& out, const reference::Matrix& expected, std::size_t head, const Shape& shape) {
  double worst = 0.0;
  for (Index t = 0; t < expected.rows(); ++t) {
    for (Index c = 0; c < expected.cols(); ++c) {
      const std::size_t at = (static_cast<std::size_t>(t) * shape.query_heads + head) * shape.value_width() + static_cast<std::size_t>(c);
      worst = std::max(worst, std::abs(static_cast<double>(out[at]) - expected(t, c)));
    }
  }
  return worst;
}

TEST(SinkWindow, FollowsTheReferenceOverRandomShapes) {
  for (unsigned seed = 0; seed < 12; ++seed) {
    std::mt19937 rng(seed);
    const std::size_t kv_heads = rng() % 2 + 1;
    const std::size_t group = rng() % 3 + 1;
    const Shape shape{.query_heads = kv_heads * group,
                      .kv_heads = kv_heads,
                      .head_dim = 8 * (rng() % 4 + 1),
                      .keys = KeyForm::unrotated,
                      .rope = {.theta = 1000.0, .pairing = seed % 2 == 0 ? RopePairing::half_split : RopePairing::interleaved}};
    const std::size_t sinks = rng() % 6;
    const std::size_t window = rng() % 20 + 1;
    const Text text(shape, 120, seed + 100);
    KVCache<Policy> cache = make(shape, sinks, window);
    std::vector<reference::StreamingLLMState> states;
    for (std::size_t lane = 0; lane < kv_heads; ++lane) {
      states.push_back({.options = {.sinks = static_cast<Index>(sinks), .recent = static_cast<Index>(window)},
                        .rope = {.pairing = seed % 2 == 0 ? reference::Pairing::half : reference::Pairing::interleaved, .theta = 1000.0}});
    }
    for (std::size_t t = 0, count = 0; t < text.tokens; t += count) {
      count = std::min<std::size_t>(t == 0 ? rng() % 40 + 1 : rng() % 4 == 0 ? rng() % 9 + 1 : 1, text.tokens - t);
      const Outputs out = step(cache, text, t, count);
      t == 0 || rng() % 5 == 0 ? cache.end_prompt(0) : cache.commit(0);
      const auto from = static_cast<Index>(t);
      const auto rows = static_cast<Index>(count);
      for (std::size_t lane = 0; lane < kv_heads; ++lane) {
        states[lane].append(text.key_matrix(lane).middleRows(from, rows), text.value_matrix(lane).middleRows(from, rows));
        for (std::size_t h = lane * group; h < (lane + 1) * group; ++h) {
          const auto expected = states[lane].attend(text.query_matrix(h).middleRows(from, rows));
          ASSERT_LT(head_deviation(out, expected.output, h, shape), 3e-5) << "seed " << seed << " token " << t;
        }
        states[lane].commit();
        ASSERT_EQ(cache.kept(0, lane), positions_of(states[lane])) << "seed " << seed << " token " << t;
      }
    }
  }
}

TEST(SinkWindow, HoldsSinksAndTheNewestRowsWithoutGapsInTheSlots) {
  const Shape shape{.query_heads = 1, .kv_heads = 1, .head_dim = 8};
  const Text text(shape, 80, 1);
  KVCache<Policy> cache = make(shape, 3, 10);
  for (std::size_t t = 0; t < text.tokens; ++t) {
    static_cast<void>(step(cache, text, t, 1));
    t == 0 ? cache.end_prompt(0) : cache.commit(0);
    const auto kept = cache.kept(0, 0);
    ASSERT_EQ(kept.size(), std::min<std::size_t>(t + 1, 13));
    for (std::size_t i = 0; i < kept.size(); ++i) { ASSERT_EQ(kept[i], t < 13 || i < 3 ? i : t + 1 - kept.size() + i); }
    const RowTable& table = cache.table(0, 0);
    for (std::size_t r = 0; r < table.rows(); ++r) {
      const auto rank = std::find(kept.begin(), kept.end(), table.position(r)) - kept.begin();
      ASSERT_EQ(table.position(r) - table.shift(r), static_cast<Position>(rank));
    }
  }
}

TEST(SinkWindow, OutputsDependOnTheKeptTokensOnly) {
  const Shape shape{.query_heads = 2, .kv_heads = 1, .head_dim = 16, .keys = KeyForm::unrotated};
  const Text text(shape, 90, 2);
  KVCache<Policy> cache = make(shape, 4, 12);
  static_cast<void>(run(cache, text, 50, 80));
  const auto kept = cache.kept(0, 0);
  KVCache<Policy> fresh = make(shape, 4, 12);
  for (const Position p : kept) { fresh.append(0, text.key_rows(p, 1), text.value_rows(p, 1)); }
  fresh.end_prompt(0);
  for (std::size_t t = 80; t < 90; ++t) { EXPECT_LT(deviation(step(cache, text, t, 1), step(fresh, text, t, 1)), 2e-5); }
}

TEST(SinkWindow, WithoutSinksAndRenumberingIsASlidingWindow) {
  const Shape shape{.query_heads = 2, .kv_heads = 1, .head_dim = 16};
  const Text text(shape, 90, 3);
  for (const bool in_cache : {false, true}) {  // rotary distances are the same either way
    KVCache<Policy> cache = make(shape, 0, 16, in_cache);
    Outputs out = step(cache, text, 0, 1);
    cache.end_prompt(0);
    for (std::size_t t = 1; t < text.tokens; ++t) {
      const Outputs one = step(cache, text, t, 1);
      out.insert(out.end(), one.begin(), one.end());
    }
    EXPECT_LT(deviation(out, full_attention(text, {.window = 17})), 2e-5);  // 16 rows and the new one
  }
}

TEST(SinkWindow, OriginalPositionsSeeTheSinksFarAway) {
  const Shape shape{.query_heads = 1, .kv_heads = 1, .head_dim = 16, .keys = KeyForm::unrotated, .rope = {.theta = 30.0}};
  const Text text(shape, 60, 4);
  KVCache<Policy> cache = make(shape, 2, 8, false);
  static_cast<void>(run(cache, text, 20, 59));
  const Outputs out = step(cache, text, 59, 1);
  const auto rows = cache.kept(0, 0);
  reference::Matrix keys(static_cast<Index>(rows.size()), 16);
  reference::Matrix values(static_cast<Index>(rows.size()), 16);
  reference::Positions at(static_cast<Index>(rows.size()));
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto row = static_cast<Index>(i);
    keys.row(row) = text.key_matrix(0).row(static_cast<Index>(rows[i]));
    values.row(row) = text.value_matrix(0).row(static_cast<Index>(rows[i]));
    at(row) = rows[i];
  }
  const reference::Rope rope{.theta = 30.0};
  const reference::Positions here = reference::consecutive(59, 1);
  const auto expected = reference::attention(reference::rotate(text.query_matrix(0).row(59), here, rope), reference::rotate(keys, at, rope),
                                             values, here, at);
  EXPECT_LT(head_deviation(out, expected.output, 0, shape), 2e-5);
}

TEST(SinkWindow, ChunksEndedOneByOneNeverMakeTheCacheLonger) {
  const Shape shape{.query_heads = 1, .kv_heads = 1, .head_dim = 8};
  const Text text(shape, 200, 5);
  KVCache<Policy> cache = make(shape, 4, 28);
  for (std::size_t t = 0; t < 200; t += 20) {
    static_cast<void>(step(cache, text, t, 20));
    cache.end_prompt(0);
    EXPECT_LE(cache.kept(0, 0).size(), 32U);
    const auto kept = cache.kept(0, 0);
    cache.commit(0);  // again: nothing is left to do
    EXPECT_EQ(cache.kept(0, 0), kept);
  }
}

TEST(SinkWindow, PositionsWithGapsKeepTheirOrder) {
  const Shape shape{.query_heads = 1, .kv_heads = 1, .head_dim = 8};
  const Text text(shape, 40, 6);
  KVCache<Policy> cache = make(shape, 2, 3);
  cache.append(0, text.key_rows(0, 4), text.value_rows(0, 4), 10);
  cache.append(0, text.key_rows(4, 4), text.value_rows(4, 4), 100);
  cache.end_prompt(0);
  EXPECT_EQ(cache.kept(0, 0), (std::vector<Position>{10, 11, 101, 102, 103}));
  EXPECT_EQ(cache.tokens(0), 104U);
  EXPECT_EQ(cache.table(0, 0).shift(cache.table(0, 0).rows() - 1), 99U);
}

TEST(SinkWindow, AWindowCountsInCachePositions) {
  const Shape shape{.head_dim = 8};
  Text text(shape, 601, 7);
  std::fill(text.keys.begin(), text.keys.end(), 0.0F);
  std::fill(text.values.begin(), text.values.end(), 0.0F);
  std::fill_n(text.values.begin(), 4 * 8, 1.0F);  // the sinks
  for (const bool in_cache : {true, false}) {
    KVCache<StreamingLLM> cache(shape, {.eviction = {.sinks = 4, .window = 60, .in_cache_positions = in_cache}});
    cache.append(0, text.key_rows(0, 600), text.value_rows(0, 600));
    cache.end_prompt(0);
    cache.append(0, text.key_rows(600, 1), text.value_rows(600, 1));
    const auto seen = [&](std::size_t window) { return attend(cache, text, 601, 1, 0, {.window = window})[0]; };
    EXPECT_NEAR(seen(0), 4.0F / 65.0F, 1e-6F);
    EXPECT_NEAR(seen(256), in_cache ? 4.0F / 65.0F : 0.0F, 1e-6F);
    EXPECT_NEAR(seen(64), in_cache ? 3.0F / 64.0F : 0.0F, 1e-6F) << "the query is at 64";
    EXPECT_NEAR(seen(598), in_cache ? 4.0F / 65.0F : 1.0F / 62.0F, 1e-6F);
    std::vector<Workspace> two(2, Workspace(shape));  // by parts of the rows
    Outputs out(8);
    cache.attend(0, text.query_rows(600, 1), Output::tokens_first(out.data(), 1, 1, 8), two, SerialExecutor{}, {.window = 64});
    EXPECT_EQ(out[0], seen(64));
  }
}

TEST(SinkWindow, PaddingIsNoSink) {
  const Shape shape{.layers = 2, .query_heads = 4, .kv_heads = 2, .head_dim = 8};
  const Text text(shape, 500, 8);
  std::vector<Position> expected{200, 201, 202, 203};
  for (Position p = 440; p < 500; ++p) { expected.push_back(p); }
  KVCache<Policy> cache = make(shape, 4, 60);
  static_cast<void>(step(cache, text, 0, 300, 0, {.start = 200}));
  const KVCache<Policy> fork = cache.fork();
  static_cast<void>(step(cache, text, 300, 200, 0, {.start = 203}));  // some see less, but nobody sees more
  cache.append(1, text.key_rows(0, 500), text.value_rows(0, 500));
  std::vector<Position> positions{499};
  cache.observe(1, text.query_rows(499, 1), positions, {.start = 200});  // an engine with its own attention
  for (std::size_t layer = 0; layer < 2; ++layer) {
    cache.end_prompt(layer);
    EXPECT_EQ(cache.kept(layer, 0), expected);
    EXPECT_EQ(cache.kept(layer, 1), expected);
  }
  KVCache<Policy> again = fork;
  again.truncate(250);  // the queries of the tokens that stay said it too
  static_cast<void>(step(again, text, 250, 250, 0, {.start = 240}));
  again.end_prompt(0);
  EXPECT_EQ(again.kept(0, 0), expected);
  again = fork;
  again.truncate(0);
  static_cast<void>(step(again, text, 0, 500, 0, {.start = 100}));
  again.end_prompt(0);
  EXPECT_EQ(again.kept(0, 0).front(), 100U) << "what taken back queries said is forgotten";
}

TEST(SinkWindow, PaddingThatComesInChunksOfAStreamedPromptGoesWithEachChunk) {
  const Shape shape{.head_dim = 8};
  const Text text(shape, 200, 9);
  KVCache<Policy> cache = make(shape, 2, 20);
  for (std::size_t t = 0; t < 200; t += 40) {
    static_cast<void>(step(cache, text, t, 40, 0, {.start = 90}));
    cache.end_prompt(0);
    EXPECT_EQ(cache.kept(0, 0).size(), t < 80 ? 0U : 22U);
  }
  EXPECT_EQ(cache.kept(0, 0)[1], 91U);
}

}  // namespace sink_window_test
