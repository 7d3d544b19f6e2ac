// tests/core/slow_tier_test.cpp - slow regions in RAM and in files: same bytes, copies share, failures leave nothing behind.
// SPDX-License-Identifier: MIT
#include "kvcompress/core/slow_tier.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "support/counting_memory.hpp"
#include "support/slow_files.hpp"

namespace slow_tier_test {

using kvcompress::ErrorCode;
using kvcompress::MemoryReport;
using kvcompress::SlowRegion;
using kvcompress::SlowTier;
using kvcompress::test::Bytes;
using kvcompress::test::contents;
using kvcompress::test::CountingMemory;
using kvcompress::test::descriptors;
using kvcompress::test::Directory;
using kvcompress::test::expect_error;
using kvcompress::test::random_bytes;

constexpr std::size_t size = 100'003;

MemoryReport report_of(const SlowRegion& region) {
  MemoryReport report;
  region.account(report);
  return report;
}
/// Every test of this suite runs in both tiers, and ends with nothing left.
class SlowTierTest : public ::testing::TestWithParam<bool> {
 protected:
  ~SlowTierTest() override {
    EXPECT_EQ(memory.live, 0U);
    EXPECT_EQ(descriptors().size(), open);
    EXPECT_TRUE(directory.empty());
  }
  Directory directory;
  CountingMemory memory;
  SlowTier tier{GetParam() ? directory.path() : ""};
  std::size_t open = descriptors().size();
};
INSTANTIATE_TEST_SUITE_P(Both, SlowTierTest, ::testing::Bool(), [](const auto& one) { return one.param ? "File" : "Ram"; });

TEST_P(SlowTierTest, ReturnsWhatWasWrittenAtOddOffsetsAndSizes) {
  SlowRegion region(tier, size, memory.handle());
  ASSERT_EQ(region.bytes(), size);
  Bytes model(size);
  EXPECT_EQ(contents(region), model) << "zeros before the first write";
  const Bytes source = random_bytes(size);
  std::mt19937 random(11);
  for (int round = 0; round < 300; ++round) {
    const std::size_t offset = random() % size;
    const std::size_t count = std::min<std::size_t>(size - offset, random() % (round % 10 == 0 ? size : 70));
    region.write(offset, source.data() + offset, count);
    std::copy_n(source.data() + offset, count, model.data() + offset);
    const std::size_t from = random() % size;
    Bytes read(random() % (size - from));
    region.read(from, read.data(), read.size());
    ASSERT_TRUE(std::equal(read.begin(), read.end(), model.begin() + static_cast<std::ptrdiff_t>(from))) << round;
  }
  EXPECT_TRUE(directory.empty()) << "the file has no name";
  EXPECT_EQ(descriptors(directory.path()).size(), tier.in_file() ? 1U : 0U);
}

TEST_P(SlowTierTest, CopiesShareUntilOneWritesOrUnshares) {
  const Bytes first = random_bytes(size);
  SlowRegion origin(tier, size, memory.handle());
  origin.write(0, first.data(), size);
  {
    const std::size_t calls = memory.calls;
    SlowRegion copy = origin;
    EXPECT_TRUE(origin.shared() && copy.shared());
    EXPECT_EQ(memory.calls, calls);
    copy.unshare();
    EXPECT_FALSE(origin.shared() || copy.shared());
    EXPECT_EQ(contents(copy), first);
    copy.write(5, "new", 3);
    EXPECT_EQ(contents(origin), first);
  }
  SlowRegion other = origin;
  other.write(size - 1, "x", 1);
  EXPECT_FALSE(other.shared());
  EXPECT_EQ(contents(origin), first);
  EXPECT_EQ(contents(other).back(), 'x');
  other = origin;
  origin = SlowRegion(memory.handle());
  EXPECT_FALSE(other.shared());
  EXPECT_EQ(contents(other), first);
  EXPECT_EQ(origin.bytes(), 0U);
}

TEST_P(SlowTierTest, ReportsWhatTheHandleGave) {
  const SlowRegion region(tier, size, memory.handle());
  MemoryReport report = report_of(region);
  EXPECT_EQ(report.total(), memory.bytes);
  EXPECT_EQ(report.slow_tier, tier.in_file() ? 0 : size);
  EXPECT_EQ(report.slow_file, tier.in_file() ? size : 0);
  EXPECT_LT(report.fast(), 400U);
  EXPECT_EQ(report.fast() + report.slow_tier, report.total());
  EXPECT_EQ(report.shared, 0U);
  SlowRegion copy = region;
  EXPECT_EQ(report_of(copy).shared, memory.bytes);
  copy.unshare();
  EXPECT_EQ(report_of(copy).total() + report_of(region).total(), memory.bytes);
}

TEST_P(SlowTierTest, ARegionWithoutBytesNeedsNoFile) {
  SlowRegion none(tier, 0, memory.handle());
  SlowRegion copy = none;
  copy.unshare();
  copy.write(0, nullptr, 0);
  copy.read(0, nullptr, 0);
  EXPECT_EQ(copy.bytes(), 0U);
  EXPECT_EQ(report_of(none).total() + report_of(copy).total(), memory.bytes);
  EXPECT_EQ(descriptors().size(), open);
}

TEST_P(SlowTierTest, RefusesBytesOutsideTheRegion) {
  SlowRegion region(tier, 10, memory.handle());
  char bytes[20] = {};
  const volatile std::size_t huge = SIZE_MAX;  // volatile: GCC 12 warns of a memcpy that never happens
  expect_error(ErrorCode::input, {"[8, 8 + 3)", "of 10 bytes"}, [&] { region.read(8, bytes, 3); });
  expect_error(ErrorCode::input, {}, [&] { region.write(11, bytes, 0); });
  expect_error(ErrorCode::input, {}, [&] { region.write(2, bytes, huge); });
  expect_error(ErrorCode::input, {}, [&] { region.read(huge, bytes, 2); });
}

TEST_P(SlowTierTest, ManyThreadsReadAtOnce) {
  const Bytes bytes = random_bytes(size);
  SlowRegion origin(tier, size, memory.handle());
  origin.write(0, bytes.data(), size);
  std::vector<int> wrong(4);
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < wrong.size(); ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(static_cast<unsigned>(t));
      for (int round = 0; round < 200; ++round) {
        const SlowRegion copy = origin;
        Bytes read(random() % 3000);
        const std::size_t offset = random() % (size - read.size());
        copy.read(offset, read.data(), read.size());
        wrong[t] += std::equal(read.begin(), read.end(), bytes.begin() + static_cast<std::ptrdiff_t>(offset)) ? 0 : 1;
      }
    });
  }
  for (std::thread& thread : threads) { thread.join(); }
  EXPECT_EQ(wrong, std::vector<int>(4));
}

TEST_P(SlowTierTest, RefusedMemoryLeavesNothing) {
  for (std::size_t allowed = 0; allowed < 2; ++allowed) {
    memory.refuse_after(allowed);
    expect_error(ErrorCode::memory, {}, [&] { SlowRegion(tier, size, memory.handle()); });
    EXPECT_EQ(memory.live, 0U);
    EXPECT_EQ(descriptors().size(), open);
  }
  memory.refuse_after(2);
  const Bytes bytes = random_bytes(size);
  SlowRegion origin(tier, size, memory.handle());
  origin.write(0, bytes.data(), size);
  SlowRegion copy = origin;
  for (std::size_t allowed = 0; allowed < 2; ++allowed) {
    memory.refuse_after(allowed);
    expect_error(ErrorCode::memory, {}, [&] { copy.unshare(); });
    expect_error(ErrorCode::memory, {}, [&] { copy.write(0, "x", 1); });
    EXPECT_TRUE(copy.shared());
    EXPECT_EQ(contents(copy), bytes);
  }
  memory.allow();
}

TEST_P(SlowTierTest, RefusesMoreBytesThanThereCanBe) {
  const ErrorCode code = tier.in_file() ? ErrorCode::io : ErrorCode::memory;
  for (const std::size_t bytes : {std::size_t{PTRDIFF_MAX} + 1, SIZE_MAX}) {
    expect_error(code, {std::to_string(bytes)}, [&] { SlowRegion(tier, bytes, memory.handle()); });
  }
  if (tier.in_file()) {
    expect_error(code, {}, [&] { SlowRegion(tier, PTRDIFF_MAX, memory.handle()); });
  }
}

}  // namespace slow_tier_test
