// tests/reference/quest_reference_test.cpp - Quest's reference: invariants.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

#include "kvcompress/reference/quest.hpp"
#include "support/random_matrix.hpp"

namespace quest_reference_test {

using namespace kvcompress;
using reference::Index;
using reference::Matrix;
using reference::QuestRule;
using reference::Rows;
using reference::Vector;
using test::random_matrix;

TEST(QuestReference, NoLogitOfAPageExceedsItsBound) {
  std::mt19937 rng(1);
  const Matrix keys = random_matrix(rng, 45, 8);
  const auto pages = reference::quest_pages(keys, 8);
  ASSERT_EQ(pages.minimum.rows(), 6);
  for (int trial = 0; trial < 20; ++trial) {
    const Matrix q = random_matrix(rng, 1, 8);
    for (Index t = 0; t < keys.rows(); ++t) { EXPECT_LE(keys.row(t).dot(q.row(0)), reference::quest_bound(q, pages, t / 8) + 1e-12); }
  }
  EXPECT_EQ(reference::quest_bound(Matrix::Zero(1, 8), pages, 0), 0.0);
}

TEST(QuestReference, PagesOfOneTokenHaveTheirLogitAsBound) {
  std::mt19937 rng(2);
  const Matrix keys = random_matrix(rng, 20, 8);
  const Matrix q = random_matrix(rng, 1, 8);
  const Vector bounds = reference::quest_bounds(std::vector<Matrix>{q}, reference::quest_pages(keys, 1));
  for (Index t = 0; t < keys.rows(); ++t) { EXPECT_NEAR(bounds(t), keys.row(t).dot(q.row(0)), 1e-12); }
}

TEST(QuestReference, AlignedQueriesTakeTheExtremesOfThePage) {
  const Matrix keys{{1.0, -2.0}, {3.0, 0.5}, {-1.0, 4.0}};
  const auto pages = reference::quest_pages(keys, 2);
  EXPECT_EQ(pages.minimum, (Matrix{{1.0, -2.0}, {-1.0, 4.0}}));
  EXPECT_EQ(pages.maximum, (Matrix{{3.0, 0.5}, {-1.0, 4.0}}));
  EXPECT_EQ(reference::quest_bound(Matrix{{2.0, -1.0}}, pages, 0), 8.0);  // 2 * 3 - 1 * -2
  EXPECT_EQ(reference::quest_bound(Matrix{{2.0, -1.0}}, pages, 1), -6.0);
}

TEST(QuestReference, CountsPagesAsTheOfficialRules) {
  const reference::QuestOptions evaluation{.page = 16, .budget = 64};
  EXPECT_EQ(reference::quest_page_count(1000, evaluation), 4);
  EXPECT_EQ(reference::quest_page_count(61, evaluation), 3);  // of 4: the floor counts tokens, not pages
  EXPECT_EQ(reference::quest_page_count(40, evaluation), 3);  // at least 3
  EXPECT_EQ(reference::quest_page_count(17, evaluation), 2);
  EXPECT_EQ(reference::quest_page_count(1000, {.page = 16, .budget = 20}), 3);
  const reference::QuestOptions kernels{.page = 16, .budget = 64, .rule = QuestRule::kernels};
  EXPECT_EQ(reference::quest_page_count(1000, kernels), 4);
  EXPECT_EQ(reference::quest_page_count(61, kernels), 4);
  EXPECT_EQ(reference::quest_page_count(1000, {.page = 16, .budget = 20, .rule = QuestRule::kernels}), 1);
}

TEST(QuestReference, KernelsAlwaysReadTheNewestPage) {
  const Vector bounds{{1.0, 5.0, 3.0, 5.0, 0.0}};
  const reference::QuestOptions evaluation{.page = 2, .budget = 6};
  const reference::QuestOptions kernels{.page = 2, .budget = 6, .rule = QuestRule::kernels};
  EXPECT_EQ(reference::quest_select(bounds, 9, evaluation), (Rows{1, 2, 3}));
  EXPECT_EQ(reference::quest_select(bounds, 9, kernels), (Rows{1, 3, 4}));
  EXPECT_EQ(reference::quest_select(bounds, 9, {.page = 2, .budget = 4, .rule = QuestRule::kernels}),
            (Rows{1, 4}));  // ties: the lower page
  EXPECT_EQ(reference::quest_rows({1, 4}, 9, 2), (Rows{2, 3, 8}));
}

TEST(QuestReference, GroupsTakeTheLargestBoundOfTheirHeads) {
  std::mt19937 rng(3);
  const auto pages = reference::quest_pages(random_matrix(rng, 64, 8), 8);
  const std::vector<Matrix> one{random_matrix(rng, 1, 8)};
  const std::vector<Matrix> other{random_matrix(rng, 1, 8)};
  const Vector both = reference::quest_bounds(std::vector<Matrix>{one[0], other[0]}, pages);
  for (Index p = 0; p < both.size(); ++p) {
    EXPECT_EQ(both(p), std::max(reference::quest_bounds(one, pages)(p), reference::quest_bounds(other, pages)(p)));
  }
  EXPECT_EQ(reference::quest_bounds(std::vector<Matrix>{one[0], one[0]}, pages), reference::quest_bounds(one, pages));
}

TEST(QuestReference, LargerBudgetsOnlyAddAndTheWholeCacheIsFullAttention) {
  std::mt19937 rng(4);
  const Matrix keys = random_matrix(rng, 77, 8);
  const Matrix values = random_matrix(rng, 77, 5);
  const std::vector<Matrix> q{random_matrix(rng, 1, 8)};
  const Vector bounds = reference::quest_bounds(q, reference::quest_pages(keys, 8));
  for (const QuestRule rule : {QuestRule::evaluation, QuestRule::kernels}) {
    Rows smaller;
    for (Index budget = 8; budget <= 96; budget += 8) {
      const Rows pages = reference::quest_select(bounds, 77, {.page = 8, .budget = budget, .rule = rule});
      EXPECT_TRUE(std::includes(pages.begin(), pages.end(), smaller.begin(), smaller.end()));
      smaller = pages;
    }
    EXPECT_EQ(smaller.size(), rule == QuestRule::kernels ? 10U : 9U);  // 77 tokens make 9 whole pages
  }
  Rows all(10);
  std::iota(all.begin(), all.end(), Index{0});
  const auto expected = reference::attention(q[0], keys, values, reference::consecutive(76, 1), reference::consecutive(0, 77));
  EXPECT_EQ(reference::quest_attend(q[0], keys, values, all, 8).output, expected.output);
}

TEST(QuestReference, FindsAPlantedKey) {
  std::mt19937 rng(5);
  Matrix keys = random_matrix(rng, 128, 16);
  keys.row(42) *= 3.0;
  const std::vector<Matrix> q{2.0 * keys.row(42)};
  const Vector bounds = reference::quest_bounds(q, reference::quest_pages(keys, 4));
  const Rows pages = reference::quest_select(bounds, 128, {.page = 4, .budget = 12});
  ASSERT_TRUE(std::binary_search(pages.begin(), pages.end(), Index{10}));
  const Matrix actual = reference::quest_attend(q[0], keys, keys, pages, 4).output;
  for (Index c = 0; c < 16; ++c) { EXPECT_NEAR(actual(0, c), keys(42, c), 1e-3); }
}

}  // namespace quest_reference_test
