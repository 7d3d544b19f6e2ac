// tests/core/blocks_test.cpp - block lists and shared values: copies share until one writes, nothing leaks.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <cstring>
#include <ctime>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kvcompress/core/blocks.hpp"
#include "kvcompress/core/shared.hpp"
#include "support/counting_memory.hpp"

namespace blocks_test {

using kvcompress::BlockList;
using kvcompress::test::CountingMemory;

constexpr std::size_t payload = 50;

void put(BlockList& list, std::size_t index, char letter) { std::memset(list.write(index), letter, payload); }
std::string letters(const BlockList& list) {
  std::string text;
  for (std::size_t i = 0; i < list.used(); ++i) { text += static_cast<char>(*list.read(i)); }
  return text;
}
BlockList four(const kvcompress::Memory& memory) {
  BlockList list(payload, memory);
  for (const char letter : {'a', 'b', 'c', 'd'}) { put(list, list.grow(), letter); }
  return list;
}

TEST(BlockList, CopiesShareBlocksUntilOneWrites) {
  CountingMemory memory;
  {
    BlockList origin = four(memory.handle());
    const std::size_t bytes = memory.bytes;
    BlockList copy(origin);
    EXPECT_LT(memory.bytes, bytes + 100) << "only the table is new";
    put(copy, 1, 'x');
    EXPECT_EQ(letters(origin), "abcd");
    EXPECT_EQ(letters(copy), "axcd");
    put(origin, 2, 'y');
    EXPECT_EQ(letters(origin), "abyd");
    EXPECT_EQ(letters(copy), "axcd");
    put(copy, copy.grow(), 'e');
    EXPECT_EQ(letters(origin), "abyd");
    origin.unshare();
    put(origin, 0, 'z');
    EXPECT_EQ(letters(copy), "axcde");
  }
  EXPECT_EQ(memory.live, 0U);
}

TEST(BlockList, EraseKeepsTheOrderOfTheOthersAndOneSpareBlock) {
  CountingMemory memory;
  BlockList list = four(memory.handle());
  list.erase(1, 2);
  EXPECT_EQ(letters(list), "ad");
  kvcompress::MemoryReport report;
  list.account(report);
  EXPECT_GE(report.spare, list.block_bytes());
  EXPECT_LT(report.spare, 2 * list.block_bytes());
  memory.restart();
  put(list, list.grow(), 'n');
  EXPECT_EQ(memory.calls, 0U) << "the spare block was there";
  EXPECT_EQ(letters(list), "adn");
}

TEST(BlockList, AFailedAllocationChangesNothing) {
  CountingMemory memory;
  BlockList origin = four(memory.handle());
  BlockList copy(origin);
  memory.refuse_after(0);
  EXPECT_THROW(static_cast<void>(copy.write(2)), kvcompress::Error);
  EXPECT_THROW(copy.make_room(1), kvcompress::Error);
  memory.allow();
  EXPECT_EQ(letters(copy), "abcd");
  EXPECT_EQ(letters(origin), "abcd");
  put(copy, 2, 'x');
  EXPECT_EQ(letters(copy), "abxd");
}

TEST(BlockList, ReservedBlocksStay) {
  CountingMemory memory;
  BlockList list(payload, memory.handle());
  list.reserve(10);
  memory.restart();
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < 10; ++i) { list.grow(); }
    list.shrink(0);
  }
  EXPECT_EQ(memory.calls, 0U);
}

TEST(BlockList, BlocksLeaveAnywhereAndTheOthersKeepTheirOrder) {
  CountingMemory memory;
  {
    std::mt19937 random(5);
    BlockList list(payload, memory.handle());
    std::string model;
    std::vector<BlockList> forks;
    for (int round = 0; round < 3000; ++round) {
      const std::size_t first = model.empty() ? 0 : random() % model.size();
      const std::size_t count = model.empty() ? 0 : random() % std::min<std::size_t>(model.size() - first + 1, 9);
      switch (random() % 6) {
        case 0:
          list.erase(first, count), model.erase(first, count);
          break;
        case 1:
          list.erase(0, count), model.erase(0, count);
          break;
        case 2:
          list.shrink(model.size() - count), model.resize(model.size() - count);
          break;
        case 3:
          forks.size() < 3 ? forks.push_back(list) : forks.clear();
          break;
        default:
          for (std::size_t i = 0; i < count + 1; ++i) {
            model += static_cast<char>('a' + random() % 26);
            put(list, list.grow(), model.back());
          }
      }
      ASSERT_EQ(letters(list), model) << round;
      kvcompress::MemoryReport report;
      list.account(report);
      ASSERT_LE(report.total() + list.used() * (list.block_bytes() - 4),
                BlockList::most_bytes(model.size() + 1, payload) + 9 * 2 * sizeof(void*) + 8 * list.block_bytes())
          << round;
      if (forks.empty()) { ASSERT_EQ(report.total() + list.used() * (list.block_bytes() - 4), memory.bytes) << round; }
    }
  }
  EXPECT_EQ(memory.live, 0U);
}

TEST(BlockList, ALongListLeavesAtTheFrontInConstantTimePerBlock) {
  const auto seconds = [](std::size_t blocks) {
    BlockList list(payload, {});
    list.make_room(blocks);
    for (std::size_t i = 0; i < blocks; ++i) { list.grow(); }
    const std::clock_t start = std::clock();
    for (std::size_t i = 0; i < blocks; ++i) { list.erase(0, 1); }
    return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  };
  seconds(16000);
  EXPECT_LT(seconds(256000) / 16, 8 * seconds(16000) + 1e-3) << "16 times as long if the others moved";
}

TEST(Shared, CopiesReferToOneValueUntilOneWrites) {
  CountingMemory memory;
  {
    kvcompress::Shared<std::string> a(memory.handle(), "text");
    kvcompress::Shared<std::string> b(a);
    EXPECT_EQ(&a.read(), &b.read());
    EXPECT_TRUE(a.shared());
    b.write() += "s";
    EXPECT_EQ(a.read(), "text");
    EXPECT_EQ(b.read(), "texts");
    EXPECT_FALSE(a.shared());
    const std::string* before = &a.read();
    a.write() = "new";
    EXPECT_EQ(&a.read(), before) << "a value of its own is written in place";
    kvcompress::Shared<std::string> c(a);
    memory.refuse_after(0);
    EXPECT_THROW(static_cast<void>(c.write()), kvcompress::Error);
    EXPECT_EQ(c.read(), "new");
    memory.allow();
  }
  EXPECT_EQ(memory.live, 0U);
}

TEST(Errors, SayCodeAndSentence) {
  try {
    kvcompress::require(false, kvcompress::ErrorCode::option, "size is ", 3, ", must be ", std::string("even"));
    FAIL();
  } catch (const kvcompress::Error& error) {
    EXPECT_EQ(error.code(), kvcompress::ErrorCode::option);
    EXPECT_STREQ(error.what(), "kvcompress: size is 3, must be even");
  }
}

}  // namespace blocks_test
