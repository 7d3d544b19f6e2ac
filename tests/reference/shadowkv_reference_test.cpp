// tests/reference/shadowkv_reference_test.cpp - ShadowKV's reference: invariants and official vectors.
// SPDX-License-Identifier: MIT
#include "kvcompress/reference/shadowkv.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "support/random_matrix.hpp"
#include "support/shadowkv_cases.hpp"

namespace {

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
const ShadowKVOptions small{
    .rank = 5, .chunk = 4, .local_chunks = 2, .outlier_chunks = 3, .sparse_tokens = 20};

Heads random_heads(std::mt19937& rng, Index tokens) {
  return {random_matrix(rng, tokens, 8), random_matrix(rng, tokens, 8)};
}

struct Example {
  explicit Example(const ShadowKVOptions& options)
      : keys(random_heads(rng, prompt_tokens)), values(random_heads(rng, prompt_tokens)) {
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
    error +=
        (example.state.factors.reconstruct(0, h) - example.keys[static_cast<std::size_t>(h)]).squaredNorm();
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
    EXPECT_EQ(std::set<Index>(read.positions.begin(), read.positions.end()).size(),
              static_cast<std::size_t>(read.positions.size()));
    for (Index i = 0; i < 11; ++i) { EXPECT_EQ(read.positions(i), 72 + i); }
    for (Index i = 0; i <= step; ++i) { EXPECT_EQ(read.positions(43 + i), prompt_tokens + i); }
    EXPECT_EQ(
        read.keys.topRows(23),
        example.state.lanes[1].keys(Rows(read.positions.begin(), read.positions.begin() + 23), Eigen::all));
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
    const auto full = reference::attention(q, lane.keys, lane.values, reference::consecutive(83, 1),
                                           reference::consecutive(0, 84));
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

ShadowKVOptions options_of(const conformance::ShadowKVParameters& of) {
  return {.rank = static_cast<Index>(of.rank),
          .chunk = static_cast<Index>(of.chunk),
          .local_chunks = static_cast<Index>(of.local_chunks),
          .outlier_chunks = static_cast<Index>(of.layout.outlier_chunks),
          .sparse_tokens = static_cast<Index>(of.sparse_tokens)};
}

// The official tables are in float, which moves keys of this size by 1e-3.
reference::ShadowKVState::Rotation rotation_of(const conformance::Case& one,
                                               const conformance::ShadowKVParameters& of) {
  if (of.rope.pairing != reference::Pairing::half) {
    throw conformance::NotCovered(one.path() + ": interleaved pairs");
  }
  return [base = of.rope.theta](const Matrix& rows, const reference::Positions& at) {
    return conformance::rotate_in_float(rows, at, base);
  };
}

void expect_layout(const reference::ShadowKVLayout& ours, const conformance::ShadowKVPlaces& official) {
  const auto same = [](Index a, std::size_t b) { EXPECT_EQ(a, static_cast<Index>(b)); };
  same(ours.prompt, official.prompt);
  same(ours.context_chunks, official.context_chunks);
  same(ours.local_tokens, official.local_tokens);
  same(ours.outlier_chunks, official.outlier_chunks);
  same(ours.selected_chunks, official.selected_chunks);
  same(ours.sparse_start, official.sparse_start);
  same(ours.sparse_end, official.sparse_end);
}

Heads rows_of(const Heads& heads, Index first, Index count) {
  Heads out;
  for (const Matrix& head : heads) { out.push_back(head.middleRows(first, count)); }
  return out;
}

// The parts of fast memory that do not depend on a query, of one head.
double fixed_deviation(const Matrix& actual, const Matrix& expected, const reference::ShadowKVState& state) {
  const Index local = state.layout.local_tokens;
  const Index outliers = state.layout.sparse_start - local;
  return std::max(
      deviation(actual.topRows(local), expected.topRows(local)),
      conformance::unordered_deviation(actual.middleRows(local, outliers),
                                       expected.middleRows(local, outliers), state.options.chunk));
}

void compare_prompt(const conformance::Case& one, const conformance::ShadowKVDecodeCase& given,
                    const reference::ShadowKVState& state) {
  double low_rank = 0.0;
  double landmarks = 0.0;
  double cosines = 0.0;
  for (std::size_t h = 0; h < state.lanes.size(); ++h) {
    const auto& lane = state.lanes[h];
    const auto head = static_cast<Index>(h);
    if (!given.cosines.shape.empty()) {
      cosines = std::max(cosines,
                         deviation(lane.cosines.transpose(), conformance::matrix(given.cosines).row(head)));
    }
    EXPECT_TRUE(
        conformance::same_but_near_ties(lane.outliers, given.outliers.at(h), lane.cosines, 3e-5, false))
        << "head " << h;
    if (given.candidates.at(h) == lane.candidates) {
      landmarks = std::max(landmarks, deviation(lane.landmarks, conformance::heads(given.landmarks)[h]));
    } else {
      EXPECT_NE(lane.outliers, given.outliers[h]) << "head " << h;
    }
    const Matrix expected = conformance::heads(given.low_rank_keys)[h];
    low_rank = std::max(
        low_rank, deviation(state.factors.reconstruct(0, head), expected) / conformance::largest(expected));
  }
  const auto official = given.singular_values.values;
  double singular = 0.0;
  for (std::size_t i = 0; i < official.size(); ++i) {
    singular =
        std::max(singular, std::abs(official[i] - state.factors.singular_values(static_cast<Index>(i))));
  }
  conformance::expect_within(one, "low-rank keys (relative)", low_rank, 1e-4);
  if (!official.empty()) {
    conformance::expect_within(one, "singular values (relative)", singular / official.front(), 1e-5);
  }
  conformance::expect_within(one, "smallest cosines", cosines, 3e-5);
  conformance::expect_within(one, "landmarks", landmarks, 2e-4);
}

void compare_attended(const conformance::Case& one, const conformance::ShadowKVDecodeCase::Attended& given,
                      const reference::ShadowKVState& state) {
  double keys = 0.0;
  double values = 0.0;
  const Heads official_keys = conformance::heads(given.keys);
  const Heads official_values = conformance::heads(given.values);
  const Matrix positions = conformance::matrix(given.selected_positions);
  for (std::size_t h = 0; h < state.lanes.size(); ++h) {
    const auto head = static_cast<Index>(h);
    Rows in_order;  // chunks as the official code laid them down
    for (Index i = 0; i < positions.cols(); i += state.options.chunk) {
      in_order.push_back(static_cast<Index>(positions(head, i)) / state.options.chunk);
    }
    const auto read = state.attended(head, in_order);
    ASSERT_EQ(read.keys.rows(), official_keys[h].rows());
    const Index rest = read.keys.rows() - state.layout.sparse_start;
    for (Index i = 0; i < positions.cols(); ++i) {
      EXPECT_EQ(read.positions(state.layout.sparse_start + i), static_cast<std::int64_t>(positions(head, i)));
    }
    keys = std::max({keys, fixed_deviation(read.keys, official_keys[h], state),
                     deviation(read.keys.bottomRows(rest), official_keys[h].bottomRows(rest))});
    values = std::max({values, fixed_deviation(read.values, official_values[h], state),
                       deviation(read.values.bottomRows(rest), official_values[h].bottomRows(rest))});
  }
  const std::string step = " at step " + std::to_string(given.step);
  conformance::expect_within(one, "attended keys" + step, keys,
                             1e-4 * conformance::largest(official_keys[0]));
  conformance::expect_within(one, "attended values" + step, values, 0.0);
}

void decode(const conformance::Case& one) {
  const auto given = conformance::shadowkv_decode_case(one);
  const Heads q = conformance::heads(given.queries);
  const Heads k = conformance::heads(given.keys);
  const Heads v = conformance::heads(given.values);
  const std::size_t group = q.size() / k.size();
  const auto prompt = static_cast<Index>(given.of.layout.prompt);
  reference::ShadowKVState state{.options = options_of(given.of), .rotation = rotation_of(one, given.of)};
  state.prompt(rows_of(k, 0, prompt), rows_of(v, 0, prompt));
  expect_layout(state.layout, given.of.layout);
  compare_prompt(one, given, state);

  const double margin = one.params.value("topk_margin", 8e-5);  // relative: the smallest one of the vectors
  const Heads outputs = conformance::heads(given.outputs);      // one matrix (heads, dim) per step
  const Heads full_outputs =
      given.full_outputs.shape.empty() ? Heads{} : conformance::heads(given.full_outputs);
  double worst = 0.0;
  double worst_full = 0.0;
  for (std::size_t step = 0; step < given.steps; ++step) {
    const Index token = prompt + static_cast<Index>(step);
    state.append(rows_of(k, token, 1), rows_of(v, token, 1));
    for (std::size_t h = 0; h < k.size(); ++h) {
      const auto head = static_cast<Index>(h);
      const Heads queries = rows_of(Heads(q.begin() + static_cast<std::ptrdiff_t>(h * group),
                                          q.begin() + static_cast<std::ptrdiff_t>((h + 1) * group)),
                                    token, 1);
      const auto& lane = state.lanes[h];
      const Vector of_landmarks = reference::shadowkv_scores(queries, lane.landmarks);
      Vector scores = Vector::Zero(state.layout.context_chunks);  // by chunk
      for (std::size_t i = 0; i < lane.candidates.size(); ++i) {
        scores(lane.candidates[i]) = of_landmarks(static_cast<Index>(i));
      }
      const Rows ours = state.select(head, queries);
      const Rows& official = given.selected[step].at(h);
      const double cut =
          ours.empty() ? 0.0 : scores(*std::min_element(ours.begin(), ours.end(), [&](Index a, Index b) {
            return scores(a) < scores(b);
          }));
      EXPECT_TRUE(conformance::same_but_near_ties(ours, official, scores, margin * cut, true))
          << "step " << step << " head " << h;
      for (std::size_t g = 0; g < group; ++g) {
        const auto row = static_cast<Index>(h * group + g);
        worst = std::max(worst,
                         deviation(state.attend(head, queries[g], official).output, outputs[step].row(row)));
        if (full_outputs.empty() || step % 4 != 0) { continue; }
        const auto full =
            reference::attention(queries[g], lane.keys, lane.values, reference::consecutive(token, 1),
                                 reference::consecutive(0, token + 1));
        worst_full = std::max(worst_full, deviation(full.output, full_outputs[step].row(row)));
      }
    }
    for (const auto& attended : given.attended) {
      if (attended.step == step) { compare_attended(one, attended, state); }
    }
  }
  conformance::expect_within(one, "out", worst, 5e-5);
  if (!full_outputs.empty()) { conformance::expect_within(one, "out of full attention", worst_full, 5e-5); }
}

// Nothing where the case does not say what the last prompt query is.
Rows selected_by_last_query(const conformance::ShadowKVPrefillCase& given,
                            const reference::ShadowKVState& state, std::size_t head) {
  if (given.last_queries.shape.empty()) { return {}; }
  const std::size_t heads = given.last_queries.shape.front();
  const std::size_t size = given.last_queries.values.size() / heads;
  const std::size_t group = heads / state.lanes.size();
  Heads queries;
  for (std::size_t h = head * group; h < (head + 1) * group; ++h) {
    Matrix& query = queries.emplace_back(1, state.lanes[head].keys.cols());
    const std::size_t first = (h + 1) * size - static_cast<std::size_t>(query.cols());  // of the last token
    for (Index c = 0; c < query.cols(); ++c) {
      query(0, c) = given.last_queries.values[first + static_cast<std::size_t>(c)];
    }
  }
  return state.select(static_cast<Index>(head), queries);
}

// The offload class: exact keys of the chunks that the last prompt query selects.
void prefill(const conformance::Case& one) {
  const auto given = conformance::shadowkv_prefill_case(one);
  ShadowKVOptions options = reference::shadowkv_offload(options_of(given.of));
  options.rank = 1;  // buffers after the prompt hold exact keys only
  reference::ShadowKVState state{.options = options, .rotation = rotation_of(one, given.of)};
  state.prompt(conformance::heads(given.keys), conformance::heads(given.values));
  expect_layout(state.layout, given.of.layout);
  const Heads key_buffer = conformance::heads(given.key_buffer);
  const Heads value_buffer = conformance::heads(given.value_buffer);
  double keys = 0.0;
  double values = 0.0;
  for (std::size_t h = 0; h < state.lanes.size(); ++h) {
    auto& lane = state.lanes[h];
    const auto head = static_cast<Index>(h);
    if (!given.outliers.empty()) {
      EXPECT_TRUE(
          conformance::same_but_near_ties(lane.outliers, given.outliers.at(h), lane.cosines, 3e-5, false))
          << "head " << h;
    }
    const auto read = state.attended(head, {});
    keys = std::max(keys, fixed_deviation(read.keys, key_buffer[h], state));
    values = std::max(values, fixed_deviation(read.values, value_buffer[h], state));
    const Rows ours = selected_by_last_query(given, state, h);
    const Rows& selected = given.selected.empty() ? ours : given.selected.at(h);
    if (!given.selected.empty() && !ours.empty()) { EXPECT_EQ(ours, selected) << "head " << h; }
    if (selected.empty()) { continue; }
    Rows tokens;
    for (const Index j : selected) {
      for (Index t = j * options.chunk; t < (j + 1) * options.chunk; ++t) { tokens.push_back(t); }
    }
    const Index start = state.layout.sparse_start;
    const auto count = static_cast<Index>(tokens.size());
    keys = std::max(keys,
                    conformance::unordered_deviation(lane.keys(tokens, Eigen::all),
                                                     key_buffer[h].middleRows(start, count), options.chunk));
    values = std::max(
        values, conformance::unordered_deviation(lane.values(tokens, Eigen::all),
                                                 value_buffer[h].middleRows(start, count), options.chunk));
  }
  conformance::expect_within(one, "keys in fast memory", keys, 1e-4 * conformance::largest(key_buffer[0]));
  conformance::expect_within(one, "values in fast memory", values, 0.0);
}

TEST(ShadowKVReference, OfficialVectors) {
  conformance::run_cases("shadowkv", {{"decode", decode}, {"prefill_offload_class", prefill}});
}

}  // namespace
