// tests/conformance/streaming_llm_test.cpp - StreamingLLM through KVCache against the official implementation, and the reference.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <random>

#include "kvcompress/policies/full.hpp"
#include "kvcompress/policies/streaming_llm.hpp"
#include "kvcompress/reference/streaming_llm.hpp"
#include "support/kept_sets.hpp"
#include "support/sequence.hpp"

namespace streaming_llm_test {

using kvcompress::KeyForm;
using kvcompress::Position;
using kvcompress::test::HeadArray;
using Policy = kvcompress::Combine<kvcompress::StreamingLLM, kvcompress::Full<float>>;
namespace conformance = kvcompress::conformance;
namespace reference = kvcompress::reference;

kvcompress::Rope rope_of(const conformance::Case& one) {
  return {.theta = one.rope().theta,
          .pairing =
              one.rope().pairing == reference::Pairing::half ? kvcompress::RopePairing::half_split : kvcompress::RopePairing::interleaved};
}

void decode(const conformance::Case& one) {
  const HeadArray q(one.array("q_prerope"));
  const HeadArray k(one.array("k_prerope"));
  const HeadArray v(one.array("v"));
  const auto kept = conformance::matrix(one.array("kept_idx"));
  kvcompress::test::Sequence<Policy> run(kvcompress::test::shape_of(q, k, v, KeyForm::unrotated, rope_of(one)),
                                         {.eviction = {.sinks = one.get<std::size_t>("sinks"),
                                                       .window = one.get<std::size_t>("recent"),
                                                       .in_cache_positions = one.get<bool>("in_cache_positions")}},
                                         q, k, v);
  const auto steps = one.get<std::size_t>("steps");
  ASSERT_EQ(static_cast<std::size_t>(kept.rows()), steps + 1);
  for (std::size_t step = 0; step <= steps; ++step) {
    run.step(step == 0 ? one.get<std::size_t>("prompt") : 1);
    step == 0 ? run.cache.end_prompt(0) : run.cache.commit(0);
    for (std::size_t head = 0; head < k.heads; ++head) {
      ASSERT_EQ(conformance::members(run.cache.kept(0, head)), conformance::kept_row(kept, static_cast<reference::Index>(step)))
          << "step " << step;
    }
  }
  conformance::expect_within(one, "out", kvcompress::test::deviation(run.out, HeadArray(one.array("out"))), 2e-5);  // double tables
}

/// Nothing evicted: attention over the whole text at true positions.
void full_reference(const conformance::Case& one) {
  const HeadArray q(one.array("q_prerope"));
  const HeadArray k(one.array("k_prerope"));
  const HeadArray v(one.array("v"));
  kvcompress::test::Sequence<kvcompress::Full<float>> run(kvcompress::test::shape_of(q, k, v, KeyForm::unrotated, rope_of(one)), {}, q, k,
                                                          v);
  run.step(q.tokens);
  conformance::expect_within(one, "out", kvcompress::test::deviation(run.out, HeadArray(one.array("out"))), 2e-5);
}

/// Rows rotated at their places in the text, turned to the places 0, 1, 2, ... of the compacted cache.
void rerotate(const conformance::Case& one) {
  HeadArray k(one.any({"k_in", "keys_in", "k_postrope", "keys", "k", "k_prerope"}));
  const HeadArray out(one.any({"k_rerotated", "k_out", "keys_out", "out"}));
  const kvcompress::npy::Array index = one.any({"kept_idx", "idx", "indices", "idx_sorted"});
  const bool rotated = one.has("k_in") || one.has("keys_in") || one.has("k_postrope") || one.has("keys") || one.has("k");
  kvcompress::Rotation rotation(kvcompress::Shape{.head_dim = k.dim, .rope = rope_of(one)}, {});
  double worst = 0.0;
  for (std::size_t head = 0; head < k.heads; ++head) {
    const std::size_t count = index.shape.back();
    const std::size_t from = index.shape.size() == 1 ? 0 : head * count;
    ASSERT_LE(from + count, index.values.size());
    std::vector<std::size_t> rows;
    for (std::size_t i = from; i < from + count; ++i) { rows.push_back(static_cast<std::size_t>(index.values[i])); }
    std::sort(rows.begin(), rows.end());
    for (std::size_t slot = 0; slot < count; ++slot) {
      std::vector<float> row(k.dim);
      k.rows(rows[slot], 1).load(0, head, row.data());
      if (!rotated) {
        rotation.turn_by(static_cast<std::int64_t>(rows[slot]));
        rotation.apply(row.data());
      }
      rotation.turn_by(static_cast<std::int64_t>(slot) - static_cast<std::int64_t>(rows[slot]));
      rotation.apply(row.data());
      for (std::size_t c = 0; c < k.dim; ++c) {
        worst = std::max(worst, std::abs(static_cast<double>(row[c]) - static_cast<double>(out.at(head, slot, c))));
      }
    }
  }
  conformance::expect_within(one, "rerotated keys", worst, 5e-5);
}

const conformance::Method method("streamingllm", {{"decode", decode}, {"full_reference", full_reference}, {"rerotate", rerotate}});
TEST(StreamingLLM, ReproducesTheOfficialVectors) { method.run(); }

/// The official evictions, a case that is one file: after appending ("call"), before `arg` coming tokens ("space"), and of the slots [a, b)
/// ("range").
void evictions(const nlohmann::json& calls) {
  for (const nlohmann::json& one : calls) {
    const std::string op = one.at("op").get<std::string>();
    const auto rows = one.at("seq").get<std::size_t>();
    const std::size_t coming = op == "space" ? one.at("arg").get<std::size_t>() : 0;
    const HeadArray x(1, rows + coming, 8);
    const bool trims = op != "range";
    kvcompress::test::Sequence<Policy> run(
        kvcompress::test::shape_of(x, x, x),
        {.eviction = {.sinks = one.at("start").get<std::size_t>(), .window = trims ? one.at("recent").get<std::size_t>() : rows + 1}}, x, x,
        x);
    run.step(rows);
    run.cache.end_prompt(0);
    if (coming > 0) {
      run.step(coming);
      run.cache.commit(0);
    }
    if (op == "range") { run.cache.remove(one.at("arg").at(0).get<Position>(), one.at("arg").at(1).get<Position>()); }
    std::vector<Position> kept = run.cache.kept(0, 0);
    std::erase_if(kept, [&](Position p) { return p >= rows; });
    EXPECT_EQ(kept, one.at("kept").get<std::vector<Position>>()) << one.dump();
  }
}

TEST(StreamingLLM, ReproducesTheOfficialEvictions) {
  std::ifstream file(conformance::directory() / "streamingllm" / "evict_cases.json");
  if (!file) { GTEST_SKIP() << "there is no streamingllm/evict_cases.json among the official vectors"; }
  try {
    evictions(nlohmann::json::parse(file));
  } catch (const std::exception& error) { ADD_FAILURE() << "evict_cases.json: " << error.what(); }
  conformance::Tally::get().count("streamingllm", conformance::failures() > 0 ? conformance::Verdict::wrong : conformance::Verdict::right);
}

// For users without the official vectors: the same path against the shipped reference, on numbers made here.
TEST(StreamingLLM, FollowsTheReferenceStepByStep) {
  std::mt19937 rng(7);
  std::normal_distribution<float> normal;
  HeadArray q(1, 80, 16);
  HeadArray k(1, 80, 16);
  HeadArray v(1, 80, 16);
  for (HeadArray* array : {&q, &k, &v}) {
    for (float& x : array->data) { x = normal(rng); }
  }
  const auto matrix = [](const HeadArray& a) {
    const auto size = [](std::size_t n) { return static_cast<reference::Index>(n); };
    return reference::HeadsView<float>{a.data.data(), size(a.tokens), 1, size(a.dim), size(a.dim), size(a.tokens * a.dim)}.head(0);
  };
  kvcompress::test::Sequence<Policy> run(kvcompress::test::shape_of(q, k, v, KeyForm::unrotated), {.eviction = {.sinks = 3, .window = 13}},
                                         q, k, v);
  reference::StreamingLLMState state{.options = {.sinks = 3, .recent = 13}};
  for (const std::size_t count :
       {10U, 20U, 1U, 1U, 5U, 1U, 30U, 1U, 1U}) {  // the first is the prompt; later ones are steps of several tokens
    const auto first = static_cast<reference::Index>(run.done);
    const auto tokens = static_cast<reference::Index>(count);
    run.step(count);
    first == 0 ? run.cache.end_prompt(0) : run.cache.commit(0);
    state.append(matrix(k).middleRows(first, tokens), matrix(v).middleRows(first, tokens));
    const auto expected = state.attend(matrix(q).middleRows(first, tokens)).output;
    for (reference::Index t = 0; t < tokens; ++t) {
      for (reference::Index c = 0; c < 16; ++c) {
        ASSERT_NEAR(run.out.at(0, static_cast<std::size_t>(first + t), static_cast<std::size_t>(c)), expected(t, c), 2e-5)
            << "token " << first + t;
      }
    }
    state.commit();
    const auto kept = run.cache.kept(0, 0);
    ASSERT_EQ(std::vector<std::int64_t>(kept.begin(), kept.end()),
              std::vector<std::int64_t>(state.positions.begin(), state.positions.end()));
  }
}

}  // namespace streaming_llm_test
