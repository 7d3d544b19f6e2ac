// tests/reference/streaming_llm_reference_test.cpp - StreamingLLM's reference: invariants and official vectors.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "kvcompress/reference/streaming_llm.hpp"
#include "support/cases.hpp"
#include "support/random_matrix.hpp"

namespace streaming_llm_reference_test {

using namespace kvcompress;
using reference::Index;
using reference::Matrix;
using test::random_matrix;

TEST(StreamingLLMReference, TrimKeepsSinksAndNewest) {
  const reference::StreamingLLMOptions options{.sinks = 2, .recent = 3};
  EXPECT_EQ(reference::trim(5, options), (reference::Rows{0, 1, 2, 3, 4}));
  EXPECT_EQ(reference::trim(9, options), (reference::Rows{0, 1, 6, 7, 8}));
  EXPECT_EQ(reference::trim(9, {.sinks = 0, .recent = 2}), (reference::Rows{7, 8}));
}

TEST(StreamingLLMReference, RoomIsExactlyWhatWasAskedFor) {
  const reference::StreamingLLMOptions options{.sinks = 2, .recent = 5};
  for (Index rows = 0; rows < 20; ++rows) {
    for (Index incoming = 0; incoming < 9; ++incoming) {
      const auto kept = static_cast<Index>(reference::make_room(rows, incoming, options).size());
      const Index expected = rows + incoming <= 7 ? rows : std::max(std::min(rows, Index{2}), 7 - incoming);
      EXPECT_EQ(kept, expected) << rows << " rows, " << incoming << " incoming";
    }
  }
}

TEST(StreamingLLMReference, EqualsFullAttentionWithinTheBudget) {
  std::mt19937 rng(1);
  const Matrix q = random_matrix(rng, 12, 8);
  const Matrix k = random_matrix(rng, 12, 8);
  const Matrix v = random_matrix(rng, 12, 4);
  reference::StreamingLLMState state{.options = {.sinks = 2, .recent = 10}};
  Matrix out;
  for (const auto& [first, count] : {std::pair<Index, Index>{0, 7}, {7, 1}, {8, 4}}) {
    state.append(k.middleRows(first, count), v.middleRows(first, count));
    out = reference::append_rows(out, state.attend(q.middleRows(first, count)).output);
    state.commit();
  }
  const auto at = reference::consecutive(0, 12);
  const auto full = reference::attention(reference::rotate(q, at), reference::rotate(k, at), v, at, at);
  EXPECT_LE(conformance::deviation(out, full.output), 1e-13);
}

TEST(StreamingLLMReference, OutputDependsOnTheKeptTokensOnly) {
  std::mt19937 rng(2);
  const Matrix k = random_matrix(rng, 30, 8);
  const Matrix v = random_matrix(rng, 30, 4);
  const Matrix q = random_matrix(rng, 1, 8);
  reference::StreamingLLMState state{.options = {.sinks = 2, .recent = 5}};
  for (Index t = 0; t < 30; ++t) {
    state.append(k.row(t), v.row(t));
    state.commit();
    ASSERT_EQ(state.keys.rows(), std::min(t + 1, Index{7}));
  }
  EXPECT_EQ(state.positions, (reference::Positions{{0, 1, 25, 26, 27, 28, 29}}));
  reference::StreamingLLMState fresh{.options = state.options};
  fresh.append(state.keys, state.values);
  EXPECT_EQ(state.attend(q).output, fresh.attend(q).output);
}

void decode(const conformance::Case& one) {
  if (!one.get<bool>("in_cache_positions")) { throw conformance::NotCovered(one.path() + ": original positions"); }
  const auto q = conformance::heads(one.array("q_prerope"));
  const auto k = conformance::heads(one.array("k_prerope"));
  const auto v = conformance::heads(one.array("v"));
  const auto out = conformance::heads(one.array("out"));
  const Matrix kept = conformance::matrix(one.array("kept_idx"));
  const reference::StreamingLLMOptions options{.sinks = one.get<Index>("sinks"), .recent = one.get<Index>("recent")};
  const Index prompt = one.get<Index>("prompt");
  const Index steps = one.get<Index>("steps");
  ASSERT_EQ(kept.rows(), steps + 1);
  double worst = 0.0;
  for (std::size_t h = 0; h < q.size(); ++h) {
    const std::size_t kv = h * k.size() / q.size();
    reference::StreamingLLMState state{.options = options, .rope = one.rope()};
    for (Index step = 0; step <= steps; ++step) {
      const Index first = step == 0 ? 0 : prompt + step - 1;
      const Index count = step == 0 ? prompt : 1;
      state.append(k[kv].middleRows(first, count), v[kv].middleRows(first, count));
      const Matrix actual = state.attend(q[h].middleRows(first, count)).output;
      worst = std::max(worst, conformance::deviation(actual, out[h].middleRows(first, count)));
      state.commit();
      ASSERT_LE(state.positions.size(), kept.cols());
      const auto expected = kept.row(step).head(state.positions.size()).transpose();
      ASSERT_EQ(Matrix(state.positions.cast<double>()), Matrix(expected)) << "step " << step;
    }
  }
  conformance::expect_within(one, "out", worst, 2e-5);  // the reference has double tables
}

// Nothing evicted: attention over the whole text at true positions.
void full_reference(const conformance::Case& one) {
  const auto q = conformance::heads(one.array("q_prerope"));
  const auto k = conformance::heads(one.array("k_prerope"));
  const auto v = conformance::heads(one.array("v"));
  const auto out = conformance::heads(one.array("out"));
  double worst = 0.0;
  for (std::size_t h = 0; h < q.size(); ++h) {
    const std::size_t kv = h * k.size() / q.size();
    reference::StreamingLLMState state{.rope = one.rope()};
    state.append(k[kv], v[kv]);
    worst = std::max(worst, conformance::deviation(state.attend(q[h]).output, out[h]));
  }
  conformance::expect_within(one, "out", worst, 2e-5);
}

// Rows rotated at their places in the text move to the places 0, 1, 2, ... of the compacted cache.
void rerotate(const conformance::Case& one) {
  const std::vector<std::string> names{"k_in", "keys_in", "k_postrope", "keys", "k"};
  const bool rotated = std::any_of(names.begin(), names.end(), [&](const auto& name) { return one.has(name); });
  auto in = conformance::heads(rotated ? one.any(names) : one.array("k_prerope"));
  if (!rotated) {
    for (Matrix& keys : in) { keys = reference::rotate(keys, reference::consecutive(0, keys.rows()), one.rope()); }
  }
  const auto out = conformance::heads(one.any({"k_rerotated", "k_out", "keys_out", "out"}));
  const npy::Array index = one.any({"kept_idx", "idx", "indices", "idx_sorted"});
  double worst = 0.0;
  for (std::size_t h = 0; h < in.size(); ++h) {
    const std::size_t count = index.shape.back();
    const std::size_t from = index.shape.size() == 1 ? 0 : h * count;
    ASSERT_LE(from + count, index.values.size());
    reference::Rows rows;
    for (std::size_t i = from; i < from + count; ++i) { rows.push_back(static_cast<Index>(index.values[i])); }
    std::sort(rows.begin(), rows.end());
    const reference::Positions original = Eigen::Map<const reference::Positions>(rows.data(), static_cast<Index>(count));
    const auto compacted = reference::consecutive(0, original.size());
    const Matrix actual = reference::rerotate(Matrix(in[h](rows, Eigen::all)), original, compacted, one.rope());
    worst = std::max(worst, conformance::deviation(actual, out[h]));
  }
  conformance::expect_within(one, "rerotated keys", worst, 5e-5);
}

TEST(StreamingLLMReference, OfficialVectors) {
  conformance::run_cases("streamingllm", {{"decode", decode}, {"full_reference", full_reference}, {"rerotate", rerotate}});
}

TEST(StreamingLLMReference, OfficialEvictions) {
  std::ifstream file(conformance::directory() / "streamingllm" / "evict_cases.json");
  if (!file) { GTEST_SKIP() << "there is no streamingllm/evict_cases.json among the official vectors"; }
  for (const nlohmann::json& one : nlohmann::json::parse(file)) {
    const reference::StreamingLLMOptions options{.sinks = one.at("start").get<Index>(), .recent = one.at("recent").get<Index>()};
    const Index rows = one.at("seq").get<Index>();
    const std::string op = one.at("op").get<std::string>();
    const nlohmann::json& arg = one.at("arg");
    reference::Rows kept;
    if (op == "call") { kept = reference::trim(rows, options); }
    if (op == "space") { kept = reference::make_room(rows, arg.get<Index>(), options); }
    if (op == "range") { kept = reference::drop_range(rows, arg.at(0).get<Index>(), arg.at(1).get<Index>()); }
    EXPECT_EQ(kept, one.at("kept").get<reference::Rows>()) << one.dump();
  }
}

}  // namespace streaming_llm_reference_test
