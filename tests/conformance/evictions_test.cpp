// tests/conformance/evictions_test.cpp - evictions made of parts against the official implementations: scores, budgets, kept rows.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <span>

#include "kvcompress/policies/adakv.hpp"
#include "kvcompress/policies/expected_attention.hpp"
#include "kvcompress/policies/key_diff.hpp"
#include "kvcompress/policies/pyramidkv.hpp"
#include "kvcompress/policies/tova.hpp"
#include "support/eviction_cases.hpp"

namespace evictions_test {

using namespace kvcompress;
using conformance::Case;
using test::HeadArray;

using conformance::expect_kept;
using conformance::expect_mask;
using conformance::expected_options;
using conformance::PolicyOf;
using conformance::prompt;
using conformance::rotated_queries;
using conformance::score_deviation;
using conformance::Watched;

// ---------------------------------------------------------------- TOVA

TEST(TOVA, ReproducesTheOfficialVectors) {
  using S = Watched<LastAttention>;
  conformance::run_cases("tova", {{"scores", [](const Case& one) {
                                     const HeadArray q(one.array("q_postrope"));
                                     const HeadArray k(one.array("k_postrope"));
                                     const auto cache =
                                         prompt<LastAttention, Evict<S>>(q, k, k, {.budget = one.get<std::size_t>("n_kept")});
                                     const auto at = [&](std::size_t, std::size_t row) {  // the mean over all heads of the layer
                                       double sum = 0.0;
                                       for (const auto& lane : S::scores) { sum += static_cast<double>(lane.at(row)); }
                                       return sum / static_cast<double>(q.heads);
                                     };
                                     expect_kept(one, cache, 0, k.heads, at, 2e-6);
                                     conformance::expect_within(one, "scores", score_deviation(one, k.heads, 1, at), 2e-6);
                                   }}});
}

// ---------------------------------------------------------------- KeyDiff

void key_diff_blocks(const Case& one) {
  const HeadArray k(one.array("k_postrope"));
  const auto budget = one.get<std::size_t>("n_kept");
  const auto block = one.get<std::size_t>("block_size");
  KVCache<PolicyOf<KeyDiff::Eviction>> cache(test::shape_of(k, k, k), {.eviction = {.budget = budget}});
  cache.append(0, k.rows(0, budget), k.rows(0, budget));
  cache.end_prompt(0);
  for (std::size_t done = budget; done < k.tokens; done += block) {
    const std::size_t count = std::min(block, k.tokens - done);
    cache.append(0, k.rows(done, count), k.rows(done, count));
    cache.commit(0);
  }
  const auto kept = conformance::matrix(one.array("kept_idx"));
  for (std::size_t head = 0; head < k.heads; ++head) {
    EXPECT_EQ(conformance::members(cache.kept(0, head)),
              conformance::members(kept.row(static_cast<reference::Index>(head)).eval().reshaped()))
        << head;
  }
}
TEST(KeyDiff, ReproducesTheOfficialVectors) {
  using S = Watched<KeyDifference>;
  conformance::run_cases(
      "keydiff", {{"block_iterative", key_diff_blocks},
                  {"scores", [](const Case& one) {
                     const HeadArray k(one.array("k_postrope"));
                     const auto cache = prompt<KeyDifference, Evict<S>>(k, k, k, {.budget = one.get<std::size_t>("n_kept")});
                     const auto at = [](std::size_t head, std::size_t row) { return static_cast<double>(S::scores.at(head).at(row)); };
                     expect_kept(one, cache, 0, k.heads, at, 2e-6);
                     conformance::expect_within(one, "scores", score_deviation(one, k.heads, 0, at), 2e-6);
                   }}});
}

// ---------------------------------------------------------------- PyramidKV

void pyramid_budgets(const Case& one) {
  const auto official = conformance::matrix(one.array("budgets"));
  const auto configs = one.get<nlohmann::json>("configs");
  for (std::size_t c = 0; c < configs.size(); ++c) {
    const auto layers = configs[c].at("layers").get<std::size_t>();
    const auto tokens = configs[c].at("tokens").get<std::size_t>();
    const double even = static_cast<double>(tokens) * (1.0 - configs[c].at("compression_ratio").get<double>());
    for (std::size_t layer = 0; layer < layers; ++layer) {
      EXPECT_EQ(Pyramid::rows_of_layer({.beta = configs[c].at("beta").get<std::size_t>()}, even, tokens,
                                       configs[c].at("window").get<std::size_t>(), layer, layers),
                static_cast<std::size_t>(official(static_cast<reference::Index>(c), static_cast<reference::Index>(layer))))
          << "configuration " << c << " layer " << layer;
    }
  }
}
TEST(PyramidKV, ReproducesTheOfficialVectors) {
  using S = Watched<WindowAttention>;
  conformance::run_cases("pyramidkv",
                         {{"layer_budgets", pyramid_budgets},
                          {"scores", [](const Case& one) {
                             const HeadArray q(one.array("q_postrope"));
                             const HeadArray k(one.array("k_postrope"));
                             const auto window = one.get<std::size_t>("window");
                             const auto layer = one.get<std::size_t>("layer");
                             const auto cache = prompt<WindowAttention, Evict<S, Pyramid>>(
                                 q, k, k,
                                 {.budget = Budget::fraction(1.0 - one.get<double>("compression_ratio")),
                                  .scorer = {.window = window, .kernel = one.get<std::size_t>("kernel"), .pooling = Pooling::average},
                                  .allocator = {.beta = one.get<std::size_t>("beta")}},
                                 layer, one.get<std::size_t>("layers"));
                             const double divisor = static_cast<double>(window * q.heads / k.heads);
                             const auto at = [&](std::size_t head, std::size_t row) {
                               return row + window >= k.tokens ? 1e9 : static_cast<double>(S::scores.at(head).at(row)) / divisor;
                             };
                             expect_kept(one, cache, layer, k.heads, at, 4e-8);
                             conformance::expect_within(one, "scores", score_deviation(one, k.heads, window, at), 4e-8);
                           }}});
}

// ---------------------------------------------------------------- AdaKV

using WatchedWindow = Watched<WindowAttention>;

double window_deviation(const Case& one, std::size_t heads, std::size_t window, double divisor) {
  return score_deviation(one, heads, one.has("score") ? 0 : window, [&](std::size_t head, std::size_t row) {
    return static_cast<double>(WatchedWindow::scores.at(head).at(row)) / divisor;
  });
}
using WatchedQueries = Watched<ExpectedQueries>;

double expected_deviation(const Case& one, std::size_t sinks) {
  const auto official = conformance::matrix(one.any({"score", "inner_score"}));
  double worst = 0.0;
  for (std::size_t head = 0; head < WatchedQueries::scores.size(); ++head) {
    for (std::size_t row = sinks; row < WatchedQueries::scores[head].size(); ++row) {
      worst = std::max(worst, std::abs(static_cast<double>(WatchedQueries::scores[head][row]) -
                                       official(static_cast<reference::Index>(head), static_cast<reference::Index>(row))));
    }
  }
  return worst;
}
/// The queries of the case, or none that matter where it gives their statistics.
void expected_scores(const Case& one, const HeadArray& q, const ExpectedQueries::Options& options) {
  const HeadArray k(one.array("k_postrope"));
  const HeadArray v(one.array("v"));
  const auto cache = prompt<ExpectedQueries, Evict<WatchedQueries>>(q, k, v, {.budget = one.get<std::size_t>("n_kept"), .scorer = options});
  const double bound = one.params.at("tolerance").at("score_abs").get<double>();
  expect_kept(
      one, cache, 0, k.heads,
      [](std::size_t head, std::size_t row) { return static_cast<double>(WatchedQueries::scores.at(head).at(row)); }, bound);
  conformance::expect_within(one, "scores", expected_deviation(one, options.first_rows), bound);
}
void given_statistics(const Case& one) {
  ExpectedQueries::Options options = expected_options(one.params.at("params"));
  options.means = LoadedNumbers(one.array("stat_mean").as<float>());
  options.spreads = LoadedNumbers(one.array("stat_cov").as<float>());
  expected_scores(one, HeadArray(one.get<std::size_t>("Hq"), one.get<std::size_t>("tokens"), one.get<std::size_t>("d")), options);
}
TEST(ExpectedAttention, ReproducesTheOfficialVectors) {
  conformance::run_cases(
      "expected_attention",
      {{"scores", [](const Case& one) { expected_scores(one, rotated_queries(one), expected_options(one.params.at("params"))); }},
       {"scores_given_statistics", given_statistics}});
}

void ada_best(const Case& one) {
  const auto inner = one.get<nlohmann::json>("inner");
  if (inner.at("method") == "expected_attention") {
    const HeadArray keys(one.array("k_postrope"));
    const ExpectedQueries::Options options = expected_options(inner);
    const auto cache = prompt<ExpectedQueries, Evict<WatchedQueries, Ada>>(
        rotated_queries(one), keys, HeadArray(one.array("v")),
        {.budget = one.get<std::size_t>("n_kept_mean"), .scorer = options, .allocator = {.floor = one.get<double>("alpha_safeguard")}});
    expect_mask(one, cache, "head_budget", keys.heads);
    return conformance::expect_within(one, "scores", expected_deviation(one, options.first_rows), 6e-6);
  }
  if (inner.at("method") != "snapkv") {
    throw conformance::NotCovered(one.path() + ": scores of " + inner.at("method").get<std::string>());
  }
  const HeadArray q(one.array("q_postrope"));
  const HeadArray k(one.array("k_postrope"));
  const auto window = inner.at("window").get<std::size_t>();
  const auto cache = prompt<WindowAttention, Evict<WatchedWindow, Ada>>(
      q, k, k,
      {.budget = one.get<std::size_t>("n_kept_mean"),
       .scorer = {.window = window, .kernel = inner.at("kernel").get<std::size_t>(), .pooling = Pooling::average},
       .allocator = {.floor = one.get<double>("alpha_safeguard")}});
  expect_mask(one, cache, "head_budget", k.heads);
  conformance::expect_within(one, "scores", window_deviation(one, k.heads, window, static_cast<double>(window * q.heads / k.heads)), 4e-8);
}
void ada_mixed(const Case& one) {
  const HeadArray q(one.array("q_window_postrope"));
  const HeadArray k(one.array("k_postrope"));
  const auto window = one.get<std::size_t>("window");
  const auto cache = prompt<WindowAttention, Evict<WatchedWindow, Ada>>(
      q, k, k,
      {.budget = one.get<std::size_t>("capacity"),
       .scorer = {.window = window, .kernel = one.get<std::size_t>("kernel"), .pooling = Pooling::average},
       .allocator = {.floor = one.get<double>("floor_ratio"), .rule = AdaFloor::mixed, .normalize = one.get<bool>("normalize")}});
  expect_mask(one, cache, "head_rows", k.heads);
  conformance::expect_within(one, "scores", window_deviation(one, k.heads, window, static_cast<double>(window * q.heads / k.heads)), 1e-7);
}
TEST(AdaKV, ReproducesTheOfficialVectors) {
  conformance::run_cases("adakv", {{"head_budgets", ada_best}, {"factory_head_budgets", ada_mixed}});
}

const conformance::Method tova("tova", {});
const conformance::Method key_diff("keydiff", {});
const conformance::Method pyramid("pyramidkv", {});
const conformance::Method ada("adakv", {});
const conformance::Method expected("expected_attention", {});

}  // namespace evictions_test
