// tests/reference/shadowkv_reference_test.cpp - ShadowKV's reference: invariants.
// SPDX-License-Identifier: MIT
#include "kvcompress/reference/shadowkv.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <set>
#include <vector>

#include "support/random_matrix.hpp"
#include "support/shadowkv_cases.hpp"

namespace shadowkv_reference_test {

using namespace kvcompress;
using conformance::deviation;
using reference::Heads;
using reference::Index;
using reference::Matrix;
using reference::Rows;
using reference::ShadowKVOptions;
using reference::Vector;
using test::random_matrix;

// 2 heads, 83 tokens: 18 context chunks of 4, 11 local tokens.
constexpr Index prompt_tokens = 83;
const ShadowKVOptions small{.rank = 5, .chunk = 4, .local_chunks = 2, .outlier_chunks = 3, .sparse_tokens = 20};

Heads random_heads(std::mt19937& rng, Index tokens) { return {random_matrix(rng, tokens, 8), random_matrix(rng, tokens, 8)}; }

struct Example {
  explicit Example(const ShadowKVOptions& options) : keys(random_heads(rng, prompt_tokens)), values(random_heads(rng, prompt_tokens)) {
    state.options = options;
    state.prompt(keys, values);
  }
  std::mt19937 rng{11};
  Heads keys;
  Heads values;
  reference::ShadowKVState state{};
};

TEST(ShadowKVReference, LayoutCountsEveryTokenOnce) {
  const auto layout = reference::shadowkv_layout(1027, {.sparse_tokens = 128});
  EXPECT_EQ(layout.context_chunks, 124);
  EXPECT_EQ(layout.local_tokens, 35);
  EXPECT_EQ(layout.sparse_start, 419);
  EXPECT_EQ(layout.sparse_end, 547);
  EXPECT_EQ(layout.selected_chunks, 16);
  const auto offload = reference::shadowkv_layout(2603, reference::shadowkv_offload({.sparse_tokens = 1024}));
  EXPECT_EQ(offload.context_chunks, 320);  // of 321, by eights
  EXPECT_EQ(offload.local_tokens, 43);
  EXPECT_EQ(offload.outlier_chunks, 24);
  EXPECT_EQ(reference::shadowkv_offload({.sparse_tokens = 512}).outlier_chunks, 0);
  EXPECT_EQ(reference::shadowkv_offload({.sparse_tokens = 4096}).outlier_chunks, 96);
}

TEST(ShadowKVReference, ConstantChunksHaveACosineOfOne) {
  std::mt19937 rng(1);
  Matrix keys = random_matrix(rng, 12, 8);
  for (Index t = 4; t < 8; ++t) { keys.row(t) = keys.row(4); }
  keys.bottomRows(4).setZero();
  const Vector cosines = reference::chunk_cosines(keys, 4, 3);
  EXPECT_LT(cosines(0), 0.99);
  EXPECT_NEAR(cosines(1), 1.0, 1e-12);
  EXPECT_EQ(cosines(2), 0.0);  // the product of norms is clamped
}

TEST(ShadowKVReference, ChunksAreOutliersOrHaveLandmarks) {
  const Example example(small);
  for (const auto& lane : example.state.lanes) {
    std::set<Index> chunks(lane.outliers.begin(), lane.outliers.end());
    chunks.insert(lane.candidates.begin(), lane.candidates.end());
    EXPECT_EQ(chunks.size(), 18U);
    EXPECT_EQ(lane.outliers.size(), 3U);
    EXPECT_EQ(lane.landmarks.rows(), 15);
    for (const Index j : lane.candidates) {
      for (const Index o : lane.outliers) { EXPECT_LE(lane.cosines(o), lane.cosines(j)); }
    }
  }
  EXPECT_NE(example.state.lanes[0].outliers, example.state.lanes[1].outliers);
}

TEST(ShadowKVReference, LowRankKeysLoseTheTailOfTheSpectrum) {
  const Example example(small);
  const Matrix exact = reference::join_heads(example.keys);
  double error = 0.0;
  double tail = 0.0;
  for (Index h = 0; h < 2; ++h) {
    error += (example.state.factors.reconstruct(0, h) - example.keys[static_cast<std::size_t>(h)]).squaredNorm();
  }
  for (Index i = 5; i < 16; ++i) { tail += std::pow(example.state.factors.singular_values(i), 2); }
  EXPECT_NEAR(error, tail, 1e-9);
  EXPECT_GT(tail, 1.0);
}

TEST(ShadowKVReference, AttendsEveryPartOnceAndGeneratedTokensLast) {
  Example example(small);
  for (Index step = 0; step < 3; ++step) {
    const Heads next = random_heads(example.rng, 1);
    example.state.append(next, next);
    const std::vector<Matrix> q{random_matrix(example.rng, 1, 8), random_matrix(example.rng, 1, 8)};
    const Rows selected = example.state.select(1, q);
    ASSERT_EQ(selected.size(), 5U);
    const auto read = example.state.attended(1, selected);
    ASSERT_EQ(read.positions.size(), 11 + 12 + 20 + step + 1);
    EXPECT_EQ(std::set<Index>(read.positions.begin(), read.positions.end()).size(), static_cast<std::size_t>(read.positions.size()));
    for (Index i = 0; i < 11; ++i) { EXPECT_EQ(read.positions(i), 72 + i); }
    for (Index i = 0; i <= step; ++i) { EXPECT_EQ(read.positions(43 + i), prompt_tokens + i); }
    EXPECT_EQ(read.keys.topRows(23), example.state.lanes[1].keys(Rows(read.positions.begin(), read.positions.begin() + 23), Eigen::all));
    for (Index i = 0; i < read.positions.size(); ++i) {
      EXPECT_EQ(read.values.row(i), example.state.lanes[1].values.row(read.positions(i)));
    }
    EXPECT_EQ(read.keys.bottomRows(1), example.state.lanes[1].keys.bottomRows(1));
  }
}

TEST(ShadowKVReference, FullRankAndAllChunksAreFullAttention) {
  Example example({.rank = 16, .chunk = 4, .local_chunks = 2, .outlier_chunks = 3, .sparse_tokens = 60});
  const Heads next = random_heads(example.rng, 1);
  example.state.append(next, next);
  for (Index h = 0; h < 2; ++h) {
    const auto& lane = example.state.lanes[static_cast<std::size_t>(h)];
    const Matrix q = random_matrix(example.rng, 1, 8);
    const auto full = reference::attention(q, lane.keys, lane.values, reference::consecutive(83, 1), reference::consecutive(0, 84));
    const Rows selected = example.state.select(h, std::vector<Matrix>{q});
    EXPECT_LE(deviation(example.state.attend(h, q, selected).output, full.output), 1e-12);
  }
}

TEST(ShadowKVReference, LargerBudgetsAndRepeatedHeadsKeepTheSelection) {
  Example example(small);
  const Matrix q = random_matrix(example.rng, 1, 8);
  const Matrix other = random_matrix(example.rng, 1, 8);
  Rows smaller;
  for (Index budget = 4; budget <= 60; budget += 4) {
    example.state.layout.selected_chunks = budget / 4;
    const Rows selected = example.state.select(0, std::vector<Matrix>{q, other});
    EXPECT_TRUE(std::includes(selected.begin(), selected.end(), smaller.begin(), smaller.end()));
    EXPECT_EQ(selected, example.state.select(0, std::vector<Matrix>{q, q, other, other}));
    smaller = selected;
  }
}

TEST(ShadowKVReference, ScoresAreTheLargestShareOfAHead) {
  const Matrix landmarks{{1.0, 0.0}, {0.0, 1.0}, {0.0, 0.0}};
  const std::vector<Matrix> q{Matrix{{std::log(2.0), 0.0}}, Matrix{{0.0, std::log(8.0)}}};
  const Vector scores = reference::shadowkv_scores(q, landmarks, {.scale = 1.0});
  EXPECT_NEAR(scores(0), 0.5, 1e-12);   // 2 / (2 + 1 + 1) against 1 / 10
  EXPECT_NEAR(scores(1), 0.8, 1e-12);   // 8 / (8 + 1 + 1)
  EXPECT_NEAR(scores(2), 0.25, 1e-12);  // though its logits are the smallest of both heads
}

TEST(ShadowKVReference, HitsKeepTheirOrderAndMissesFollowByChunk) {
  const auto order = reference::shadowkv_reorder({7, 2, 9, 4}, {1, 4, 7, 12});
  EXPECT_EQ(order.chunks, (Rows{7, 4, 1, 12}));
  EXPECT_EQ(order.hits, 2);
  EXPECT_EQ(reference::shadowkv_reorder({}, {5, 3}).chunks, (Rows{3, 5}));
}

TEST(ShadowKVReference, HitsEqualWhatWouldBeComputedAnew) {
  const Example example(small);
  const auto a = example.state.attended(0, {1, 6, 8});
  const auto b = example.state.attended(0, {6});
  EXPECT_EQ(a.keys.middleRows(23 + 4, 4), b.keys.middleRows(23, 4));
}

}  // namespace shadowkv_reference_test
