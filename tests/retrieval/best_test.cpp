// tests/retrieval/best_test.cpp - the units with the largest scores are those that sorting finds.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "kvcompress/retrieval/best.hpp"

namespace best_test {

using namespace kvcompress;

std::vector<Position> best_by_sorting(std::vector<Position> units, std::size_t count, const std::vector<float>& scores) {
  std::stable_sort(units.begin(), units.end(), [&](Position a, Position b) { return scores[a] > scores[b]; });
  units.resize(std::min(count, units.size()));
  std::sort(units.begin(), units.end());
  return units;
}
void expect_best(const std::vector<Position>& from, std::size_t count, const std::vector<float>& scores) {
  Vector<Position> units(from.begin(), from.end(), Allocator<Position>(Memory{}));
  detail::keep_best_units(units, count, scores.data());
  EXPECT_EQ(std::vector<Position>(units.begin(), units.end()), best_by_sorting(from, count, scores)) << count << " of " << from.size();
}

TEST(BestUnits, AreThoseThatSortingFinds) {
  std::mt19937 rng(1);
  std::normal_distribution<float> normal;
  for (const std::size_t size : {1UL, 100UL, 2048UL, 5000UL, 20000UL}) {
    std::vector<float> scores(size);
    std::vector<Position> all(size);
    std::iota(all.begin(), all.end(), Position{0});
    std::vector<Position> some;
    for (const Position unit : all) {
      if (rng() % 3 != 0) { some.push_back(unit); }
    }
    const auto expect_at_all_counts = [&] {
      for (const std::size_t count : {0UL, 1UL, 2UL, 127UL, size / 4, size - 1, size}) {
        expect_best(all, count, scores);
        if (!some.empty()) { expect_best(some, count, scores); }
      }
    };
    for (float& x : scores) { x = normal(rng); }
    expect_at_all_counts();
    for (float& x : scores) { x = static_cast<float>(rng() % 3); }  // ties
    expect_at_all_counts();
    std::fill(scores.begin(), scores.end(), 1.0F);
    expect_at_all_counts();
    std::iota(scores.begin(), scores.end(), -5.0F);  // a sample at equal steps sees such scores best,
    expect_at_all_counts();
    for (std::size_t i = 0; i < size; ++i) {
      scores[i] = i % std::max<std::size_t>(1, size / 512) == 0 ? normal(rng) : -100.0F;
    }  // and these worst
    expect_at_all_counts();
    scores[size / 2] = -std::numeric_limits<float>::infinity();
    scores[size - 1] = std::numeric_limits<float>::infinity();
    expect_at_all_counts();
  }
}

}  // namespace best_test
