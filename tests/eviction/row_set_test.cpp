// tests/eviction/row_set_test.cpp - RowSet::keep_best against the definition: scores of any type, ties, infinities.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <random>
#include <vector>

#include "kvcompress/eviction/row_set.hpp"

namespace row_set_test {

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
    const std::size_t rows = 2 + rng() % (trial % 4 == 0 ? 300 : 40);
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

/// Rows that have moved into the places of dead ones, as every step of decoding leaves them, and some that lie dead.
TEST(RowSet, DropsTheWorstOfRowsInAnyOrder) {
  std::mt19937 rng(4);
  for (int trial = 0; trial < 300; ++trial) {
    RowTable table(false, {});
    Vector<Position> order;
    Position next = 0;
    const auto append = [&](std::size_t count) {
      for (std::size_t i = 0; i < count; ++i) {
        table.make_room(1, next);
        table.append(next);
        next += trial % 3 == 0 ? 1 + static_cast<Position>(rng() % 2) : 1;
      }
    };
    append(2 + rng() % 260);
    table.prepare_to_kill(order);
    for (std::size_t n = rng() % table.rows(); n-- > 0;) {  // they jump, or stay dead
      const std::size_t row = rng() % table.rows();
      if (table.alive(row)) { table.kill(row); }
      if (const std::size_t last = table.rows() - 1; rng() % 2 == 0 && last > row && !table.alive(row) && table.alive(last)) {
        table.move(last, row);
        table.resize(last);
      }
    }
    table.settle(order);
    append(2 + rng() % 4);
    std::vector<float> scores(table.rows());
    for (float& score : scores) { score = static_cast<float>(rng() % 5) - 2.0F; }
    std::vector<Position> live;
    for (std::size_t r = 0; r < table.rows(); ++r) {
      if (table.alive(r)) { live.push_back(table.position(r)); }
    }
    std::sort(live.begin(), live.end());
    std::vector<unsigned char> drop(table.rows());
    std::size_t budget = live.size() - 1;
    RowSet set{.rows = table, .lanes = {}, .budget = budget, .drop = drop, .order = order};
    const std::size_t recent = rng() % live.size();
    const std::size_t sinks = trial % 2 == 0 ? 0 : rng() % (live.size() - recent);
    for (const std::size_t k : {std::size_t{0}, recent, live.size() - 1}) {
      ASSERT_EQ(set.newest(k), live[live.size() - 1 - k]) << "trial " << trial;
      ASSERT_EQ(set.oldest(k), live[k]) << "trial " << trial;
    }
    std::size_t worst = table.rows();
    for (std::size_t r = 0; r < table.rows(); ++r) {
      const Position p = table.position(r);
      if (!table.alive(r) || p < live[sinks] || (recent > 0 && p >= live[live.size() - recent])) { continue; }
      if (worst == table.rows() || scores[r] < scores[worst] || (scores[r] == scores[worst] && p > table.position(worst))) { worst = r; }
    }
    set.keep_best(budget, {sinks, recent}, [&](std::size_t row) { return scores[row]; });
    for (std::size_t r = 0; r < table.rows(); ++r) { ASSERT_EQ(drop[r] != 0, r == worst) << "trial " << trial << ", row " << r; }
    ASSERT_EQ(table.next_dead(0),
              static_cast<std::size_t>(
                  std::find_if(drop.begin(), drop.end(),
                               [&](const unsigned char& flag) { return !table.alive(static_cast<std::size_t>(&flag - drop.data())); }) -
                  drop.begin()));
  }
}

}  // namespace row_set_test
