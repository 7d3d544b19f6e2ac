// tests/retrieval/landmarks_test.cpp - the landmark index: what it covers, chooses, and loses when rows move.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <numeric>

#include "kvcompress/policies/full.hpp"
#include "kvcompress/policies/kivi.hpp"
#include "kvcompress/policies/landmarks.hpp"
#include "kvcompress/policies/streaming_llm.hpp"
#include "kvcompress/policies/xkv.hpp"
#include "support/landmark_reading.hpp"

namespace landmarks_test {

using namespace kvcompress;
using namespace kvcompress::test;
using namespace kvcompress::test::landmarks;

TEST(Landmarks, EveryContextChunkHasALandmarkOrIsAnOutlierAndTheRestIsAlwaysRead) {
  for (std::size_t tokens = 90; tokens < 99; ++tokens) {  // no token is lost, whatever the remainder
    const Text text(shape, 100, 1);
    const auto cache = prompted<Shadow>(text, small_options<Shadow>(), tokens);
    for (std::size_t lane = 0; lane < 2; ++lane) {
      const auto& state = cache.index(0, lane);
      std::vector<std::size_t> chunks(state.ids().begin(), state.ids().end());
      for (const RowRange range : state.outliers()) {
        EXPECT_EQ(range.size(), 4U);
        chunks.push_back(range.first / 4);
      }
      std::sort(chunks.begin(), chunks.end());
      std::vector<std::size_t> all(tokens / 4 - 2);
      std::iota(all.begin(), all.end(), std::size_t{0});
      EXPECT_EQ(chunks, all);
      EXPECT_EQ(state.outliers().size(), 3U);
      EXPECT_EQ(state.indexed(), all.size() * 4);
      EXPECT_EQ(cache.kept(0, lane).size(), tokens);
      EXPECT_EQ(cache.keys(0, lane).settled(), state.indexed());
      EXPECT_EQ(cache.values(0, lane).settled(), state.indexed());
      EXPECT_EQ(cache.keys(0, lane).rows(), tokens);
      EXPECT_EQ(cache.values(0, lane).rows(), tokens);
    }
  }
}

TEST(Landmarks, EqualTokensAreNeverOutliersBeforeOthers) {
  Shape still = shape;
  still.rope.theta = 0.0;
  Text text(still, prompt, 2);
  std::mt19937 rng(3);
  std::set<std::size_t> uneven;
  for (std::size_t chunk = 0; chunk < prompt / 4; ++chunk) {
    if (uneven.size() < 5 && rng() % 4 == 0) {
      uneven.insert(chunk);
      continue;
    }
    for (std::size_t t = 1; t < 4; ++t) {
      std::copy_n(text.keys.begin() + static_cast<std::ptrdiff_t>(chunk * 4 * 32), 32,
                  text.keys.begin() + static_cast<std::ptrdiff_t>((chunk * 4 + t) * 32));
    }
  }
  auto options = small_options<Combine<Landmarks, Full<float>>>();
  options.retrieval.outlier_chunks = 5;
  const auto cache = prompted(text, options);
  for (std::size_t lane = 0; lane < 2; ++lane) {
    std::set<std::size_t> outliers;
    for (const RowRange range : cache.index(0, lane).outliers()) { outliers.insert(range.first / 4); }
    EXPECT_EQ(outliers, uneven);
  }
}

TEST(Landmarks, ALargerBudgetChoosesMoreOfTheSame) {
  const Text text(shape, prompt + 1, 4);
  for (std::size_t lane = 0; lane < 2; ++lane) {
    std::set<std::size_t> before;
    for (std::size_t budget = 4; budget <= 160; budget += 4) {
      const auto cache = prompted(text, small_options<Shadow>(budget));
      const auto chunks = chosen_chunks(cache, text, prompt, lane);
      EXPECT_EQ(chunks.size(), std::min<std::size_t>(budget / 4, prompt / 4 - 2 - 3));
      EXPECT_TRUE(std::includes(chunks.begin(), chunks.end(), before.begin(), before.end())) << budget;
      before = chunks;
    }
  }
}

TEST(Landmarks, TheChoiceDependsOnQueriesAndLandmarksOnly) {
  const Text text(shape, prompt + 20, 5);
  Text other(shape, prompt + 20, 6);  // other values, other decoded rows
  std::copy_n(text.keys.begin(), prompt * 32, other.keys.begin());
  other.queries = text.queries;
  auto a = prompted(text, small_options<Shadow>());
  auto b = prompted(other, small_options<Shadow>());
  for (std::size_t t = prompt; t < prompt + 20; ++t) {
    static_cast<void>(step(a, text, t, 1));
    static_cast<void>(step(b, other, t, 1));
    for (std::size_t lane = 0; lane < 2; ++lane) { EXPECT_EQ(chosen_chunks(a, text, t, lane), chosen_chunks(b, other, t, lane)); }
  }
  EXPECT_NE(chosen_chunks(a, text, prompt, 0), chosen_chunks(a, text, prompt, 1));
  EXPECT_NE(chosen_chunks(a, text, prompt, 0), chosen_chunks(a, text, prompt + 1, 0));
}

TEST(Landmarks, RepeatedQueryHeadsChangeNoChoice) {
  const Text text(shape, prompt + 10, 7);
  Shape twice = shape;
  twice.query_heads = 8;
  Text wide(twice, prompt + 10, 7);
  wide.keys = text.keys;
  wide.values = text.values;
  for (std::size_t row = 0; row < (prompt + 10) * 8; ++row) {
    std::copy_n(text.queries.begin() + static_cast<std::ptrdiff_t>(row / 2 * 16), 16,
                wide.queries.begin() + static_cast<std::ptrdiff_t>(row * 16));
  }
  const auto a = prompted(text, small_options<Shadow>());
  const auto b = prompted(wide, small_options<Shadow>());
  for (std::size_t t = prompt; t < prompt + 10; ++t) {
    for (std::size_t lane = 0; lane < 2; ++lane) { EXPECT_EQ(chosen_chunks(a, text, t, lane), chosen_chunks(b, wide, t, lane)); }
  }
}

TEST(Landmarks, OutputsOverFullAndKiviAreAttentionOverTheRowsThatAreRead) {
  const Text text(shape, prompt + 100, 8);
  for (const std::size_t fold_in : {0U, 16U}) {
    auto options = small_options<Combine<Landmarks, Full<float>>>();
    options.retrieval.fold_in = fold_in;
    auto full = prompted(text, options);
    expect_outputs(full, text, prompt, prompt + 100);
    auto coded = small_options<Combine<Landmarks, Kivi<4, 32, 32>>>();
    coded.retrieval.fold_in = fold_in;
    auto kivi = prompted(text, coded);
    expect_outputs(kivi, text, prompt, prompt + 100);
    EXPECT_EQ(full.index(0, 0).indexed() > prompt, fold_in > 0);
    EXPECT_EQ(kivi.index(0, 1).indexed(), full.index(0, 1).indexed());
  }
}

/// The largest difference between a landmark and the mean of the rows that its chunk holds now.
template <class Cache>
double landmark_deviation(Cache& cache) {
  double worst = 0.0;
  std::vector<float> key(shape.head_dim);
  std::vector<float> value(shape.head_dim);
  for (std::size_t lane = 0; lane < 2; ++lane) {
    const auto& state = cache.index(0, lane);
    for (std::size_t i = 0; i < state.ids().size(); ++i) {
      std::vector<double> mean(shape.head_dim, 0.0);
      for (std::size_t row = state.ids()[i] * 4; row < (state.ids()[i] + 1) * 4; ++row) {
        cache.read(0, lane, row, key.data(), value.data());
        for (std::size_t c = 0; c < shape.head_dim; ++c) { mean[c] += static_cast<double>(key[c]) / 4; }
      }
      for (std::size_t c = 0; c < shape.head_dim; ++c) {
        worst = std::max(worst, std::abs(static_cast<double>(static_cast<float>(state.landmark(i)[c])) - mean[c]));
      }
    }
  }
  return worst;
}
/// Rows decoded after the prompt that a lane holds and a query of the newest token does not read.
template <class Cache>
std::size_t decoded_rows_left_out(const Cache& cache, const Text& text, std::size_t token) {
  std::size_t left_out = 0;
  for (std::size_t lane = 0; lane < 2; ++lane) {
    std::set<Position> read;
    for (const std::size_t row : rows_read(cache, text, token, lane)) { read.insert(cache.table(0, lane).position(row)); }
    for (const Position position : cache.kept(0, lane)) { left_out += position >= prompt && !read.contains(position) ? 1U : 0U; }
  }
  return left_out;
}

TEST(Landmarks, SelectiveReconstructionOverXkvIsAttentionOverTheRowsThatAreRead) {
  const Text text(shape, 220, 17);
  auto options = small_options<Combine<XKV<float>, Landmarks>>();
  options.storage = {.layers_per_group = 1, .rank_keys = 12, .rank_values = 20};
  auto cache = prompted(text, options);
  EXPECT_EQ(cache.keys(0, 0).settled(), prompt);
  expect_outputs(cache, text, prompt, 190);
}

TEST(Landmarks, AreThoseOfTheirRowsAfterRemove) {
  const Text text(shape, prompt + 40, 9);
  auto cache = prompted(text, small_options<Combine<Landmarks, Full<float>>>());
  cache.remove(10, 21);
  EXPECT_LT(landmark_deviation(cache), 4e-3) << "before the next commit";
  expect_outputs(cache, text, prompt, prompt + 20);
  cache.remove(100, 103);
  expect_outputs(cache, text, prompt + 20, prompt + 40);
  EXPECT_LT(landmark_deviation(cache), 4e-3);
}

TEST(Landmarks, DecodedRowsAreReadAfterRemove) {
  const Text text(shape, prompt + 40, 9);
  auto cache = prompted(text, small_options<Combine<Landmarks, Full<float>>>());
  expect_outputs(cache, text, prompt, prompt + 20);
  cache.remove(10, 51);
  for (std::size_t t = prompt + 20; t < prompt + 40; ++t) {
    static_cast<void>(step(cache, text, t, 1));
    ASSERT_EQ(decoded_rows_left_out(cache, text, t), 0U) << "token " << t;
  }
}

TEST(Landmarks, DecodedRowsAreReadUnderAWindow) {
  const Text text(shape, prompt + 60, 10);
  auto options = small_options<Combine<StreamingLLM, Landmarks, Full<float>>>();
  options.eviction = {.sinks = 4, .window = 120, .in_cache_positions = false};
  auto cache = prompted(text, options);
  for (std::size_t t = prompt; t < prompt + 60; ++t) {
    const Outputs out = step(cache, text, t, 1);
    ASSERT_LT(output_deviation(cache, text, t, out), 2e-5);
    ASSERT_LT(landmark_deviation(cache), 4e-3);
    ASSERT_EQ(decoded_rows_left_out(cache, text, t), 0U) << "token " << t;
    cache.commit(0);
  }
}

TEST(Landmarks, ChunksThatAQueryDoesNotSeeAreNoCandidates) {
  const auto check = [&]<class P>(KVCache<P> cache, const Text& text) {
    cache.append(0, text.key_rows(320, 1), text.value_rows(320, 1));
    EXPECT_NEAR(attend(cache, text, 321, 1, 0, {.window = 64})[0], 32.5F, 1e-3F);
    const std::size_t fetched = cache.fetched();
    EXPECT_NEAR(attend(cache, text, 321, 1, 0, {.start = 256})[0], 32.0F, 1e-3F);
    EXPECT_NEAR(attend(cache, text, 321, 1, 0, {.window = 64, .start = 300})[0], 54.0F, 1e-3F);
    EXPECT_NEAR(attend(cache, text, 321, 1, 0, {.window = 2})[0], 63.5F, 1e-3F);
    EXPECT_LE(cache.fetched() - fetched, 4 * 8 * sizeof(float)) << "one chunk more than the window of 64 had";
  };
  const Shape one{.head_dim = 8};
  Text text(one, 321, 41);
  for (std::size_t t = 0; t < 321; ++t) {  // the rows that will be hidden have the larger keys
    std::fill_n(text.keys.begin() + static_cast<std::ptrdiff_t>(8 * t), 8, t < 256 ? 1.0F : 0.0F);
    std::fill_n(text.values.begin() + static_cast<std::ptrdiff_t>(8 * t), 8, t < 256 ? -1000.0F : static_cast<float>(t - 256));
    std::fill_n(text.queries.begin() + static_cast<std::ptrdiff_t>(8 * t), 8, 1.0F);
  }
  check(prompted(text, small_options<Combine<Landmarks, Full<float>>>(64), 320), text);
  check(prompted(text, small_options<Shadow>(64), 320), text);
}

TEST(Landmarks, ASmallBudgetIsSpentOnVisibleChunks) {
  Text text(shape, 301, 42);
  for (std::size_t i = 0; i < 200 * 32; ++i) { text.keys[i] *= 4.0F; }
  auto cache = prompted(text, small_options<Shadow>(), 300);
  auto plain = prompted(text, small_options<Combine<Landmarks, Full<float>>>(), 300);
  cache.append(0, text.key_rows(300, 1), text.value_rows(300, 1));
  const std::size_t indexed = cache.index(0, 0).indexed();
  for (const AttendOptions& options : {AttendOptions{.window = 100}, AttendOptions{.start = 203}, AttendOptions{.window = 85, .start = 203},
                                       AttendOptions{.window = 9}, AttendOptions{.soft_cap = 2.0F, .start = 120}}) {
    const auto sees = [&](std::size_t row) { return row >= options.start && (options.window == 0 || 300 - row < options.window); };
    for (std::size_t lane = 0; lane < 2; ++lane) {
      const Visible visible{options.start, options.window, 300, 300};
      std::size_t outliers = 0;
      for (const RowRange range : cache.index(0, lane).outliers()) { outliers += sees(range.last - 1) ? 1U : 0U; }
      std::size_t candidates = 0;
      for (std::size_t row = 3; row < indexed; row += 4) { candidates += sees(row) ? 1U : 0U; }
      std::size_t chunks = 0;
      for (const RowRange range : chosen(cache, text, 300, lane, visible, options.soft_cap)) {
        for (std::size_t row = range.first; row < range.last; row += 4, ++chunks) { EXPECT_TRUE(sees(row + 3)) << "chunk " << row / 4; }
      }
      EXPECT_EQ(chunks, outliers + std::min<std::size_t>(6, candidates - outliers));
      const auto probable = chosen(plain, text, 300, lane, visible, options.soft_cap);
      EXPECT_EQ(probable.empty(), chunks == 0);
    }
  }
}

TEST(Landmarks, PaddingIsNoOutlierAndCountsInNoMean) {
  Text text(shape, 200, 43);
  for (std::size_t i = 0; i < 50 * 32; ++i) { text.keys[i] *= i % 3 == 0 ? -50.0F : 20.0F; }
  KVCache<Shadow> cache(shape, small_options<Shadow>());
  static_cast<void>(step(cache, text, 0, 200, 0, {.start = 50}));
  cache.end_prompt(0);
  for (std::size_t lane = 0; lane < 2; ++lane) {
    const auto& state = cache.index(0, lane);
    EXPECT_EQ(state.outliers().size(), 3U);
    for (const RowRange range : state.outliers()) { EXPECT_GT(range.last, 50U); }
    const auto border = std::find(state.ids().begin(), state.ids().end(), 12U);  // the rows 48 to 51
    if (border == state.ids().end()) { continue; }
    const float* mean = state.landmark(static_cast<std::size_t>(border - state.ids().begin()));
    for (std::size_t c = 0; c < 16; ++c) {
      const float sum = text.keys[(50 * 2 + lane) * 16 + c] + text.keys[(51 * 2 + lane) * 16 + c];
      EXPECT_NEAR(mean[c], sum / 2.0F, 1e-5F);
    }
  }
}

TEST(Landmarks, TheLastQuerysChoiceWaitsForTheLayersOfItsGroup) {
  Shape deep = shape;
  deep.layers = 4;
  const Text text(deep, 340, 44);
  auto options = small_options<Combine<XKV<float>, Landmarks>>();
  options.retrieval.behaviour = ShadowKVClass::offload;
  options.storage = {.layers_per_group = 3, .rank_keys = 96, .rank_values = 96, .factorisation = low_rank::Factorisation::exact};
  KVCache<Combine<XKV<float>, Landmarks>> cache(deep, options);
  for (const std::size_t layer : {2U, 0U, 3U, 1U}) {
    static_cast<void>(step(cache, text, 0, 300, layer, {.window = 120}));
    cache.end_prompt(layer);
  }
  for (std::size_t t = 300; t < 340; ++t) {
    for (std::size_t layer = 0; layer < 4; ++layer) {
      const Outputs out = step(cache, text, t, 1, layer, {.window = 24});
      ASSERT_LT(deviation(out, attention_over_held_rows(cache, text, t + 1, 1, layer, {.window = 24})), 2e-5);
    }
  }
  EXPECT_EQ(cache.index(1, 0).indexed(), (300 / 4 - 2) / 8 * 8 * 4U);
}

}  // namespace landmarks_test
