// tests/reference/snapkv_reference_test.cpp - SnapKV's reference: invariants and official vectors.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "kvcompress/reference/snapkv.hpp"
#include "support/cases.hpp"
#include "support/random_matrix.hpp"

namespace snapkv_reference_test {

using namespace kvcompress;
using reference::HeadReduction;
using reference::Index;
using reference::Matrix;
using reference::Pooling;
using reference::Rows;
using reference::Vector;
using test::random_matrix;

TEST(SnapKVReference, PoolingAtTheEnds) {
  const Vector x{{3.0, 0.0, 0.0, 6.0}};
  EXPECT_EQ(reference::snapkv_pool(x, 1, Pooling::average), x);
  EXPECT_EQ(reference::snapkv_pool(x, 1, Pooling::max), x);
  EXPECT_EQ(reference::snapkv_pool(x, 3, Pooling::average), (Vector{{1.0, 1.0, 2.0, 2.0}}));  // the ends divide by 3 too
  EXPECT_EQ(reference::snapkv_pool(x, 3, Pooling::max), (Vector{{3.0, 3.0, 6.0, 6.0}}));
  EXPECT_EQ(reference::snapkv_pool(-x, 3, Pooling::max), (Vector{{0.0, 0.0, 0.0, 0.0}}));
}

TEST(SnapKVReference, CapacityWindowAndOrder) {
  std::mt19937 rng(1);
  const Matrix k = random_matrix(rng, 40, 8);
  const std::vector<Matrix> q{random_matrix(rng, 40, 8), random_matrix(rng, 40, 8)};
  Rows smaller;
  for (const Index capacity : {5, 12, 39, 40, 41}) {
    const Rows kept = reference::snapkv_select(q, k, {.window = 5, .capacity = capacity, .kernel = 3});
    EXPECT_EQ(kept.size(), static_cast<std::size_t>(std::min(capacity, Index{40})));
    EXPECT_TRUE(std::is_sorted(kept.begin(), kept.end()));
    for (Index row = 35; row < 40; ++row) { EXPECT_TRUE(std::binary_search(kept.begin(), kept.end(), row)); }
    EXPECT_TRUE(std::includes(kept.begin(), kept.end(), smaller.begin(), smaller.end()));  // growing only adds
    smaller = kept;
  }
}

TEST(SnapKVReference, ScoresAreAtMostOnePerQuery) {
  std::mt19937 rng(2);
  const Matrix k = random_matrix(rng, 40, 8);
  const Matrix q = random_matrix(rng, 40, 8);
  EXPECT_LE(reference::snapkv_scores(q, k, 6).sum(), 6.0);
  EXPECT_EQ(reference::snapkv_scores(q, k, 6), reference::snapkv_scores(q.bottomRows(6), k, 6));
}

TEST(SnapKVReference, FindsAPlantedKey) {
  std::mt19937 rng(3);
  const Matrix k = random_matrix(rng, 64, 16);
  Matrix q = random_matrix(rng, 64, 16);
  for (Index i = 60; i < 64; ++i) { q.row(i) = 4.0 * k.row(17); }
  const Rows kept = reference::snapkv_select(std::vector<Matrix>{q}, k, {.window = 4, .capacity = 7, .kernel = 1});
  EXPECT_TRUE(std::binary_search(kept.begin(), kept.end(), Index{17}));
}

HeadReduction reduction_of(const conformance::Case& one) {
  const nlohmann::json given = one.params.value("reduction", nlohmann::json());
  const std::string name = given.is_string() ? given.get<std::string>() : "mean";
  if (name != "mean" && name != "max" && name != "sum") { throw conformance::NotCovered(one.path() + ": " + name); }
  return name == "max" ? HeadReduction::max : name == "sum" ? HeadReduction::sum : HeadReduction::mean;
}

Pooling pooling_of(const conformance::Case& one) {
  const std::string name = one.get<std::string>("pooling");
  if (name != "avg" && name != "max") { throw conformance::NotCovered(one.path() + ": pooling " + name); }
  return name == "avg" ? Pooling::average : Pooling::max;
}

// Average pooling: the same rows. Max pooling has exact ties across the cut, so the selected pooled scores
// must agree, and whatever scores above the cut must be there.
void compare_selection(const Rows& official, const Rows& kept, const Vector& pooled, Index selected, Pooling pooling) {
  ASSERT_EQ(official.size(), kept.size());
  if (pooling == Pooling::average) {
    EXPECT_EQ(official, kept);
    return;
  }
  std::vector<double> theirs;
  std::vector<double> ours;
  for (std::size_t i = 0; i < static_cast<std::size_t>(selected); ++i) {
    theirs.push_back(pooled(official[i]));
    ours.push_back(pooled(kept[i]));
  }
  std::sort(theirs.begin(), theirs.end());
  std::sort(ours.begin(), ours.end());
  for (std::size_t i = 0; i < ours.size(); ++i) { EXPECT_NEAR(theirs[i], ours[i], 5e-6); }
  for (Index j = 0; j < pooled.size(); ++j) {
    if (ours.empty() || pooled(j) <= ours.front() + 5e-6) { continue; }
    EXPECT_TRUE(std::binary_search(official.begin(), official.end(), j)) << "row " << j << " is above the cut";
  }
}

void prompt(const conformance::Case& one) {
  const auto q = conformance::heads(one.array("q_postrope"));
  const auto k = conformance::heads(one.array("k_postrope"));
  const Matrix stored = conformance::matrix(one.array("idx_storage_order"));
  const auto k_out = conformance::heads(one.array("k_out"));
  const reference::SnapKVOptions options{.window = one.get<Index>("window"),
                                         .capacity = one.get<Index>("capacity"),
                                         .kernel = one.get<Index>("kernel"),
                                         .pooling = pooling_of(one),
                                         .reduction = reduction_of(one)};
  const std::size_t lanes = one.get<std::string>("granularity") == "kv_head" ? k.size() : q.size();
  const std::size_t group = q.size() / lanes;
  ASSERT_EQ(static_cast<std::size_t>(stored.rows()), lanes);
  double worst_sum = 0.0;
  double worst_pooled = 0.0;
  for (std::size_t lane = 0; lane < lanes; ++lane) {
    const auto row = static_cast<Index>(lane);
    const Matrix& keys = k[lane * k.size() / lanes];
    const std::span<const Matrix> queries = std::span(q).subspan(lane * group, group);
    const Rows kept = reference::snapkv_select(queries, keys, options);
    Rows official;
    for (Index i = 0; i < stored.cols(); ++i) {
      official.push_back(static_cast<Index>(stored(row, i)));
      EXPECT_EQ(keys.row(official.back()), k_out[lane].row(i));
    }
    if (keys.rows() < options.capacity) {
      EXPECT_EQ(official, kept);
      continue;
    }
    for (Index i = 0; i < options.window; ++i) {  // the window lies last in the official storage
      EXPECT_EQ(official[static_cast<std::size_t>(options.capacity - options.window + i)], keys.rows() - options.window + i);
    }
    std::vector<Vector> scores;
    for (const Matrix& head : queries) { scores.push_back(reference::snapkv_scores(head, keys, options.window)); }
    const Vector sum = reference::reduce_heads(scores, options.reduction);
    const Vector pooled = reference::snapkv_pool(sum, options.kernel, options.pooling);
    const std::string sum_name = one.has("score_sum") ? "score_sum" : "score_grouped_before_pool";
    if (one.has(sum_name)) {
      worst_sum = std::max(worst_sum, conformance::deviation(sum.transpose(), conformance::matrix(one.array(sum_name)).row(row)));
    }
    if (one.has("score_pooled")) {
      worst_pooled =
          std::max(worst_pooled, conformance::deviation(pooled.transpose(), conformance::matrix(one.array("score_pooled")).row(row)));
    }
    std::sort(official.begin(), official.end());
    compare_selection(official, kept, pooled, options.capacity - options.window, options.pooling);
  }
  conformance::expect_within(one, "scores before pooling", worst_sum, 5e-6);
  conformance::expect_within(one, "pooled scores", worst_pooled, 5e-6);
}

// kvpress: the mean over the window's queries, average pooling per query head, then the mean over the query
// heads.
void scores(const conformance::Case& one) {
  const auto q = conformance::heads(one.array("q_postrope"));
  const auto k = conformance::heads(one.array("k_postrope"));
  const Matrix expected = conformance::matrix(one.any({"score", "scores"}));
  const Index window = one.get<Index>("window");
  const std::size_t group = q.size() / k.size();
  double worst = 0.0;
  for (std::size_t kv = 0; kv < k.size(); ++kv) {
    std::vector<Vector> pooled;
    for (std::size_t h = kv * group; h < (kv + 1) * group; ++h) {
      const Vector sum = reference::snapkv_scores(q[h], k[kv], window);
      pooled.push_back(reference::snapkv_pool(sum / static_cast<double>(window), one.get<Index>("kernel"), Pooling::average));
    }
    const Vector mean = reference::reduce_heads(pooled, HeadReduction::mean);
    const Matrix official = expected.row(static_cast<Index>(kv)).head(mean.size());  // the window follows, above all others
    worst = std::max(worst, conformance::deviation(mean.transpose(), official));
  }
  conformance::expect_within(one, "scores", worst, 5e-6);
}

TEST(SnapKVReference, OfficialVectors) { conformance::run_cases("snapkv", {{"prompt", prompt}, {"scores", scores}, {"score", scores}}); }

}  // namespace snapkv_reference_test
