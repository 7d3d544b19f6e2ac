// tests/retrieval/row_cache_test.cpp - rows at hand: what stays, what is loaded, what a failure leaves, and that giving up takes no memory.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <numeric>
#include <stdexcept>
#include <utility>
#include <vector>

#include "kvcompress/offload/row_cache.hpp"
#include "support/counting_memory.hpp"

namespace row_cache_test {

using namespace kvcompress;

TEST(RowCache, ACopyGivesChunksUpWithoutMemory) {
  test::CountingMemory memory;
  RowCache<float> cache(4, memory.handle());
  std::vector<Position> chunks(100);
  std::iota(chunks.begin(), chunks.end(), Position{0});
  const auto fill = [](auto one, auto) { std::fill_n(one.to, 8 * 4, static_cast<float>(one.chunk)); };
  EXPECT_EQ(cache.hold(8, chunks, fill), 100U);
  RowCache<float> erased(cache);
  RowCache<float> forgotten(cache);
  RowCache<float> assigned(4, memory.handle());
  assigned = cache;
  memory.refuse_after(0);
  erased.erase(10, 80);
  EXPECT_EQ(erased.size(), 20U);
  EXPECT_EQ(erased.rows(10).these[0], 90.0F) << "the chunk that moved up";
  forgotten.forget();
  assigned.forget();
  EXPECT_EQ(forgotten.size() + assigned.size(), 0U);
  memory.allow();
  memory.restart();
  EXPECT_EQ(forgotten.hold(8, chunks, fill), 100U);
  EXPECT_EQ(memory.calls, 0U) << "the places were kept";
  for (const Position chunk : chunks) { EXPECT_EQ(forgotten.rows(chunk).these[31], static_cast<float>(chunk)); }
}

TEST(RowCache, KeepsWhatIsHereAndLoadsTheRest) {
  using Cache = RowCache<float>;
  Cache cache(2, {});
  std::vector<std::pair<Position, Position>> loads;  // a chunk, and the one that comes after it
  const auto fill = [&](Cache::Missing one, Cache::Missing next) {
    if (!loads.empty()) { EXPECT_EQ(loads.back().second, one.chunk); }
    loads.emplace_back(one.chunk, next.chunk);
    std::fill_n(one.to, 3 * 2, static_cast<float>(one.chunk));
  };
  EXPECT_EQ(cache.hold(3, std::vector<Position>{2, 5, 6, 9}, fill), 4U);
  loads.clear();
  EXPECT_EQ(cache.hold(3, std::vector<Position>{1, 5, 7, 9, 11}, fill), 3U);
  EXPECT_EQ(loads, (std::vector<std::pair<Position, Position>>{{1, 7}, {7, 11}, {11, no_position}}));
  EXPECT_EQ(cache.rows(7).next, cache.rows(9).these);
  EXPECT_EQ(cache.rows(11).next, nullptr);
  for (const Position chunk : {1U, 5U, 7U, 9U, 11U}) { EXPECT_EQ(cache.rows(chunk).these[5], static_cast<float>(chunk)); }
  for (const Position chunk : {0U, 2U, 6U, 8U, 12U}) { EXPECT_FALSE(cache.has(chunk)); }
  loads.clear();
  EXPECT_EQ(cache.hold(3, std::vector<Position>{5, 7}, fill), 0U);
  EXPECT_EQ(cache.rows(5).these[0], 5.0F);
  EXPECT_EQ(cache.size(), 2U);
}

TEST(RowCache, WhatFailedToLoadIsMissingAndComesAgain) {
  using Cache = RowCache<float>;
  Cache cache(1, {});
  const auto fill = [](Cache::Missing one, Cache::Missing) { *one.to = static_cast<float>(one.chunk); };
  const auto fail_at_four = [&](Cache::Missing one, Cache::Missing next) {
    if (one.chunk == 4) { throw std::runtime_error("no chunk 4"); }
    fill(one, next);
  };
  const std::vector<Position> chunks{1, 3, 4, 8};
  EXPECT_EQ(cache.hold(1, std::vector<Position>{3, 8}, fill), 2U);
  const auto bytes = [&] {
    MemoryReport report;
    cache.account(report);
    return report.total();
  };
  std::size_t held = 0;
  for (int attempt = 0; attempt < 3; ++attempt) {
    EXPECT_THROW(cache.hold(1, chunks, fail_at_four), std::runtime_error);
    EXPECT_TRUE(cache.has(1) && cache.has(3) && !cache.has(4) && cache.has(8));
    if (attempt > 0) { EXPECT_EQ(bytes(), held) << "places were lost"; }
    held = bytes();
  }
  EXPECT_EQ(cache.hold(1, chunks, fill), 1U);
  for (const Position chunk : chunks) { EXPECT_EQ(*cache.rows(chunk).these, static_cast<float>(chunk)); }
}

}  // namespace row_cache_test
