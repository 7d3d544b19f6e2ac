// tests/retrieval/row_cache_test.cpp - rows at hand give chunks up without memory, in a deep copy too.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "kvcompress/offload/row_cache.hpp"
#include "support/counting_memory.hpp"

namespace {

using namespace kvcompress;

TEST(RowCache, ACopyGivesChunksUpWithoutMemory) {
  test::CountingMemory memory;
  RowCache<float> cache(4, memory.handle());
  std::vector<Position> chunks(100);
  std::iota(chunks.begin(), chunks.end(), Position{0});
  const auto fill = [](std::size_t chunk, float* to) { std::fill_n(to, 8 * 4, static_cast<float>(chunk)); };
  const auto ignore = [](std::size_t) {};
  EXPECT_EQ(cache.hold(8, chunks, fill, ignore), 100U);
  RowCache<float> erased(cache);
  RowCache<float> forgotten(cache);
  RowCache<float> assigned(4, memory.handle());
  assigned = cache;
  memory.refuse_after(0);
  erased.erase(10, 80);
  EXPECT_EQ(erased.size(), 20U);
  EXPECT_EQ(erased.rows(10)[0], 90.0F) << "the chunk that moved up";
  forgotten.forget();
  assigned.forget();
  EXPECT_EQ(forgotten.size() + assigned.size(), 0U);
  memory.allow();
  memory.restart();
  EXPECT_EQ(forgotten.hold(8, chunks, fill, ignore), 100U);
  EXPECT_EQ(memory.calls, 0U) << "the places were kept";
  for (const Position chunk : chunks) { EXPECT_EQ(forgotten.rows(chunk)[31], static_cast<float>(chunk)); }
}

}  // namespace
