// tests/conformance/layers_test.cpp - budgets of layers and heads that are shared out over the model, and parts that stand beside other evictions, against
// the official implementations.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include "kvcompress/eviction/allocators/ada.hpp"
#include "kvcompress/eviction/allocators/composites.hpp"
#include "kvcompress/eviction/allocators/pruned_shares.hpp"
#include "kvcompress/eviction/allocators/top_mass.hpp"
#include "kvcompress/eviction/allocators/variance_shares.hpp"
#include "kvcompress/eviction/delayed_threshold.hpp"
#include "kvcompress/eviction/scorers/key_difference.hpp"
#include "kvcompress/eviction/scorers/key_norm.hpp"
#include "kvcompress/eviction/scorers/largest_attention.hpp"
#include "kvcompress/eviction/scorers/question_attention.hpp"
#include "kvcompress/eviction/selectors/best_of_each_chunk.hpp"
#include "kvcompress/eviction/selectors/crush.hpp"
#include "kvcompress/policies/cake.hpp"
#include "support/any_eviction_cache.hpp"
#include "support/d2o_cases.hpp"

namespace layers_test {

using namespace kvcompress;
using conformance::Case;
using conformance::expect_within;
using conformance::kept_row;
using conformance::Members;
using conformance::members;
using conformance::Watched;
using test::HeadArray;

using Cache = conformance::AnyEvictionCache;
using conformance::cache_of;
using conformance::slice;

void attend(Cache& cache, std::size_t layer, const HeadArray& q, std::size_t first, std::size_t count) {
  HeadArray out(q.heads, count, cache.shape().value_width());
  cache.attend(layer, q.rows(first, count), Output(out.data.data(), count, out.heads, out.dim, out.dim, out.tokens * out.dim));
}

// ---------------------------------------------------------------- CAKE

void cake_budgets(const Case& one) {
  const auto args = conformance::matrix(one.array("args"));
  const auto shares = conformance::matrix(one.array("shares"));
  const auto official = conformance::matrix(one.array("budgets"));
  for (reference::Index c = 0; c < args.rows(); ++c) {
    const auto layers = static_cast<std::size_t>(args(c, 0));
    std::vector<double> share(layers);
    std::vector<std::size_t> rows(layers);
    for (std::size_t l = 0; l < layers; ++l) { share[l] = shares(c, static_cast<reference::Index>(l)); }
    Cascading::share_out(share, static_cast<std::size_t>(args(c, 1)), static_cast<std::size_t>(args(c, 2)), rows);
    for (std::size_t l = 0; l < layers; ++l) {
      EXPECT_EQ(static_cast<double>(rows[l]), official(c, static_cast<reference::Index>(l))) << "configuration " << c << " layer " << l;
    }
  }
}
void cake(const Case& one) {
  using S = Watched<AttentionMoments>;
  S::scores.clear();
  const auto prompt = one.get<std::size_t>("prompt");
  const auto layers = one.get<std::size_t>("layers");
  const auto window = one.get<std::size_t>("window");
  std::vector<HeadArray> k;
  std::vector<HeadArray> q;
  std::vector<HeadArray> later;
  for (std::size_t l = 0; l < layers; ++l) {
    k.emplace_back(slice(one.array("k_postrope"), l));
    q.emplace_back(slice(one.array("q_window_postrope"), l));
    later.emplace_back(slice(one.array("q_decode_postrope"), l));
  }
  Shape shape = test::shape_of(q[0], k[0], k[0]);
  shape.layers = layers;
  Cache cache = cache_of<Evict<S, Cascading>>(
      shape, {.budget = one.get<std::size_t>("cache_size"),
              .scorer = {.window = window, .kernel = one.get<std::size_t>("kernel"), .gamma = one.get<double>("gamma")},
              .allocator = {.spread = one.get<double>("tau1"), .shift = one.get<double>("tau2")}});
  for (std::size_t l = 0; l < layers; ++l) {
    cache.append(l, k[l].rows(0, prompt), k[l].rows(0, prompt));
    attend(cache, l, q[l], 0, window);
    cache.end_prompt(l);
  }
  double worst = 0.0;
  const npy::Array scores = one.array("row_score");
  for (std::size_t lane = 0; lane < layers * shape.kv_heads; ++lane) {
    for (std::size_t r = 0; r + window < prompt; ++r) {
      worst = std::max(worst, std::abs(static_cast<double>(S::scores.at(lane).at(r)) - scores.values[lane * (prompt - window) + r]));
    }
  }
  expect_within(one, "scores", worst, 8e-6);
  const auto expect = [&](const std::string& name) {
    const npy::Array all = one.array(name);
    for (std::size_t l = 0; l < layers; ++l) {
      const auto official = conformance::matrix(slice(all, l));
      for (std::size_t head = 0; head < shape.kv_heads; ++head) {
        EXPECT_EQ(members(cache.kept(l, head)), kept_row(official, static_cast<reference::Index>(head))) << name << " layer " << l;
      }
    }
  };
  expect("kept_after_prompt");
  for (std::size_t t = 0; t < one.get<std::size_t>("decode"); ++t) {
    for (std::size_t l = 0; l < layers; ++l) {
      cache.append(l, k[l].rows(prompt + t, 1), k[l].rows(prompt + t, 1));
      attend(cache, l, later[l], t, 1);
      cache.commit(l);
    }
  }
  const npy::Array decoded = one.array("kept_after_decode");  // its rows were averaged in another order: as many stay
  for (std::size_t l = 0; l < layers; ++l) {
    const auto official = conformance::matrix(slice(decoded, l));
    for (std::size_t head = 0; head < shape.kv_heads; ++head) {
      const auto rows = kept_row(official, static_cast<reference::Index>(head)).size();
      EXPECT_EQ(cache.kept(l, head).size(), rows) << "layer " << l;
    }
  }
  std::cout << "conformance: " << one.path()
            << ": which rows stay while decoding is not compared: there neighbours are those in the store\n";
}
TEST(CAKE, ReproducesTheOfficialVectors) {
  conformance::run_cases("cake", {{"adjust_budgets", cake_budgets}, {"cascading_budgets", cake}});
}

// ---------------------------------------------------------------- decisions by hand

/// Lanes (layers, KV heads) whose attention or scores a case gives.
template <class E>
struct ModelByHand {
  ModelByHand(const typename E::Options& given, const Shape& model, std::size_t rows)
      : options(given), shape(model), table(false, Memory{}), rotation(shape, Memory{}) {
    for (std::size_t r = 0; r < rows; ++r) { table.append(static_cast<Position>(r)); }
    for (std::size_t lane = 0; lane < shape.layers * shape.kv_heads; ++lane) {
      states.push_back(E::state(options, {lane / shape.kv_heads, lane % shape.kv_heads, shape}, Memory{}));
      states.back().reserve(rows);
      states.back().resize(rows);
    }
  }
  ModelByHand(const ModelByHand&) = delete;
  /// Which rows stay in each lane at the end of a prompt.
  std::vector<Members> kept() {
    const LaneView::Reading reading{nullptr,
                                    [](const void* from, RowRange rows, std::size_t stride, float* out) {
      std::copy_n(static_cast<const float*>(from) + rows.first * stride, rows.size() * stride, out);
                                    },
                                    nullptr};
    std::vector<LaneView> views;
    for (std::size_t lane = 0; lane < states.size(); ++lane) {
      const float* const own = values == nullptr ? nullptr : values + lane * table.rows() * shape.value_width();
      views.emplace_back(Site{lane / shape.kv_heads, lane % shape.kv_heads, shape}, &states[lane], own, table, rotation, reading);
    }
    DecisionScratch scratch{Memory{}};
    Vector<Position> order{Allocator<Position>(Memory{})};
    std::vector<unsigned char> drop(states.size() * table.rows(), 0);
    std::vector<std::size_t> budgets(states.size(),
                                     options.budget.resolve(table.rows(), states.size(), [](std::size_t) { return std::size_t{0}; }));
    std::vector<RowSet> sets;
    for (std::size_t lane = 0; lane < states.size(); ++lane) {
      sets.push_back({table, {&views[lane], 1}, budgets[lane], {drop.data() + lane * table.rows(), table.rows()}, order});
    }
    E::validate(options, shape);
    E::select(options, sets, {true, table.rows(), 0, table.rows(), scratch});
    std::vector<Members> all(states.size());
    for (std::size_t i = 0; i < drop.size(); ++i) {
      if (drop[i] == 0) { all[i / table.rows()].push_back(static_cast<std::int64_t>(i % table.rows())); }
    }
    return all;
  }
  typename E::Options options;
  Shape shape;
  RowTable table;
  Rotation rotation;
  std::vector<typename E::State> states;
  const float* values = nullptr;
};
/// Scores that a case gives.
struct GivenScores : ScoredRows {
  static constexpr std::string_view name = "given_scores";
};

// ---------------------------------------------------------------- KVCompose

void composites(const Case& one) {
  using S = Watched<LargestAttention>;
  const auto tokens = one.get<std::size_t>("tokens");
  const auto heads = one.get<std::size_t>("Hkv");
  const auto queries = one.get<std::size_t>("queries");
  const bool value_norm = one.get<bool>("add_v_norm");
  const std::vector<float> v = value_norm ? one.array("v").as<float>() : std::vector<float>{};
  Shape shape{.layers = one.get<std::size_t>("layers"), .query_heads = one.get<std::size_t>("Hq"), .kv_heads = heads, .head_dim = 32};
  ModelByHand<Evict<S, Composites>> model({.budget = Budget::fraction(1.0 - one.get<double>("compression_ratio")),
                                           .scorer = {.value_norm = value_norm, .head_mean = one.get<bool>("add_mean_across_heads")},
                                           .allocator = {.structured = one.get<bool>("structured")}},
                                          shape, tokens);
  for (std::size_t prompt = 0; prompt < one.get<std::size_t>("prompts"); ++prompt) {
    const std::vector<float> attention = one.array("attention_" + std::to_string(prompt)).as<float>();
    for (std::size_t layer_head = 0; layer_head < shape.layers * shape.query_heads; ++layer_head) {
      for (std::size_t q = 0; q < queries; ++q) {
        S::observe({}, model.states[layer_head / shape.group()], layer_head % shape.group(),
                   {attention.data() + (layer_head * queries + q) * tokens, tokens});
      }
    }
  }
  model.values = value_norm ? v.data() : nullptr;
  const std::vector<Members> kept = model.kept();
  const std::vector<float> mask = one.array("kept_mask").as<float>();
  for (std::size_t lane = 0; lane < kept.size(); ++lane) {
    Members official;
    for (std::size_t r = 0; r < tokens; ++r) {
      if (mask[lane * tokens + r] != 0.0F) { official.push_back(static_cast<std::int64_t>(r)); }
    }
    EXPECT_EQ(kept[lane], official) << one.path() << " lane " << lane;
  }
}
TEST(KVCompose, ReproducesTheOfficialVectors) { conformance::run_cases("kvcompose", {{"cross_layer_budgets", composites}}); }

// ---------------------------------------------------------------- D2O's budgets

void shares_of_d2o(const Case& one) {
  const auto tokens = one.get<std::size_t>("tokens");
  const Shape shape{.layers = one.get<std::size_t>("layers"),
                    .query_heads = one.get<std::size_t>("heads"),
                    .kv_heads = one.get<std::size_t>("heads"),
                    .head_dim = 32};
  const std::vector<float> columns = one.array("attention_columns").as<float>();
  const double even = one.get<double>("uniform_hh_ratio") + one.get<double>("uniform_recent_ratio");
  ModelByHand<Evict<GivenScores, VarianceShares>> model({.budget = Budget::fraction(even)}, shape, tokens);
  std::vector<double> metrics;
  for (std::size_t layer = 0; layer < shape.layers; ++layer) {
    std::vector<double> variances;
    for (std::size_t head = 0; head < shape.kv_heads; ++head) {
      const std::span<const float> own(columns.data() + (layer * shape.kv_heads + head) * tokens, tokens);
      model.states[layer * shape.kv_heads + head].add(0, own);
      variances.push_back(VarianceShares::variance(model.table, own));
    }
    metrics.push_back(VarianceShares::metric(variances));
  }
  const std::vector<Members> kept = model.kept();
  const auto hh = one.array("layer_hh_ratio");
  const auto recent = one.array("layer_recent_ratio");
  double worst = 0.0;
  for (std::size_t layer = 0; layer < shape.layers; ++layer) {
    worst = std::max(worst, std::abs(metrics[layer] - one.array("layer_metric").values[layer]));
    const double official = hh.values[layer] + recent.values[layer];
    worst = std::max(worst, std::abs(VarianceShares::share(metrics, layer, even) - official));
    const bool all = layer < 2 || layer + 1 == shape.layers;
    EXPECT_EQ(kept[layer * shape.kv_heads].size(), all ? tokens : static_cast<std::size_t>(official * static_cast<double>(tokens)));
  }
  expect_within(one, "ratios", worst, 1e-5);
}

// ---------------------------------------------------------------- ZipVL's mass, LU-KV's table, KVCrush's blocks

void top_mass(const Case& one) {
  const npy::Array saliency = one.array("saliency");
  const std::size_t rows = saliency.shape.at(1);
  for (const auto& [name, mass] : {std::pair{"count_500", 0.5}, {"count_900", 0.9}, {"count_975", 0.975}, {"count_1000", 1.0}}) {
    const npy::Array official = one.array(name);
    ModelByHand<Evict<GivenScores, TopMass>> model({.budget = rows, .allocator = {.mass = mass}},
                                                   {.query_heads = 3, .kv_heads = 3, .head_dim = 32}, rows);
    for (std::size_t lane = 0; lane < 3; ++lane) {
      const std::vector<float> own = slice(saliency, lane).as<float>();
      model.states[lane].add(0, own);
    }
    const std::vector<Members> kept = model.kept();
    for (std::size_t lane = 0; lane < 3; ++lane) {
      const auto wanted = static_cast<std::size_t>(official.values[lane]);
      EXPECT_LE(kept[lane].size(), wanted) << name;
      if (mass < 1.0) { EXPECT_EQ(kept[lane].size(), wanted) << name; }  // the whole may be reached before the last tiny terms
    }
  }
}
TEST(ZipVL, ReproducesTheOfficialVectors) { conformance::run_cases("zipvl_topmass", {{"top_mass", top_mass}}); }

void pruned_shares(const Case& one) {
  const HeadArray k(one.array("k_postrope"));
  const auto layer = one.get<std::size_t>("layer");
  Shape shape = test::shape_of(k, k, k);
  shape.layers = layer + 1;
  std::vector<float> shares(shape.layers * shape.kv_heads, 0.0F);
  const std::vector<float> own = one.array("prune_ratio_curve_row").as<float>();
  std::copy(own.begin(), own.end(), shares.end() - static_cast<std::ptrdiff_t>(own.size()));
  Cache cache = cache_of<Evict<KeyDifference, PrunedShares>>(shape, {.budget = k.tokens,
                                                                     .sinks = one.get<std::size_t>("sink"),
                                                                     .recent = one.get<std::size_t>("window"),
                                                                     .allocator = {.shares = LoadedNumbers(shares)}});
  cache.append(layer, k.rows(0, k.tokens), k.rows(0, k.tokens));
  cache.end_prompt(layer);
  const auto mask = conformance::matrix(one.array("kept_mask"));
  for (std::size_t head = 0; head < k.heads; ++head) {
    Members official;
    for (reference::Index r = 0; r < mask.cols(); ++r) {
      if (mask(static_cast<reference::Index>(head), r) != 0.0) { official.push_back(r); }
    }
    EXPECT_EQ(members(cache.kept(layer, head)), official) << one.path() << " head " << head;
  }
}
TEST(LUKV, ReproducesTheOfficialVectors) { conformance::run_cases("lukv", {{"curve_budgets", pruned_shares}}); }

void representatives(const Case& one) {
  const auto anchor = one.get<std::string>("anchor");
  constexpr auto names = names_of(Anchor{});
  const auto known = std::find(names.begin(), names.end(), anchor);
  if (known == names.end()) { throw conformance::NotCovered(one.path() + ": anchor " + anchor); }
  const std::vector<float> given = one.array("token_score").as<float>();
  const Vector<float> scores(given.begin(), given.end(), Allocator<float>(Memory{}));
  Vector<std::size_t> eligible{Allocator<std::size_t>(Memory{})};
  for (const double block : one.array("eligible_blocks").values) { eligible.push_back(static_cast<std::size_t>(block)); }
  Crush::Options options{.block = one.get<std::size_t>("block_size"), .anchor = static_cast<Anchor>(known - names.begin())};
  if (options.anchor == Anchor::random) { options.bits = LoadedNumbers(one.array("anchor_point").as<float>()); }  // as it was drawn there
  const auto chosen = Crush::representatives(options, scores, eligible, one.get<std::size_t>("budget_blocks"));
  const auto official = one.array("retained_blocks").values;
  ASSERT_EQ(chosen.size(), official.size());
  for (std::size_t i = 0; i < chosen.size(); ++i) { EXPECT_EQ(static_cast<double>(chosen[i]), official[i]) << one.path() << " " << i; }
}
TEST(KVCrush, ReproducesTheOfficialVectors) { conformance::run_cases("kvcrush", {{"representative_blocks", representatives}}); }

// ---------------------------------------------------------------- FINCH

void question(const Case& one) {
  using S = Watched<QuestionAttention>;
  S::scores.clear();
  const HeadArray q(one.array("q_postrope"));
  const HeadArray k(one.array("k_postrope"));
  const auto window = one.get<std::size_t>("window");
  const std::size_t kept = one.array("kept_idx").shape.at(1);
  const Shape shape = test::shape_of(q, k, k);
  const S::Options scorer{.window = window, .normalize = one.get<bool>("normalize_scores")};
  const auto chunk = one.get<nlohmann::json>("chunk_length");
  Cache cache = chunk.is_null() ? cache_of<Evict<S>>(shape, {.budget = kept, .scorer = scorer})
                                : cache_of<Evict<S, Uniform, BestOfEachChunk>>(
                                      shape, {.budget = kept, .scorer = scorer, .selector = {.length = chunk.get<std::size_t>()}});
  cache.append(0, k.rows(0, k.tokens), k.rows(0, k.tokens));
  attend(cache, 0, q, 0, q.tokens);
  cache.end_prompt(0);
  const auto at = [&](std::size_t head, std::size_t row) {
    return static_cast<double>(S::scores.at(head).at(row)) / static_cast<double>(window * shape.group());
  };
  expect_within(one, "scores", conformance::score_deviation(one, k.heads, window, at), 7e-5);
  conformance::expect_kept(one, cache, 0, k.heads, at, 7e-5);
}
TEST(FINCH, ReproducesTheOfficialVectors) { conformance::run_cases("finch", {{"scores", question}}); }

// ---------------------------------------------------------------- a threshold with a delay

void delayed_threshold(const Case& one) {
  const HeadArray k(one.array("k_postrope"));
  const auto prompt = one.get<std::size_t>("prompt");
  Cache cache = cache_of<DelayedThreshold<KeyNorm>>(
      test::shape_of(k, k, k), {.threshold = one.get<double>("threshold"), .window = one.get<std::size_t>("sliding_window")});
  const std::vector<float> gone = one.array("evicted_total_per_call").as<float>();
  std::size_t tokens = prompt;
  const auto expect_gone = [&](std::size_t call) {
    std::size_t kept = 0;
    for (std::size_t head = 0; head < k.heads; ++head) { kept += cache.kept(0, head).size(); }
    EXPECT_EQ(static_cast<float>(tokens * k.heads - kept), gone.at(call)) << "call " << call;
  };
  const auto expect = [&](const std::string& name) {
    const auto mask = conformance::matrix(one.array(name));
    for (std::size_t head = 0; head < k.heads; ++head) {
      Members official;
      for (reference::Index r = 0; r < mask.cols(); ++r) {
        if (mask(static_cast<reference::Index>(head), r) != 0.0) { official.push_back(r); }
      }
      EXPECT_EQ(members(cache.kept(0, head)), official) << name << " head " << head;
    }
  };
  cache.append(0, k.rows(0, prompt), k.rows(0, prompt));
  cache.end_prompt(0);
  expect_gone(0);
  expect("kept_mask_prompt");
  for (std::size_t step = 1; step <= one.get<std::size_t>("decode_steps"); ++step) {
    cache.append(0, k.rows(tokens, 1), k.rows(tokens, 1));
    cache.commit(0);
    ++tokens;
    expect_gone(step);
  }
  expect("kept_mask_end");
}
TEST(DMS, ReproducesTheOfficialVectors) { conformance::run_cases("dms", {{"delayed_threshold", delayed_threshold}}); }

const conformance::Method methods[]{{"cake", {}}, {"kvcompose", {}}, {"zipvl_topmass", {}}, {"dms", {}},
                                    {"lukv", {}}, {"kvcrush", {}},   {"finch", {}}};

}  // namespace layers_test

void kvcompress::conformance::d2o_layer_shares(const Case& one) { layers_test::shares_of_d2o(one); }
