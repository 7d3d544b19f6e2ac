// tests/conformance/h2o_test.cpp - H2O through KVCache against the official implementations, and against the reference.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "kvcompress/policies/full.hpp"
#include "kvcompress/policies/h2o.hpp"
#include "kvcompress/reference/h2o.hpp"
#include "support/kept_sets.hpp"
#include "support/sequence.hpp"

namespace h2o_test {

using kvcompress::KeyForm;
using kvcompress::Position;
using kvcompress::Reduction;
using kvcompress::test::HeadArray;
using Policy = kvcompress::Combine<kvcompress::H2O, kvcompress::Full<float>>;
using Sequence = kvcompress::test::Sequence<Policy>;
namespace conformance = kvcompress::conformance;
namespace reference = kvcompress::reference;

kvcompress::Rope rope_of(const conformance::Case& one) {
  return {.theta = one.rope().theta,
          .pairing =
              one.rope().pairing == reference::Pairing::half ? kvcompress::RopePairing::half_split : kvcompress::RopePairing::interleaved};
}

/// Scores of a lane in ascending position, reduced over heads as the selection sees them.
std::vector<double> scores_of(const kvcompress::KVCache<Policy>& cache, std::size_t head) {
  std::vector<std::pair<Position, double>> pairs;
  const auto& table = cache.table(0, head);
  for (std::size_t row = 0; row < table.rows(); ++row) {
    pairs.emplace_back(table.position(row), static_cast<double>(cache.state(0, head).largest(row)));
  }
  std::sort(pairs.begin(), pairs.end());
  std::vector<double> scores;
  for (const auto& pair : pairs) { scores.push_back(pair.second); }
  return scores;
}

void decode(const conformance::Case& one) {
  const HeadArray q(one.array("q_prerope"));
  const HeadArray k(one.array("k_prerope"));
  const HeadArray v(one.array("v"));
  const auto kept = conformance::heads(one.array("kept_idx"));    // (calls, heads, budget)
  const auto scores = conformance::heads(one.array("hh_score"));  // (calls, heads, budget)
  const auto heavy = one.get<std::size_t>("heavy");
  const auto recent = one.get<std::size_t>("recent");
  const auto prompt = one.get<std::size_t>("prompt");
  const auto steps = one.get<std::size_t>("steps");
  Sequence run(kvcompress::test::shape_of(q, k, v, KeyForm::unrotated, rope_of(one)),
               {.eviction = {.budget = heavy + recent, .recent = recent, .in_cache_positions = one.get<bool>("in_cache_positions")}}, q, k,
               v);
  ASSERT_EQ(kept.size(), steps + 1);
  double worst_score = 0.0;
  for (std::size_t step = 0; step <= steps; ++step) {
    run.step(step == 0 ? prompt : 1);
    step == 0 ? run.cache.end_prompt(0) : run.cache.commit(0);
    for (std::size_t head = 0; head < k.heads; ++head) {
      const auto row = static_cast<reference::Index>(head);
      ASSERT_EQ(conformance::members(run.cache.kept(0, head)), conformance::kept_row(kept[step], row))
          << "head " << head << " step " << step;
      const auto reached = scores_of(run.cache, head);
      for (std::size_t i = 0; i < reached.size(); ++i) {
        worst_score = std::max(worst_score, std::abs(reached[i] - scores[step](row, static_cast<reference::Index>(i))));
      }
    }
  }
  conformance::expect_within(one, "out", kvcompress::test::deviation(run.out, HeadArray(one.array("out"))), 2e-5);
  conformance::expect_within(one, "scores", worst_score, 2e-5);
}

void compare_prompt(const conformance::Case& one, const std::string& prefix, bool per_query_head, Reduction reduction) {
  const HeadArray q(one.any({"q", "q_postrope", "q_prerope"}));
  const HeadArray given(one.any({"k", "k_postrope", "k_prerope"}));
  const HeadArray values(one.any({"v"}));
  const std::size_t times = per_query_head ? q.heads / given.heads : 1;
  const HeadArray k = given.repeated(times);
  const HeadArray v = values.repeated(times);
  const KeyForm form = one.get<std::string>("keys") == "pre_rope" ? KeyForm::unrotated : KeyForm::rotated;
  const auto stored = conformance::matrix(one.array(prefix + "_idx"));
  const auto window = one.get<std::size_t>("window");
  Sequence run(kvcompress::test::shape_of(q, k, v, form, rope_of(one)),
               {.eviction = {.budget = one.get<std::size_t>("capacity"), .recent = window, .reduction = reduction}}, q, k, v);
  run.step(q.tokens);
  const double divisor = reduction == Reduction::mean ? static_cast<double>(q.heads / k.heads) : 1.0;
  double worst = 0.0;
  if (one.has(prefix + "_score")) {
    const auto expected = conformance::matrix(one.array(prefix + "_score"));
    for (std::size_t head = 0; head < k.heads; ++head) {
      const auto scores = scores_of(run.cache, head);
      for (reference::Index i = 0; i < expected.cols(); ++i) {
        worst = std::max(worst, std::abs(scores[static_cast<std::size_t>(i)] / divisor - expected(static_cast<reference::Index>(head), i)));
      }
    }
    conformance::expect_within(one, prefix + " scores", worst, 2e-5);
  }
  run.cache.end_prompt(0);
  for (std::size_t head = 0; head < k.heads; ++head) {
    const auto official = conformance::members(stored.row(static_cast<reference::Index>(head)).eval().reshaped());
    EXPECT_EQ(conformance::members(run.cache.kept(0, head)), official) << prefix << " head " << head;
  }
  if (form == KeyForm::rotated) { conformance::expect_rows_kept(one, prefix + "_k", prefix + "_v", stored, run); }
}

void prompt(const conformance::Case& one) {
  if (one.has("qhead_idx")) { compare_prompt(one, "qhead", true, Reduction::mean); }
  for (const auto& name : one.get<std::vector<std::string>>("reductions")) {
    compare_prompt(one, "kvhead_" + name, false, name == "max" ? Reduction::max : name == "sum" ? Reduction::sum : Reduction::mean);
  }
}

const conformance::Method method("h2o", {{"decode", decode}, {"prompt", prompt}});
TEST(H2O, ReproducesTheOfficialVectors) { method.run(); }

// For users without the official vectors: the same path against the shipped reference, on numbers made here.
TEST(H2O, FollowsTheReferenceStepByStep) {
  for (const bool in_cache : {false, true}) {
    for (const Reduction reduction : {Reduction::mean, Reduction::max}) {
      std::mt19937 rng(11);
      std::normal_distribution<float> normal;
      HeadArray q(4, 70, 16);
      HeadArray k(2, 70, 16);
      HeadArray v(2, 70, 16);
      for (HeadArray* array : {&q, &k, &v}) {
        for (float& x : array->data) { x = normal(rng); }
      }
      Sequence run(kvcompress::test::shape_of(q, k, v, KeyForm::unrotated),
                   {.eviction = {.budget = 20, .recent = 8, .reduction = reduction, .in_cache_positions = in_cache}}, q, k, v);
      const auto matrices = [](const HeadArray& a) {
        return reference::HeadsView<float>{a.data.data(),
                                           static_cast<reference::Index>(a.tokens),
                                           static_cast<reference::Index>(a.heads),
                                           static_cast<reference::Index>(a.dim),
                                           static_cast<reference::Index>(a.dim),
                                           static_cast<reference::Index>(a.tokens * a.dim)}
            .split();
      };
      const auto queries = matrices(q);
      std::vector<reference::H2OState> states(
          2, {.options = {.heavy = 12,
                          .recent = 8,
                          .reduction = reduction == Reduction::max ? reference::HeadReduction::max : reference::HeadReduction::mean,
                          .in_cache_positions = in_cache}});
      // The largest head counts per lane here, per call in the reference: the same for a prompt, not over several steps.
      for (std::size_t step = 0; step < (reduction == Reduction::max ? 1U : 31U); ++step) {
        const auto first = static_cast<reference::Index>(step == 0 ? 0 : 39 + step);
        const reference::Index count = step == 0 ? 40 : 1;
        run.step(static_cast<std::size_t>(count));
        step == 0 ? run.cache.end_prompt(0) : run.cache.commit(0);
        for (std::size_t head = 0; head < 2; ++head) {
          states[head].append(matrices(k)[head].middleRows(first, count), matrices(v)[head].middleRows(first, count));
          const std::vector<reference::Matrix> group{queries[2 * head].middleRows(first, count),
                                                     queries[2 * head + 1].middleRows(first, count)};
          const auto results = states[head].attend(group);
          for (std::size_t g = 0; g < 2; ++g) {
            for (reference::Index t = 0; t < count; ++t) {
              for (reference::Index c = 0; c < 16; ++c) {
                ASSERT_NEAR(run.out.at(2 * head + g, static_cast<std::size_t>(first + t), static_cast<std::size_t>(c)),
                            results[g].output(t, c), 2e-5);
              }
            }
          }
          states[head].commit();
          const auto kept = run.cache.kept(0, head);
          ASSERT_EQ(std::vector<std::int64_t>(kept.begin(), kept.end()),
                    std::vector<std::int64_t>(states[head].positions.begin(), states[head].positions.end()))
              << "step " << step << " in_cache " << in_cache;
        }
      }
    }
  }
}

}  // namespace h2o_test
