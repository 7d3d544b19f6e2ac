// tests/eviction/row_set_test.cpp - RowSet::keep_best against the definition: scores of any type, ties, infinities.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <random>
#include <vector>

#include "kvcompress/eviction/row_set.hpp"

namespace {

using namespace kvcompress;

/// Which rows keep_best drops.
template <class Score>
std::vector<std::size_t> dropped(const std::vector<Position>& positions, const std::vector<Score>& scores, std::size_t keep,
                                 const Protected& stay) {
  RowTable table(false, {});
  for (const Position p : positions) {
    table.make_room(1, p);
    table.append(p);
  }
  Vector<Position> order;
  std::vector<unsigned char> drop(positions.size());
  RowSet set{.rows = table, .lanes = {}, .budget = keep, .drop = drop, .order = order};
  set.keep_best(keep, stay, [&](std::size_t row) { return scores[row]; });
  std::vector<std::size_t> rows;
  for (std::size_t r = 0; r < drop.size(); ++r) {
    if (drop[r] != 0) { rows.push_back(r); }
  }
  return rows;
}

/// The same by sorting.
template <class Score>
std::vector<std::size_t> expected(const std::vector<Position>& positions, const std::vector<Score>& scores, std::size_t keep,
                                  const Protected& stay) {
  std::vector<std::size_t> rows(positions.size() - stay.recent - stay.sinks);  // positions ascend
  for (std::size_t r = 0; r < rows.size(); ++r) { rows[r] = stay.sinks + r; }
  std::sort(rows.begin(), rows.end(),
            [&](std::size_t a, std::size_t b) { return scores[a] != scores[b] ? scores[a] < scores[b] : positions[a] > positions[b]; });
  rows.resize(positions.size() - keep);
  std::sort(rows.begin(), rows.end());
  return rows;
}

template <class Score>
void check(const std::vector<Score>& values) {
  std::mt19937 rng(3);
  for (int trial = 0; trial < 200; ++trial) {
    const std::size_t rows = 2 + rng() % 40;
    std::vector<Position> positions;
    std::vector<Score> scores;
    for (std::size_t r = 0; r < rows; ++r) {
      positions.push_back((r == 0 ? 0 : positions.back()) + 1 + static_cast<Position>(rng() % 3));
      scores.push_back(values[rng() % values.size()]);
    }
    const std::size_t most = std::min<std::size_t>(rows - 1, 3);
    for (std::size_t gone = 1; gone <= most; ++gone) {
      const std::size_t keep = rows - gone;
      const std::size_t recent = rng() % (keep + 1);
      const Protected stay{.sinks = trial % 2 == 0 ? 0 : rng() % (keep - recent + 1), .recent = recent};
      ASSERT_EQ(dropped(positions, scores, keep, stay), expected(positions, scores, keep, stay))
          << rows << " rows, " << gone << " gone, trial " << trial;
    }
  }
}

TEST(RowSet, KeepsTheBestOfScoresOfAnyType) {
  check<float>({-2.0F, 0.0F, 0.5F, 7.0F});
  check<float>({std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(), 1.0F});
  check<int>({-3, 0, 5, 5, 9});
  check<double>({0.25});
}

}  // namespace
