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

namespace {

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

}  // namespace
