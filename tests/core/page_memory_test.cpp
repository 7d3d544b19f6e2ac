// tests/core/page_memory_test.cpp - the memory of the default handle: what is released reaches the system, what is held stays whole.
// SPDX-License-Identifier: MIT
#include "kvcompress/core/page_memory.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "support/resident.hpp"

namespace page_memory_test {

#ifdef KVCOMPRESS_PAGE_MEMORY

using kvcompress::PageMemory;
using kvcompress::test::resident_bytes;

struct Piece {
  unsigned char* at;
  std::size_t bytes;
};
Piece take(PageMemory& pages, std::size_t bytes, unsigned char mark) {
  auto* at = static_cast<unsigned char*>(pages.allocate(bytes));
  std::memset(at, mark, bytes);
  return {at, bytes};
}

TEST(PageMemory, GivesWhatIsAskedForOfEverySize) {
  PageMemory pages{};
  std::vector<Piece> held;
  for (std::size_t bytes = 256; bytes < 3'000'000; bytes += bytes / 7 + 1) {
    for (const std::size_t size : {bytes, bytes + 1}) {
      held.push_back(take(pages, size, static_cast<unsigned char>(held.size())));
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(held.back().at) % 64, 0U) << size;
    }
  }
  for (std::size_t i = 0; i < held.size(); ++i) {
    EXPECT_EQ(held[i].at[0], static_cast<unsigned char>(i));
    EXPECT_EQ(held[i].at[held[i].bytes - 1], static_cast<unsigned char>(i));
    pages.release(held[i].at, held[i].bytes);
  }
  EXPECT_EQ(pages.allocate(static_cast<std::size_t>(-1)), nullptr);
  EXPECT_EQ(pages.allocate(static_cast<std::size_t>(-1) / 4), nullptr);
}

TEST(PageMemory, NeighboursInTimeAreNeighboursInMemory) {
  PageMemory pages{};
  const Piece first = take(pages, 8196, 1);
  const Piece second = take(pages, 8196, 2);
  EXPECT_EQ(second.at - first.at, 8320);
  pages.release(first.at, first.bytes);
  EXPECT_EQ(pages.allocate(8196), first.at) << "the lowest free place";
  pages.release(first.at, first.bytes);
  pages.release(second.at, second.bytes);
}

TEST(PageMemory, WhatIsReleasedReachesTheSystem) {
  PageMemory pages{};
  kvcompress::test::empty_heap();
  const std::size_t before = resident_bytes();
  std::vector<Piece> held;
  constexpr std::size_t blocks = 60'000;
  for (std::size_t i = 0; i < blocks; ++i) { held.push_back(take(pages, 2052, static_cast<unsigned char>(i))); }
  const std::size_t full = resident_bytes();
  EXPECT_GT(full - before, blocks * 2052);
  std::size_t kept = 0;
  for (std::size_t i = 0; i < blocks; ++i) {  // every 16th stretch of 16 blocks stays
    if (i / 16 % 16 == 0) {
      ++kept;
    } else {
      pages.release(held[i].at, held[i].bytes);
    }
  }
  EXPECT_LT(static_cast<double>(resident_bytes() - before), 1.3 * static_cast<double>(kept * 2052) + 3e6);
  for (std::size_t i = 0; i < blocks; ++i) {
    if (i / 16 % 16 != 0) { continue; }
    ASSERT_EQ(held[i].at[2051], static_cast<unsigned char>(i));
    pages.release(held[i].at, held[i].bytes);
  }
  EXPECT_LT(resident_bytes(), before + 3'000'000);
}

TEST(PageMemory, ManyThreadsTakeAndGive) {
  PageMemory pages{};
  std::vector<int> wrong(4);
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < wrong.size(); ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(static_cast<unsigned>(t));
      std::vector<Piece> held;
      for (int round = 0; round < 20'000; ++round) {
        if (held.size() < 300 || random() % 2 == 0) {
          held.push_back(take(pages, 256 + random() % 9000, static_cast<unsigned char>(t)));
        } else {
          std::swap(held[random() % held.size()], held.back());
          wrong[t] += held.back().at[0] == t && held.back().at[held.back().bytes - 1] == t ? 0 : 1;
          pages.release(held.back().at, held.back().bytes);
          held.pop_back();
        }
      }
      for (const Piece& piece : held) { pages.release(piece.at, piece.bytes); }
    });
  }
  for (std::thread& thread : threads) { thread.join(); }
  EXPECT_EQ(wrong, std::vector<int>(4));
}

#endif

}  // namespace page_memory_test
