// tests/conformance/scores_of_prompts_test.cpp - scorers that keep the queries of a prompt, and windows that layers share, against the official
// implementations.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include "kvcompress/any/any_cache.hpp"
#include "kvcompress/eviction/allocators/prompt_table.hpp"
#include "kvcompress/eviction/allocators/threshold.hpp"
#include "kvcompress/eviction/scorers/blended_leverage.hpp"
#include "kvcompress/eviction/scorers/grid_logits.hpp"
#include "kvcompress/eviction/scorers/largest_window_attention.hpp"
#include "kvcompress/eviction/scorers/query_alignment.hpp"
#include "kvcompress/eviction/scorers/redundant_keys.hpp"
#include "kvcompress/eviction/shared_windows.hpp"
#include "kvcompress/policies/lookm.hpp"
#include "support/eviction_cases.hpp"

namespace scores_of_prompts_test {

using namespace kvcompress;
using conformance::Case;
using conformance::expect_within;
using conformance::Members;
using conformance::members;
using conformance::Watched;
using test::HeadArray;

/// A cache of exact rows, whose driver is compiled once for all cases.
template <class E>
AnyCache cache_of(const Shape& shape, const typename E::Options& eviction) {
  AnyCache::Options options;
  options.eviction.chosen = {{AnyEviction::of<E>(eviction)}, {}};
  options.storage = AnyStorage::all_of<ExactStorage<float>>();
  return AnyCache(shape, options);
}
/// One layer's prompt, with a query for each of its last rows.
void prompt(AnyCache& cache, const HeadArray& q, const HeadArray& k, const HeadArray& v, std::size_t layer = 0) {
  HeadArray out(q.heads, q.tokens, v.dim);
  cache.append(layer, k.rows(0, k.tokens), v.rows(0, v.tokens));
  cache.attend(layer, q.rows(0, q.tokens), Output(out.data.data(), q.tokens, out.heads, out.dim, out.dim, out.tokens * out.dim));
  cache.end_prompt(layer);
}

/// Scores of all rows, or of those that `guarded` does not name, and kept rows. `watched`: the last scores that were compared, by head.
template <class E>
void expect_scores(const Case& one, const Shape& shape, const typename E::Options& options, const HeadArray& q, const HeadArray& k,
                   const char* official, double bound, std::size_t first, std::size_t last, auto&& watched) {
  AnyCache cache = cache_of<E>(shape, options);
  prompt(cache, q, k, HeadArray(one.array("v")));
  const auto scores = conformance::matrix(one.array(official));
  const auto at = [&](std::size_t head, std::size_t row) {
    const bool guarded = row < first || row + last >= k.tokens;
    return guarded ? 3.4e38 : static_cast<double>(watched(head).at(row));
  };
  double worst = 0.0;
  for (std::size_t head = 0; head < k.heads; ++head) {
    for (std::size_t row = first; row + last < k.tokens; ++row) {
      worst = std::max(worst, std::abs(at(head, row) - scores(static_cast<reference::Index>(head), static_cast<reference::Index>(row))));
    }
  }
  expect_within(one, "scores", worst, bound);
  if (std::string_view(official) == "score") { return conformance::expect_kept(one, cache, 0, k.heads, at, 0.0); }
  // The official rows are those of faulty scores: here they must be the best by the repaired ones.
  for (std::size_t head = 0; head < k.heads; ++head) {
    Members best(k.tokens);
    std::iota(best.begin(), best.end(), 0);
    const auto value = [&](std::int64_t row) {
      const auto r = static_cast<std::size_t>(row);
      const bool guarded = r < first || r + last >= k.tokens;
      return guarded ? 3.4e38 : scores(static_cast<reference::Index>(head), static_cast<reference::Index>(row));
    };
    std::stable_sort(best.begin(), best.end(), [&](std::int64_t a, std::int64_t b) { return value(a) > value(b); });
    best.resize(one.get<std::size_t>("n_kept"));
    std::sort(best.begin(), best.end());
    conformance::expect_same_set(
        one.path() + " head " + std::to_string(head), members(cache.kept(0, head)), best, [&](std::int64_t row) { return value(row); },
        bound);
  }
}

/// A scorer that remembers what it made of the sets of a layer.
template <class S>
struct Compared : S {
  static inline std::vector<std::vector<float>> scores{};

  static void compare(const typename S::Options& options, std::span<RowSet> sets, std::span<const std::span<float>> all,
                      const Moment& moment) {
    S::compare(options, sets, all, moment);
    scores.clear();
    for (const std::span<float> own : all) { scores.emplace_back(own.begin(), own.end()); }
  }
};

void non_causal(const Case& one) {
  using S = Compared<NonCausalAttention>;
  const HeadArray q(one.array("q_postrope"));
  const HeadArray k(one.array("k_postrope"));
  Shape shape = test::shape_of(q, k, k);
  expect_scores<Evict<S>>(one, shape, {.budget = one.get<std::size_t>("n_kept"), .scorer = {.chunk = one.get<std::size_t>("chunk_size")}},
                          q, k, one.has("score_fixed") ? "score_fixed" : "score", 3e-5, 0, 0,
                          [](std::size_t head) -> const std::vector<float>& { return S::scores.at(head); });
}
TEST(NonCausalAttention, ReproducesTheOfficialVectors) { conformance::run_cases("non_causal_attention", {{"scores", non_causal}}); }

void compactor(const Case& one) {
  using S = Compared<BlendedLeverage>;
  const HeadArray q(one.array("q_postrope"));
  const HeadArray k(one.array("k_postrope"));
  Shape shape = test::shape_of(q, k, k);
  shape.rope.theta = one.get<nlohmann::json>("rope").at("base").get<double>();
  const auto blending = one.get<nlohmann::json>("blending");
  const std::vector<float> sketch = one.array("sketch_phi").as<float>();
  const auto first = one.get<std::size_t>("sink_size_start");
  const auto last = one.get<std::size_t>("sink_size_end");
  const BlendedLeverage::Options scorer{.first_rows = first,
                                        .last_rows = last,
                                        .chunk = one.get<std::size_t>("chunk_size"),
                                        .blending = blending.is_null() ? one.get<double>("compression_ratio") : blending.get<double>(),
                                        .leverage = {.rank = one.get<std::size_t>("sketch_dimension"), .sketch = LoadedNumbers(sketch)}};
  expect_scores<Evict<S>>(one, shape, {.budget = one.get<std::size_t>("n_kept"), .scorer = scorer}, q, k,
                          one.has("score_fixed") ? "score_fixed" : "score", 2e-4, first, last,
                          [](std::size_t head) -> const std::vector<float>& { return S::scores.at(head); });
}
TEST(Compactor, ReproducesTheOfficialVectors) { conformance::run_cases("compactor", {{"scores", compactor}}); }

void alignment(const Case& one) {
  using S = Watched<QueryAlignment>;
  S::scores.clear();
  const HeadArray k(one.array("k_postrope"));
  const HeadArray q = conformance::rotated_queries(one);
  Shape shape = test::shape_of(q, k, k);
  shape.rope.theta = one.get<nlohmann::json>("rope").at("base").get<double>();
  const auto first = one.get<std::size_t>("n_sink");
  expect_scores<Evict<S>>(one, shape,
                          {.budget = one.get<std::size_t>("n_kept"),
                           .scorer = {.future = one.get<std::size_t>("n_future_positions"),
                                      .first_rows = first,
                                      .sharpness = one.get<double>("tau"),
                                      .epsilon = one.get<double>("epsilon")}},
                          q, k, "score", 2e-6, first, 0, [](std::size_t head) -> const std::vector<float>& { return S::scores.at(head); });
}
TEST(CapKV, ReproducesTheOfficialVectors) { conformance::run_cases("cap", {{"scores", alignment}}); }

// ---------------------------------------------------------------- ScaleKV

void grid_window(const Case& one) {
  using S = Watched<GridLogits>;
  S::scores.clear();
  const HeadArray q(one.array("q"));
  const HeadArray k(one.array("k"));
  const auto pooling = one.get<std::string>("pooling");
  if (pooling != "maxpool" && pooling != "avgpool") { throw conformance::NotCovered(one.path() + ": pooling " + pooling); }
  const auto window = one.get<std::size_t>("window");
  AnyCache cache = cache_of<Evict<S>>(
      test::shape_of(q, k, k),
      {.budget = one.get<std::size_t>("capacity"),
       .scorer = {
           .window = window, .kernel = one.get<std::size_t>("kernel"), .pooling = pooling == "maxpool" ? Pooling::max : Pooling::average}});
  prompt(cache, q, k, k);
  const auto map = one.get<std::size_t>("current_map");
  ASSERT_EQ(map, q.tokens);
  const auto grid = GridLogits::grid(window, map, Memory{});
  const auto official_grid = conformance::matrix(one.array("window_idx"));
  const auto scores = conformance::matrix(one.array("pooled_score"));
  const auto kept = conformance::matrix(one.array("kept_idx"));
  double worst = 0.0;
  for (std::size_t head = 0; head < k.heads; ++head) {
    const auto index = static_cast<reference::Index>(head);
    ASSERT_EQ(static_cast<std::size_t>(official_grid.cols()), grid.size());
    for (std::size_t i = 0; i < grid.size(); ++i) {
      EXPECT_EQ(static_cast<double>(grid[i]) + static_cast<double>(k.tokens - map), official_grid(index, static_cast<reference::Index>(i)));
    }
    for (std::size_t row = 0; row < k.tokens; ++row) {
      const double official = scores(index, static_cast<reference::Index>(row));
      if (official > -1e37) { worst = std::max(worst, std::abs(static_cast<double>(S::scores.at(head).at(row)) - official)); }
    }
    conformance::expect_same_set(
        one.path() + " head " + std::to_string(head), members(cache.kept(0, head)), members(kept.row(index).eval().reshaped()),
        [&](std::int64_t row) { return static_cast<double>(S::scores.at(head).at(static_cast<std::size_t>(row))); },
        one.params.at("tolerance").at("pooled_score_abs").get<double>());
  }
  expect_within(one, "scores", worst, one.params.at("tolerance").at("pooled_score_abs").get<double>());
}
void prompt_table(const Case& one) {
  const std::vector<float> rows = PromptTable::rows_of(one.array("drafter_flag").as<float>(), one.array("min_max").as<float>());
  EXPECT_EQ(std::vector<double>(rows.begin(), rows.end()), one.array("capacity").values);
}
TEST(ScaleKV, ReproducesTheOfficialVectors) {
  conformance::run_cases("scalekv", {{"grid_window", grid_window}, {"budget_table", prompt_table}});
}

// ---------------------------------------------------------------- WindowKV

struct WatchedWindows : SharedWindows {
  static inline std::map<std::size_t, std::vector<double>> of_layer{};
  static void select(const Options& options, std::span<RowSet> sets, const Moment& moment) {
    for (RowSet& set : sets) {
      const Vector<double> all = worths(options, set, moment);
      of_layer[set.lanes.front().site.layer].assign(all.begin(), all.end());
    }
    SharedWindows::select(options, sets, moment);
  }
};
void shared_windows(const Case& one) {
  const HeadArray k(one.array("k_postrope"));
  const npy::Array queries = one.array("q_suffix_postrope");
  const auto suffix = one.get<std::size_t>("suffix");
  const auto strategy = one.get<std::string>("strategy");
  if (strategy != "average" && strategy != "max") { throw conformance::NotCovered(one.path() + ": strategy " + strategy); }
  const auto layers = one.get<std::size_t>("layers");
  const auto tested = one.get<std::vector<std::size_t>>("tested_layers");
  const SharedWindows::Options options{.budget = one.get<std::size_t>("capacity") + suffix,
                                       .suffix = suffix,
                                       .window = one.get<std::size_t>("window"),
                                       .worth = strategy == "max" ? WindowWorth::max : WindowWorth::average,
                                       .shared = one.get<std::size_t>("shared_layers"),
                                       .beta = one.get<std::size_t>("beta")};
  const std::vector<double> budgets = one.array("layer_budget").values;
  Shape shape = test::shape_of(HeadArray(queries.shape.at(1), 1, k.dim), k, k);
  shape.layers = layers;
  AnyCache cache = cache_of<WatchedWindows>(shape, options);
  const std::size_t numbers = queries.values.size() / queries.shape.at(0);
  for (std::size_t layer = 0; layer < layers; ++layer) {
    EXPECT_EQ(static_cast<double>(SharedWindows::rows_of_layer(options, options.budget.rows_of, layer, layers) - suffix), budgets.at(layer))
        << "layer " << layer;
    const auto place = static_cast<std::size_t>(std::find(tested.begin(), tested.end(), layer) - tested.begin()) % tested.size();
    const auto first = queries.values.begin() + static_cast<std::ptrdiff_t>(place * numbers);
    prompt(cache, HeadArray({{queries.shape.begin() + 1, queries.shape.end()}, {first, first + static_cast<std::ptrdiff_t>(numbers)}}), k,
           k, layer);
  }
  double worst = 0.0;
  for (const std::size_t layer : tested) {
    const std::string of_layer = "_layer" + std::to_string(layer);
    for (std::size_t head = 0; head < k.heads; ++head) {
      EXPECT_EQ(members(cache.kept(layer, head)), members(one.array("kept" + of_layer).values)) << one.path() << " layer " << layer;
    }
    if (!one.has("window_score" + of_layer)) { continue; }
    const std::vector<double> official = one.array("window_score" + of_layer).values;
    ASSERT_EQ(WatchedWindows::of_layer.at(layer).size(), official.size());
    for (std::size_t w = 0; w < official.size(); ++w) {
      worst = std::max(worst, std::abs(WatchedWindows::of_layer.at(layer)[w] - official[w]));
    }
  }
  expect_within(one, "worth of windows", worst, 2e-5);
}
TEST(WindowKV, ReproducesTheOfficialVectors) { conformance::run_cases("windowkv", {{"window_selection", shared_windows}}); }

// ---------------------------------------------------------------- R-KV

/// Each event by hand. The attention is that of the largest logit of the group, as there, handed in as that of one query head.
void compaction(const Case& one) {
  using E = Evict<Watched<RedundantKeys>>;
  const HeadArray k(one.array("k_postrope"));
  const npy::Array queries = one.array("q_window_postrope");  // (events, query heads, window, channels)
  const std::size_t group = queries.shape.at(1) / k.heads;
  const auto window = one.get<std::size_t>("window");
  const auto share = one.get<double>("mix_lambda");
  if (one.get<std::string>("retain_direction") != "last") { throw conformance::NotCovered(one.path() + ": retain_direction"); }
  const E::Options options{
      .budget = one.get<std::size_t>("budget"),
      .scorer = {
          .window = window, .kernel = one.get<std::size_t>("kernel"), .attention_share = share, .threshold = one.get<double>("threshold")}};
  const Shape shape{.query_heads = 1, .kv_heads = 1, .head_dim = k.dim};
  std::vector<Members> rows(k.heads);
  double worst = 0.0;
  for (std::size_t event = 0; event < one.get<std::size_t>("events"); ++event) {
    const std::string number = "_" + std::to_string(event);
    const auto attention = conformance::matrix(one.array("window_attention_pooled" + number));
    const auto redundancy = conformance::matrix(one.array("redundancy_fixed" + number));
    const auto official = conformance::matrix(one.array("kept_tokens" + number));
    for (std::size_t head = 0; head < k.heads; ++head) {
      Members& own = rows[head];
      const std::size_t arrive = event == 0 ? one.get<std::size_t>("first_call_at") : one.get<std::size_t>("buffer");
      for (std::size_t i = 0; i < arrive; ++i) { own.push_back(own.empty() ? 0 : own.back() + 1); }
      conformance::LaneByHand<E> lane(options, shape, 0);
      std::vector<float> keys;
      for (const std::int64_t row : own) {
        lane.table.append(static_cast<Position>(row));
        for (std::size_t c = 0; c < k.dim; ++c) { keys.push_back(k.at(head, static_cast<std::size_t>(row), c)); }
      }
      lane.state.resize(own.size());
      lane.keys = keys.data();
      for (std::size_t q = 0; q < window; ++q) {
        std::vector<double> logits(own.size(), -1e300);
        double sum = 0.0;
        for (std::size_t r = 0; r < own.size(); ++r) {
          for (std::size_t h = head * group; h < (head + 1) * group; ++h) {
            double dot = 0.0;
            for (std::size_t c = 0; c < k.dim; ++c) {
              dot += queries.values[((event * queries.shape[1] + h) * window + q) * k.dim + c] * static_cast<double>(keys[r * k.dim + c]);
            }
            logits[r] = std::max(logits[r], dot / std::sqrt(static_cast<double>(k.dim)));
          }
        }
        for (const double logit : logits) { sum += std::exp(logit); }
        std::vector<float> probabilities;
        for (const double logit : logits) { probabilities.push_back(static_cast<float>(std::exp(logit) / sum)); }
        E::observe(options, lane.state, 0, probabilities);
      }
      Watched<RedundantKeys>::scores.clear();
      const Members kept = lane.kept();
      const auto index = static_cast<reference::Index>(head);
      std::vector<double> expected;
      for (std::size_t r = 0; r + window < own.size(); ++r) {
        const auto column = static_cast<reference::Index>(r);
        expected.push_back(share * attention(index, column) - (1.0 - share) * redundancy(index, column));
        worst = std::max(worst, std::abs(static_cast<double>(Watched<RedundantKeys>::scores.at(0).at(r)) - expected.back()));
      }
      Members stay;
      for (const std::int64_t row : kept) { stay.push_back(own[static_cast<std::size_t>(row)]); }
      own = stay;
      EXPECT_EQ(stay, members(official.row(index).eval().reshaped())) << one.path() << " event " << event << " head " << head;
    }
  }
  expect_within(one, "scores", worst, 3e-7);
}
TEST(RKV, ReproducesTheOfficialVectors) { conformance::run_cases("rkv", {{"decode_compaction", compaction}}); }

// ---------------------------------------------------------------- MPCache, its static step

/// By hand, since there logits are not divided and queries see later rows: two heads of one layer, as two query heads.
void static_step(const Case& one) {
  using E = Evict<Watched<LargestWindowAttention>, Threshold>;
  const HeadArray q(one.array("q_observed"));
  const HeadArray k(one.array("k"));
  const auto prompt_rows = one.get<std::size_t>("prompt");
  conformance::LaneByHand<E> lane(
      {.budget = prompt_rows, .scorer = {.window = q.tokens}, .allocator = {.threshold = one.get<double>("threshold")}},
      {.query_heads = q.heads, .kv_heads = 1, .head_dim = k.dim}, prompt_rows);
  for (std::size_t t = 0; t < q.tokens; ++t) {
    for (std::size_t head = 0; head < q.heads; ++head) {
      std::vector<double> logits(prompt_rows, 0.0);
      for (std::size_t r = 0; r < prompt_rows; ++r) {
        for (std::size_t c = 0; c < k.dim; ++c) {
          logits[r] += static_cast<double>(q.at(head, t, c)) * static_cast<double>(k.at(head * k.heads / q.heads, r, c));
        }
      }
      const double largest = *std::max_element(logits.begin(), logits.end());
      double sum = 0.0;
      for (const double logit : logits) { sum += std::exp(logit - largest); }
      std::vector<float> probabilities;
      for (const double logit : logits) { probabilities.push_back(static_cast<float>(std::exp(logit - largest) / sum)); }
      E::observe(lane.options, lane.state, head, probabilities);
    }
  }
  EXPECT_EQ(lane.kept(), members(one.array("static_kept").values)) << one.path();
  throw conformance::NotCovered(one.path() + ": the clusters of the dynamic step (the rows that stay are right)");
}
TEST(MPCache, KeepsTheOfficialRows) { conformance::run_cases("mpcache", {{"two_stage", static_step}}); }

// ---------------------------------------------------------------- LOOK-M as a policy; its cases are run where rows are merged

TEST(LookM, KeepsTextBeforeImages) {
  const HeadArray rows(2, 60, 8);
  const Shape shape = test::shape_of(rows, rows, rows);
  const auto kept = [&](std::vector<float> images) {
    LookM::Eviction::Options options;
    EXPECT_EQ(options.fate.weights, MergeWeights::pivot);
    options.budget = 30;
    options.recent = 5;
    options.scorer.images = LoadedNumbers(images);
    AnyCache cache = cache_of<LookM::Eviction>(shape, options);
    prompt(cache, rows, rows, rows);  // all rows are alike: what was seen longest stays
    return members(cache.kept(0, 1));
  };
  Members expected(25);
  std::iota(expected.begin(), expected.end(), 0);
  for (std::int64_t row = 55; row < 60; ++row) { expected.push_back(row); }
  EXPECT_EQ(kept({}), expected);
  for (std::int64_t row = 10; row < 25; ++row) { expected[static_cast<std::size_t>(row)] = row + 15; }
  EXPECT_EQ(kept({10.0F, 25.0F}), expected);
  for (std::int64_t row = 0; row < 25; ++row) { expected[static_cast<std::size_t>(row)] = row < 20 ? row + 35 : row - 20; }
  std::sort(expected.begin(), expected.end());
  EXPECT_EQ(kept({0.0F, 7.0F, 7.0F, 35.0F}), expected);  // too little text: the best rows of images
  try {
    kept({10.0F, 10.0F});
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "kvcompress: text_first: image 0 is from 10 to 10, must be from 0 or more to a larger position below 2^24");
  }
}

const conformance::Method methods[]{
    {"non_causal_attention", {}}, {"compactor", {}}, {"cap", {}}, {"scalekv", {}}, {"windowkv", {}}, {"rkv", {}}, {"mpcache", {}}};

}  // namespace scores_of_prompts_test
