// tests/conformance/budgets_and_values_test.cpp - budgets of heads and layers, choices that look at values, against the official implementations.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <fstream>
#include <numeric>

#include "kvcompress/eviction/allocators/head_table.hpp"
#include "kvcompress/eviction/dispose.hpp"
#include "kvcompress/eviction/dispositions/demote.hpp"
#include "kvcompress/eviction/prefix_profile.hpp"
#include "kvcompress/eviction/scorers/accumulated_attention.hpp"
#include "kvcompress/policies/criticalkv.hpp"
#include "kvcompress/policies/duoattention.hpp"
#include "kvcompress/policies/prefixkv.hpp"
#include "kvcompress/policies/simlayerkv.hpp"
#include "kvcompress/policies/tiers.hpp"
#include "support/eviction_cases.hpp"

namespace budgets_and_values_test {

using namespace kvcompress;
using conformance::Case;
using conformance::expect_kept;
using conformance::expect_mask;
using conformance::prompt;
using conformance::score_deviation;
using conformance::Watched;
using test::HeadArray;
using S = Watched<WindowAttention>;

/// A choice in two stages over SnapKV's scores, whose sums over window and group are divided by `means`.
template <class A>
void two_stages(const Case& one, const Budget& budget, const typename A::Options& allocator, auto&& expect) {
  const auto inner = one.get<nlohmann::json>("inner");
  if (inner.at("method") != "snapkv") {
    throw conformance::NotCovered(one.path() + ": scores of " + inner.at("method").get<std::string>());
  }
  const HeadArray q(one.array("q_postrope"));
  const HeadArray k(one.array("k_postrope"));
  const HeadArray v(one.array("v"));
  const auto window = inner.at("window").get<std::size_t>();
  const double means = static_cast<double>(window * q.heads / k.heads);
  const npy::Array weights = one.array("w_o");
  const OutputProjections projections(LoadedNumbers(weights.as<float>()), weights.shape.at(0));
  const auto cache = prompt<WindowAttention, Evict<S, A, TwoStages>>(
      q, k, v,
      {.budget = budget,
       .scorer = {.window = window, .kernel = inner.at("kernel").get<std::size_t>(), .pooling = Pooling::average},
       .allocator = allocator,
       .selector = {.first_share = one.get<double>("first_stage_ratio"),
                    .epsilon = means * one.get<double>("epsilon"),
                    .norm = projections.norm()}});
  expect(cache, k.heads);
  conformance::expect_within(
      one, "scores",
      score_deviation(one, k.heads, window,
                      [&](std::size_t h, std::size_t r) { return static_cast<double>(S::scores.at(h).at(r)) / means; }),
      4e-8);
  const auto norms = conformance::matrix(one.array("projected_norm"));
  Shape shape = test::shape_of(q, k, v);
  double worst = 0.0;
  for (std::size_t head = 0; head < k.heads; ++head) {
    for (std::size_t row = 0; row < k.tokens; ++row) {
      const double norm = projections.norm()(Site{0, head, shape}, {v.data.data() + (head * v.tokens + row) * v.dim, v.dim});
      worst = std::max(worst, std::abs(norm - norms(static_cast<reference::Index>(head), static_cast<reference::Index>(row))));
    }
  }
  conformance::expect_within(one, "norms", worst, 3e-4);
}
/// The same over what Expected Attention says, whose scores are what the official code has.
void two_stages_of_expected_queries(const Case& one) {
  using Queries = Watched<ExpectedQueries>;
  const auto inner = one.get<nlohmann::json>("inner");
  const HeadArray k(one.array("k_postrope"));
  const npy::Array weights = one.array("w_o");
  const OutputProjections projections(LoadedNumbers(weights.as<float>()), weights.shape.at(0));
  const auto cache = prompt<ExpectedQueries, Evict<Queries, Uniform, TwoStages>>(
      conformance::rotated_queries(one), k, HeadArray(one.array("v")),
      {.budget = one.get<std::size_t>("n_kept"),
       .scorer = conformance::expected_options(inner),
       .selector = {
           .first_share = one.get<double>("first_stage_ratio"), .epsilon = one.get<double>("epsilon"), .norm = projections.norm()}});
  expect_kept(
      one, cache, 0, k.heads, [](std::size_t, std::size_t) { return 0.0; }, -1.0);
}
TEST(CriticalKV, ReproducesTheOfficialVectors) {
  conformance::run_cases("criticalkv", {{"two_stage", [](const Case& one) {
                                           if (one.get<nlohmann::json>("inner").at("method") == "expected_attention") {
                                             return two_stages_of_expected_queries(one);
                                           }
                                           two_stages<Uniform>(one, one.get<std::size_t>("n_kept"), {},
                                                               [&](const auto& cache, std::size_t heads) {
      expect_kept(
          one, cache, 0, heads, [](std::size_t, std::size_t) { return 0.0; }, -1.0);
                                           });
                                         }}});
}
TEST(CriticalAdaKV, ReproducesTheOfficialVectors) {
  conformance::run_cases("criticaladakv",
                         {{"head_budgets", [](const Case& one) {
                             two_stages<Ada>(one, one.get<std::size_t>("n_kept_mean"), {.floor = one.get<double>("alpha_safeguard")},
                                             [&](const auto& cache, std::size_t heads) { expect_mask(one, cache, "head_budget", heads); });
                           }}});
}

void head_table(const Case& one) {
  const HeadArray q(one.array("q_window_postrope"));
  const HeadArray k(one.array("k_postrope"));
  const auto window = one.get<std::size_t>("window");
  const auto rows = one.get<std::vector<float>>("head_capacity");
  const auto cache = prompt<WindowAttention, Evict<S, HeadTable>>(
      q, k, k,
      {.budget = one.get<std::size_t>("capacity"),
       .scorer = {.window = window, .kernel = one.get<std::size_t>("kernel"), .pooling = Pooling::average},
       .allocator = {.rows = LoadedNumbers(rows)}});
  expect_mask(one, cache, "head_rows", k.heads);
  const double means = static_cast<double>(window * q.heads / k.heads);
  conformance::expect_within(
      one, "scores",
      score_deviation(one, k.heads, 0, [&](std::size_t h, std::size_t r) { return static_cast<double>(S::scores.at(h).at(r)) / means; }),
      5e-8);
}
TEST(HeadKV, ReproducesTheOfficialVectors) { conformance::run_cases("headkv", {{"factory_head_budgets", head_table}}); }

/// LazyLayers that remembers what share the ends got.
struct WatchedLayers : LazyLayers {
  static inline double mass = 0.0;
  static void select(const Options& options, std::span<RowSet> sets, const Moment& moment) {
    mass = mass_at_the_ends(options, sets.front());
    LazyLayers::select(options, sets, moment);
  }
};
void lazy_layers(const Case& one) {
  const HeadArray q(one.array("q_postrope"));
  const HeadArray k(one.array("k_postrope"));
  const auto configs = one.get<nlohmann::json>("configs");
  const std::vector<float> masses = one.array("lazy_score").as<float>();
  double worst = 0.0;
  for (std::size_t c = 0; c < configs.size(); ++c) {
    KVCache<conformance::PolicyOf<WatchedLayers>> cache(test::shape_of(q, k, k),
                                                        {.eviction = {.threshold = configs[c].at("lazy_threshold").get<double>(),
                                                                      .first_rows = configs[c].at("n_initial").get<std::size_t>(),
                                                                      .recent = configs[c].at("n_recent").get<std::size_t>(),
                                                                      .last = configs[c].at("n_last").get<std::size_t>()}});
    HeadArray out(q.heads, q.tokens, k.dim);
    cache.append(0, k.rows(0, k.tokens), k.rows(0, k.tokens));
    cache.attend(0, q.rows(0, q.tokens), Output(out.data.data(), q.tokens, out.heads, out.dim, out.dim, out.tokens * out.dim));
    cache.end_prompt(0);
    const auto official = conformance::members(one.array("kept_idx_" + std::to_string(c)).values);
    for (std::size_t head = 0; head < k.heads; ++head) {
      EXPECT_EQ(conformance::members(cache.kept(0, head)), official) << one.path() << " configuration " << c << " head " << head;
    }
    worst = std::max(worst, std::abs(WatchedLayers::mass - static_cast<double>(masses.at(c))));
  }
  conformance::expect_within(one, "share of the ends", worst, 2e-6);
}
TEST(SimLayerKV, ReproducesTheOfficialVectors) { conformance::run_cases("simlayerkv", {{"lazy_layer", lazy_layers}}); }

/// The rows that a layer keeps of those at `positions`, whose scores are given.
conformance::Members kept_by_layer(const PrefixLayers::Options& options, std::size_t layer, const conformance::Members& positions,
                                   std::span<const float> scores, std::optional<std::size_t> prompt_tokens) {
  conformance::LaneByHand<PrefixLayers> lane(options, Shape{.layers = options.removed.size()}, 0, layer);
  for (const std::int64_t position : positions) { lane.table.append(static_cast<Position>(position)); }
  lane.state.resize(positions.size());
  for (std::size_t row = 0; row < scores.size(); ++row) { lane.state.set(row, 0, scores[row]); }
  conformance::Members kept;
  for (const std::int64_t row : lane.kept(prompt_tokens)) { kept.push_back(positions[static_cast<std::size_t>(row)]); }
  return kept;
}
void prefix_layers(const Case& one) {
  const npy::Array scores = one.array("layer_score");
  const std::vector<float> all = scores.as<float>();
  const std::size_t layers = scores.shape[0];
  const std::size_t tokens = scores.shape[1];
  const auto share = one.get<double>("ratio");
  const auto first_rows = one.get<std::size_t>("start");
  ASSERT_EQ(one.get<std::size_t>("protect_last"), 1U);
  const std::vector<std::size_t> counted = prefix_removals(all, layers, share, first_rows + 1);
  EXPECT_EQ(std::vector<double>(counted.begin(), counted.end()), one.array("cdf_removed").values);
  const std::vector<float> removed = prefix_profile(all, layers, share, first_rows + 1);
  const std::vector<float> official = one.array("removal_ratio").as<float>();
  for (std::size_t layer = 0; layer < layers; ++layer) { EXPECT_NEAR(removed.at(layer), official.at(layer), 1e-6); }
  const PrefixLayers::Options options{
      .removed = LoadedNumbers(removed), .first_rows = first_rows, .distance = static_cast<std::size_t>(-one.get<int>("distance"))};
  const auto after_prompt = conformance::matrix(one.array("kept_after_prompt"));
  const auto after_decode = conformance::matrix(one.array("kept_after_decode"));
  const auto counts = conformance::matrix(one.array("rows_per_call"));
  for (std::size_t layer = 0; layer < layers; ++layer) {
    const auto index = static_cast<reference::Index>(layer);
    conformance::Members rows(tokens);
    std::iota(rows.begin(), rows.end(), 0);
    rows = kept_by_layer(options, layer, rows, {all.data() + layer * tokens, tokens}, {});
    EXPECT_EQ(rows, conformance::kept_row(after_prompt, index)) << one.path() << " layer " << layer;
    for (std::size_t step = 0; step < one.get<std::size_t>("decode"); ++step) {
      rows.push_back(static_cast<std::int64_t>(tokens + step));
      rows = kept_by_layer(options, layer, rows, {}, tokens);
      EXPECT_EQ(static_cast<double>(rows.size()), counts(static_cast<reference::Index>(step + 1), index)) << one.path() << " step " << step;
    }
    EXPECT_EQ(rows, conformance::kept_row(after_decode, index)) << one.path() << " layer " << layer;
  }
}
TEST(PrefixKV, ReproducesTheOfficialVectors) { conformance::run_cases("prefixkv", {{"cdf_budgets", prefix_layers}}); }

void duo_heads(const Case& one) {
  const auto layers = one.get<std::size_t>("layers");
  const auto heads = one.get<std::size_t>("kv_heads");
  std::vector<float> gates;  // as published: a line per layer
  std::ifstream file(one.folder / "full_attention_heads.tsv");
  for (double gate = 0.0; file >> gate;) { gates.push_back(static_cast<float>(gate)); }
  ASSERT_EQ(gates.size(), layers * heads);
  std::vector<double> noise = one.array("tie_noise").values;
  for (double& one_noise : noise) { one_noise *= 1e-6; }
  const std::vector<double> official_gates = one.array("gates").values;
  for (std::size_t lane = 0; lane < gates.size(); ++lane) {
    EXPECT_NEAR(std::clamp(static_cast<double>(gates[lane]), 0.0, 1.0), official_gates.at(lane), 1e-6);
  }
  const auto sparsities = one.get<std::vector<double>>("sparsities");
  const std::vector<double> streaming = one.array("actual_sparsity").values;
  for (std::size_t c = 0; c < sparsities.size(); ++c) {
    const std::vector<bool> full = DuoAttention::full_lanes(gates, sparsities[c], noise);
    EXPECT_EQ(std::vector<double>(full.begin(), full.end()), one.array("full_mask_" + std::to_string(c)).values) << sparsities[c];
    EXPECT_NEAR(static_cast<double>(std::count(full.begin(), full.end(), false)) / static_cast<double>(full.size()), streaming.at(c), 1e-6);
    // A cache of such lanes: the gaps of the streaming ones are where they should be.
    const Shape shape{.layers = layers, .query_heads = heads, .kv_heads = heads, .head_dim = 8};
    KVCache<DuoAttention> cache(shape, {.eviction = DuoAttention::options(full, {.sinks = 2, .window = 5, .in_cache_positions = false})});
    const HeadArray rows(heads, 20, 8);
    for (std::size_t layer = 0; layer < layers; ++layer) {
      cache.append(layer, rows.rows(0, rows.tokens), rows.rows(0, rows.tokens));
      cache.end_prompt(layer);
      for (std::size_t head = 0; head < heads; ++head) { EXPECT_EQ(cache.kept(layer, head).size(), full[layer * heads + head] ? 20U : 7U); }
    }
  }
}
TEST(DuoAttention, ReproducesTheOfficialVectors) { conformance::run_cases("duoattention", {{"head_classes", duo_heads}}); }

/// H2O's sums, without a word for new rows.
struct Importance : AccumulatedAttention {
  static constexpr std::size_t recent(const Options&, std::size_t /*budget*/) noexcept { return 0; }
};
struct DemotedByImportance {
  using Eviction = Evict<Watched<Importance>, Uniform, Best, Demote>;
  using Storage = TiersStorage<2, 64, float>;
};
/// Which rows get colder, and their values; what MiKV does to keys, no storage does yet.
void mixed_precision(const Case& one) {
  const HeadArray q(one.array("q"));
  const HeadArray k(one.array("k"));
  const HeadArray v(one.array("v"));
  ASSERT_EQ(one.get<int>("bits_low"), 2);
  PolicyOptions<DemotedByImportance> options;
  options.eviction.budget = one.get<std::size_t>("high_rows");
  Watched<Importance>::scores.clear();
  test::Sequence<DemotedByImportance> run(test::shape_of(q, k, v), options, q, k, v);
  run.step(k.tokens);
  run.cache.end_prompt(0);
  const auto importance = conformance::matrix(one.array("importance"));
  const auto high = conformance::matrix(one.array("high_ids"));
  const auto values = conformance::heads(one.array("v_stored"));
  const double largest = static_cast<double>(*std::max_element(v.data.begin(), v.data.end()));
  double worst = 0.0;
  std::size_t other_codes = 0;
  std::vector<float> key(k.dim);
  std::vector<float> value(v.dim);
  for (std::size_t head = 0; head < k.heads; ++head) {
    const auto lane = static_cast<reference::Index>(head);
    for (std::size_t row = 0; row < k.tokens; ++row) {
      worst = std::max(worst, std::abs(static_cast<double>(Watched<Importance>::scores.at(head).at(row)) -
                                       importance(lane, static_cast<reference::Index>(row))));
    }
    const RowTable& table = run.cache.table(0, head);
    conformance::Members exact;
    ASSERT_EQ(table.rows(), k.tokens);
    for (std::size_t row = 0; row < table.rows(); ++row) {
      const auto at = static_cast<reference::Index>(table.position(row));
      if (row >= run.cache.values(0, head).settled()) { exact.push_back(at); }
      run.cache.read(0, head, row, key.data(), value.data());
      for (std::size_t c = 0; c < v.dim; ++c) {
        const double off = std::abs(static_cast<double>(value[c]) - values[head](at, static_cast<reference::Index>(c)));
        other_codes += off > 2e-6 * largest ? 1U : 0U;
      }
    }
    EXPECT_EQ(conformance::members(exact), conformance::members(high.row(lane).eval().reshaped())) << one.path() << " head " << head;
  }
  conformance::expect_within(one, "importance", worst, 2e-5);
  conformance::expect_within(one, "share of other codes", static_cast<double>(other_codes) / static_cast<double>(v.data.size()), 1e-3);
  throw conformance::NotCovered(one.path() + ": keys of one token's codes, balanced by channel (sets and values are right)");
}
TEST(MiKV, ReproducesWhatTheOfficialVectorsSayOfSetsAndValues) { conformance::run_cases("mikv", {{"mixed_precision", mixed_precision}}); }

const conformance::Method mikv("mikv", {});
const conformance::Method duoattention("duoattention", {});
const conformance::Method prefixkv("prefixkv", {});
const conformance::Method simlayerkv("simlayerkv", {});
const conformance::Method criticalkv("criticalkv", {});
const conformance::Method criticaladakv("criticaladakv", {});
const conformance::Method headkv("headkv", {});

}  // namespace budgets_and_values_test
