// tests/reference/h2o_reference_test.cpp - H2O's reference: invariants and official vectors.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "kvcompress/reference/h2o.hpp"
#include "support/cases.hpp"
#include "support/random_matrix.hpp"

namespace h2o_reference_test {

using namespace kvcompress;
using reference::HeadReduction;
using reference::Index;
using reference::Matrix;
using reference::Vector;
using test::random_matrix;

TEST(H2OReference, UniformScoresKeepTheOldestAndTheNewest) {
  EXPECT_EQ(reference::h2o_keep(Vector::Ones(10), 2, 3), (reference::Rows{0, 1, 7, 8, 9}));
  EXPECT_EQ(reference::h2o_keep(Vector::Ones(5), 2, 3), (reference::Rows{0, 1, 2, 3, 4}));
  EXPECT_EQ(reference::h2o_keep(Vector{{1.0, 5.0, 0.0, 6.0, 9.0, 0.0}}, 2, 1), (reference::Rows{3, 4, 5}));
}

TEST(H2OReference, EveryQueryHandsOutOneUnitOfScore) {
  std::mt19937 rng(1);
  reference::H2OState state{.options = {.heavy = 50, .recent = 50}};
  for (Index t = 0; t < 20; ++t) {
    state.append(random_matrix(rng, 1, 8), random_matrix(rng, 1, 8));
    state.attend(std::vector<Matrix>{random_matrix(rng, 1, 8), random_matrix(rng, 1, 8)});
    state.commit();
    EXPECT_NEAR(state.scores.sum(), static_cast<double>(t + 1), 1e-12);
  }
}

TEST(H2OReference, BudgetRecencyAndOrderHoldAtEveryStep) {
  std::mt19937 rng(2);
  for (const bool in_cache : {false, true}) {
    reference::H2OState state{.options = {.heavy = 3, .recent = 4, .in_cache_positions = in_cache}};
    reference::Positions before;
    for (Index t = 0; t < 40; ++t) {
      const Index count = t == 0 ? 15 : 1;
      state.append(random_matrix(rng, count, 8), random_matrix(rng, count, 8));
      state.attend(std::vector<Matrix>{random_matrix(rng, count, 8)});
      state.commit();
      ASSERT_EQ(state.positions.size(), 7);
      for (Index r = 0; r < 7; ++r) {
        EXPECT_TRUE(r == 0 || state.positions(r) > state.positions(r - 1));
        EXPECT_TRUE(r < 3 || state.positions(r) == 15 + t - 7 + r);
        const bool known = std::find(before.begin(), before.end(), state.positions(r)) != before.end();
        EXPECT_TRUE(t == 0 || r == 6 || known) << "row " << r << " came back";
      }
      before = state.positions;
    }
  }
}

TEST(H2OReference, PositionsDoNotMatterWhileNothingIsEvicted) {
  std::mt19937 rng(3);
  const Matrix x = random_matrix(rng, 10, 8);
  const std::vector<Matrix> q{random_matrix(rng, 10, 8)};
  std::vector<Matrix> outputs;
  for (const bool in_cache : {false, true}) {
    reference::H2OState state{.options = {.heavy = 10, .recent = 10, .in_cache_positions = in_cache}};
    state.append(x, x);
    outputs.push_back(state.attend(q).front().output);
  }
  EXPECT_EQ(outputs[0], outputs[1]);
}

TEST(H2OReference, InCachePositionsForgetTheText) {
  std::mt19937 rng(4);
  const std::vector<Matrix> q{random_matrix(rng, 1, 8)};
  reference::H2OState state{.options = {.heavy = 3, .recent = 4, .in_cache_positions = true}};
  for (Index t = 0; t < 30; ++t) {
    state.append(random_matrix(rng, 1, 8), random_matrix(rng, 1, 8));
    state.attend(q);
    state.commit();
  }
  reference::H2OState fresh{.options = state.options};
  fresh.append(state.keys, state.values);
  EXPECT_EQ(state.attend(q).front().output, fresh.attend(q).front().output);
}

void decode(const conformance::Case& one) {
  const auto q = conformance::heads(one.array("q_prerope"));
  const auto k = conformance::heads(one.array("k_prerope"));
  const auto v = conformance::heads(one.array("v"));
  const auto out = conformance::heads(one.array("out"));
  const auto kept = conformance::heads(one.array("kept_idx"));    // (calls, heads, budget)
  const auto scores = conformance::heads(one.array("hh_score"));  // (calls, heads, budget)
  const Index prompt = one.get<Index>("prompt");
  const Index steps = one.get<Index>("steps");
  ASSERT_EQ(kept.size(), static_cast<std::size_t>(steps + 1));
  const std::size_t group = q.size() / k.size();
  double worst_output = 0.0;
  double worst_score = 0.0;
  for (std::size_t kv = 0; kv < k.size(); ++kv) {
    const auto head = static_cast<Index>(kv);
    reference::H2OState state{.options = {.heavy = one.get<Index>("heavy"),
                                          .recent = one.get<Index>("recent"),
                                          .in_cache_positions = one.get<bool>("in_cache_positions"),
                                          .rope = one.rope()}};
    for (Index step = 0; step <= steps; ++step) {
      const Index first = step == 0 ? 0 : prompt + step - 1;
      const Index count = step == 0 ? prompt : 1;
      std::vector<Matrix> queries;
      for (std::size_t h = kv * group; h < (kv + 1) * group; ++h) { queries.push_back(q[h].middleRows(first, count)); }
      state.append(k[kv].middleRows(first, count), v[kv].middleRows(first, count));
      const auto results = state.attend(queries);
      for (std::size_t g = 0; g < group; ++g) {
        const Matrix expected = out[kv * group + g].middleRows(first, count);
        worst_output = std::max(worst_output, conformance::deviation(results[g].output, expected));
      }
      state.commit();
      const auto call = static_cast<std::size_t>(step);
      const Index rows = state.positions.size();
      ASSERT_LE(rows, kept[call].cols());
      ASSERT_EQ(Matrix(state.positions.cast<double>().transpose()), Matrix(kept[call].row(head).head(rows)))
          << "head " << kv << " step " << step;
      worst_score = std::max(worst_score, conformance::deviation(state.scores.transpose(), scores[call].row(head).head(rows)));
    }
  }
  conformance::expect_within(one, "out", worst_output, 2e-5);
  conformance::expect_within(one, "scores", worst_score, 2e-5);
}

// One selection at the end of a prompt; the arrays of a granularity share the beginning of their names.
// Without rope the keys are taken as given; with one query head per lane the reduction does nothing.
void compare_prompt(const conformance::Case& one, const std::string& prefix, bool per_query_head, HeadReduction reduction) {
  const auto q = conformance::heads(one.any({"q", "q_postrope", "q_prerope"}));
  const auto k = conformance::heads(one.any({"k", "k_postrope", "k_prerope"}));
  const Matrix stored = conformance::matrix(one.array(prefix + "_idx"));
  const auto k_out = conformance::heads(one.array(prefix + "_k"));
  const Index window = one.get<Index>("window");
  const Index capacity = one.get<Index>("capacity");
  const bool turn = one.get<std::string>("keys") == "pre_rope";
  const std::size_t group = per_query_head ? 1 : q.size() / k.size();
  double worst = 0.0;
  for (std::size_t lane = 0; lane < q.size() / group; ++lane) {
    const Matrix& keys = k[lane * group * k.size() / q.size()];
    reference::H2OState state{
        .options = {
            .heavy = capacity - window, .recent = window, .reduction = reduction, .rope = turn ? std::optional(one.rope()) : std::nullopt}};
    state.append(keys, keys);
    state.attend(std::span(q).subspan(lane * group, group));
    const Vector scores = state.scores;
    state.commit();
    const auto row = static_cast<Index>(lane);
    std::vector<std::int64_t> official;
    for (Index i = 0; i < stored.cols(); ++i) {
      official.push_back(static_cast<std::int64_t>(stored(row, i)));
      if (!turn) { EXPECT_EQ(keys.row(official.back()), k_out[lane].row(i)); }
      // The official storage begins with the best score and ends with the window.
      if (i == 0 || i >= stored.cols() - window) { continue; }
      EXPECT_GE(scores(official[static_cast<std::size_t>(i - 1)]) + 2e-5, scores(official.back()));
    }
    std::sort(official.begin(), official.end());
    EXPECT_EQ(std::vector<std::int64_t>(state.positions.begin(), state.positions.end()), official);
    if (one.has(prefix + "_score")) {
      const Matrix expected = conformance::matrix(one.array(prefix + "_score")).row(row);
      worst = std::max(worst, conformance::deviation(scores.head(expected.cols()).transpose(), expected));
    }
  }
  if (one.has(prefix + "_score")) { conformance::expect_within(one, prefix + " scores", worst, 2e-5); }
}

void prompt(const conformance::Case& one) {
  if (one.has("qhead_idx")) { compare_prompt(one, "qhead", true, HeadReduction::mean); }
  for (const auto& name : one.get<std::vector<std::string>>("reductions")) {
    const HeadReduction reduction = name == "max" ? HeadReduction::max : name == "sum" ? HeadReduction::sum : HeadReduction::mean;
    compare_prompt(one, "kvhead_" + name, false, reduction);
  }
}

TEST(H2OReference, OfficialVectors) { conformance::run_cases("h2o", {{"decode", decode}, {"prompt", prompt}}); }

}  // namespace h2o_reference_test
