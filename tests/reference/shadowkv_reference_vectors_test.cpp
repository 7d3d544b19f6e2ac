// tests/reference/shadowkv_reference_vectors_test.cpp - ShadowKV's reference against the official vectors.
// SPDX-License-Identifier: MIT
#include "kvcompress/reference/shadowkv.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "support/shadowkv_prefill_case.hpp"

namespace shadowkv_reference_vectors_test {

using namespace kvcompress;
using conformance::deviation;
using reference::Heads;
using reference::Index;
using reference::Matrix;
using reference::Rows;
using reference::ShadowKVOptions;
using reference::Vector;

ShadowKVOptions options_of(const conformance::ShadowKVParameters& of) {
  return {.rank = static_cast<Index>(of.rank),
          .chunk = static_cast<Index>(of.chunk),
          .local_chunks = static_cast<Index>(of.local_chunks),
          .outlier_chunks = static_cast<Index>(of.layout.outlier_chunks),
          .sparse_tokens = static_cast<Index>(of.sparse_tokens)};
}

// The official tables are in float, which moves keys of this size by 1e-3.
reference::ShadowKVState::Rotation rotation_of(const conformance::Case& one, const conformance::ShadowKVParameters& of) {
  if (of.rope.pairing != reference::Pairing::half) { throw conformance::NotCovered(one.path() + ": interleaved pairs"); }
  return
      [base = of.rope.theta](const Matrix& rows, const reference::Positions& at) { return conformance::rotate_in_float(rows, at, base); };
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

// The official code divides by the root of 128 whatever the head size, the reference by the root of the head size.
double to_official_scale(Index dim) { return std::sqrt(static_cast<double>(dim) / 128.0); }

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
      conformance::unordered_deviation(actual.middleRows(local, outliers), expected.middleRows(local, outliers), state.options.chunk));
}

void compare_prompt(const conformance::Case& one, const conformance::ShadowKVDecodeCase& given, const reference::ShadowKVState& state) {
  double low_rank = 0.0;
  double landmarks = 0.0;
  double cosines = 0.0;
  for (std::size_t h = 0; h < state.lanes.size(); ++h) {
    const auto& lane = state.lanes[h];
    const auto head = static_cast<Index>(h);
    if (!given.cosines.shape.empty()) {
      cosines = std::max(cosines, deviation(lane.cosines.transpose(), conformance::matrix(given.cosines).row(head)));
    }
    EXPECT_TRUE(conformance::same_but_near_ties(lane.outliers, given.outliers.at(h), lane.cosines, 3e-5, false)) << "head " << h;
    if (given.candidates.at(h) == lane.candidates) {
      landmarks = std::max(landmarks, deviation(lane.landmarks, conformance::heads(given.landmarks)[h]));
    } else {
      EXPECT_NE(lane.outliers, given.outliers[h]) << "head " << h;
    }
    const Matrix expected = conformance::heads(given.low_rank_keys)[h];
    low_rank = std::max(low_rank, deviation(state.factors.reconstruct(0, head), expected) / conformance::largest(expected));
  }
  const auto official = given.singular_values.values;
  double singular = 0.0;
  for (std::size_t i = 0; i < official.size(); ++i) {
    singular = std::max(singular, std::abs(official[i] - state.factors.singular_values(static_cast<Index>(i))));
  }
  conformance::expect_within(one, "low-rank keys (relative)", low_rank, 1e-4);
  if (!official.empty()) { conformance::expect_within(one, "singular values (relative)", singular / official.front(), 1e-5); }
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
  conformance::expect_within(one, "attended keys" + step, keys, 1e-4 * conformance::largest(official_keys[0]));
  conformance::expect_within(one, "attended values" + step, values, 0.0);
}

void decode(const conformance::Case& one) {
  const auto given = conformance::shadowkv_decode_case(one);
  Heads q = conformance::heads(given.queries);
  for (Matrix& head : q) { head *= to_official_scale(head.cols()); }
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
  const Heads full_outputs = given.full_outputs.shape.empty() ? Heads{} : conformance::heads(given.full_outputs);
  double worst = 0.0;
  double worst_full = 0.0;
  for (std::size_t step = 0; step < given.steps; ++step) {
    const Index token = prompt + static_cast<Index>(step);
    state.append(rows_of(k, token, 1), rows_of(v, token, 1));
    for (std::size_t h = 0; h < k.size(); ++h) {
      const auto head = static_cast<Index>(h);
      const Heads queries = rows_of(
          Heads(q.begin() + static_cast<std::ptrdiff_t>(h * group), q.begin() + static_cast<std::ptrdiff_t>((h + 1) * group)), token, 1);
      const auto& lane = state.lanes[h];
      const Vector of_landmarks = reference::shadowkv_scores(queries, lane.landmarks);
      Vector scores = Vector::Zero(state.layout.context_chunks);  // by chunk
      for (std::size_t i = 0; i < lane.candidates.size(); ++i) { scores(lane.candidates[i]) = of_landmarks(static_cast<Index>(i)); }
      const Rows ours = state.select(head, queries);
      const Rows& official = given.selected[step].at(h);
      const double cut =
          ours.empty() ? 0.0 : scores(*std::min_element(ours.begin(), ours.end(), [&](Index a, Index b) { return scores(a) < scores(b); }));
      EXPECT_TRUE(conformance::same_but_near_ties(ours, official, scores, margin * cut, true)) << "step " << step << " head " << h;
      for (std::size_t g = 0; g < group; ++g) {
        const auto row = static_cast<Index>(h * group + g);
        worst = std::max(worst, deviation(state.attend(head, queries[g], official).output, outputs[step].row(row)));
        if (full_outputs.empty() || step % 4 != 0) { continue; }
        const auto full = reference::attention(queries[g], lane.keys, lane.values, reference::consecutive(token, 1),
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
Rows selected_by_last_query(const conformance::ShadowKVPrefillCase& given, const reference::ShadowKVState& state, std::size_t head) {
  if (given.last_queries.shape.empty()) { return {}; }
  const std::size_t heads = given.last_queries.shape.front();
  const std::size_t size = given.last_queries.values.size() / heads;
  const std::size_t group = heads / state.lanes.size();
  Heads queries;
  for (std::size_t h = head * group; h < (head + 1) * group; ++h) {
    Matrix& query = queries.emplace_back(1, state.lanes[head].keys.cols());
    const std::size_t first = (h + 1) * size - static_cast<std::size_t>(query.cols());  // of the last token
    for (Index c = 0; c < query.cols(); ++c) { query(0, c) = given.last_queries.values[first + static_cast<std::size_t>(c)]; }
    query *= to_official_scale(query.cols());
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
  if (given.last_queries.shape.empty()) { throw conformance::NotCovered(one.path() + " has no last query of the prompt"); }
  double keys = 0.0;
  double values = 0.0;
  for (std::size_t h = 0; h < state.lanes.size(); ++h) {
    auto& lane = state.lanes[h];
    if (!given.outliers.empty()) {
      EXPECT_TRUE(conformance::same_but_near_ties(lane.outliers, given.outliers.at(h), lane.cosines, 3e-5, false)) << "head " << h;
    }
    const Rows ours = selected_by_last_query(given, state, h);
    if (!given.selected.empty()) { EXPECT_EQ(ours, given.selected.at(h)) << "head " << h; }
    conformance::Members rows;
    for (Index t = state.layout.prompt - state.layout.local_tokens; t < state.layout.prompt; ++t) { rows.push_back(t); }
    for (const Rows& chunks : {lane.outliers, ours}) {
      for (const Index j : chunks) {
        for (Index t = j * options.chunk; t < (j + 1) * options.chunk; ++t) { rows.push_back(t); }
      }
    }
    const auto row_of = [](const Matrix& all) { return [&](std::int64_t position) { return Matrix(all.row(position).transpose()); }; };
    const std::string what = "head " + std::to_string(h);
    keys = std::max(keys, conformance::expect_fast_rows(given.fast_keys.at(h), rows, what + " keys", row_of(lane.keys)) /
                              conformance::largest(lane.keys));
    values = std::max(values, conformance::expect_fast_rows(given.fast_values.at(h), rows, what + " values", row_of(lane.values)));
  }
  conformance::expect_within(one, "keys in fast memory (relative)", keys, 1e-4);
  conformance::expect_within(one, "values in fast memory", values, 0.0);
}

TEST(ShadowKVReference, OfficialVectors) { conformance::run_cases("shadowkv", {{"decode", decode}, {"prefill_offload_class", prefill}}); }

}  // namespace shadowkv_reference_vectors_test
