// tests/core/row_table_test.cpp - positions and slots of rows through appends, deaths, moves and erasures, against a plain list.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "kvcompress/core/row_table.hpp"
#include "support/counting_memory.hpp"

namespace row_table_test {

using kvcompress::no_position;
using kvcompress::Position;
using kvcompress::RowTable;

/// Every row's position and slot against `expected`, where no_position stands for a dead row.
void check(const RowTable& table, const std::vector<Position>& expected) {
  ASSERT_EQ(table.rows(), expected.size());
  const auto alive = [](Position p) { return p != no_position; };
  ASSERT_EQ(table.live(), static_cast<std::size_t>(std::count_if(expected.begin(), expected.end(), alive)));
  for (std::size_t r = 0; r < expected.size(); ++r) {
    ASSERT_EQ(table.alive(r), alive(expected[r]));
    if (!table.alive(r)) { continue; }
    ASSERT_EQ(table.position(r), expected[r]);
    const auto slot = std::count_if(expected.begin(), expected.end(), [&](Position p) { return p < expected[r]; });
    ASSERT_EQ(table.shift(r), table.renumbers() ? expected[r] - static_cast<Position>(slot) : 0U) << "row " << r;
  }
  for (std::size_t first = 0; first < expected.size(); first += 3) {
    const auto from = expected.begin() + static_cast<std::ptrdiff_t>(first);
    ASSERT_EQ(table.live_in(first, expected.size()), static_cast<std::size_t>(std::count_if(from, expected.end(), alive)));
  }
}

TEST(RowTable, AllocatesNothingWhileRowsLieAtTheirPositions) {
  kvcompress::test::CountingMemory memory;
  RowTable table(true, memory.handle());
  for (Position p = 0; p < 100; ++p) { table.append(p); }
  table.resize(40);
  table.append(40);
  EXPECT_EQ(memory.calls, 0U);
  table.append(42);  // a gap
  EXPECT_GT(memory.calls, 0U);
  EXPECT_EQ(table.position(41), 42U);
  EXPECT_EQ(table.shift(41), 1U);
}

TEST(RowTable, FollowsAPlainListThroughRandomOperations) {
  for (const bool renumber : {false, true}) {
    for (unsigned seed = 0; seed < 20; ++seed) {
      std::mt19937 rng(seed);
      RowTable table(renumber, {});
      std::vector<Position> expected;
      Position next = 0;
      kvcompress::Vector<Position> order;
      for (int round = 0; round < 120; ++round) {
        const std::size_t count = rng() % 6 + 1;
        next += rng() % 9 == 0 ? 3U : 0U;
        table.make_room(count, next);
        for (std::size_t i = 0; i < count; ++i, ++next) {
          table.append(next);
          expected.push_back(next);
        }
        check(table, expected);
        if (rng() % 3 == 0) {  // some rows die, few or many
          table.prepare_to_kill(order);
          const std::size_t one_in = rng() % 2 == 0 ? 2 : 12;
          for (std::size_t r = 0; r < expected.size(); ++r) {
            if (expected[r] != no_position && rng() % one_in == 0) {
              table.kill(r);
              expected[r] = no_position;
            }
          }
          table.settle(order);
          check(table, expected);
        }
        if (rng() % 4 == 0) {  // the first dead row is filled from the end
          const auto dead = std::find(expected.begin(), expected.end(), no_position);
          if (dead != expected.end() && expected.back() != no_position) {
            table.move(expected.size() - 1, static_cast<std::size_t>(dead - expected.begin()));
            *dead = expected.back();
            expected.pop_back();
            table.resize(expected.size());
            check(table, expected);
          }
        }
        if (rng() % 5 == 0 && expected.size() >= 8) {  // eight dead rows leave
          table.prepare_to_kill(order);
          for (std::size_t r = 0; r < 8; ++r) {
            if (expected[r] != no_position) { table.kill(r); }
            expected[r] = no_position;
          }
          table.settle(order);
          table.erase(0, 8);
          expected.erase(expected.begin(), expected.begin() + 8);
          check(table, expected);
        }
      }
    }
  }
}

}  // namespace row_table_test
