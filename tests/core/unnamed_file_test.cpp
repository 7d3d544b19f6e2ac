// tests/core/unnamed_file_test.cpp - failures that only files have: each is an Error, and leaves no file, descriptor or memory.
// SPDX-License-Identifier: MIT
#include "kvcompress/core/unnamed_file.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <string>
#include <vector>

#include "kvcompress/core/slow_tier.hpp"
#include "support/counting_memory.hpp"
#include "support/slow_files.hpp"

namespace unnamed_file_test {

using kvcompress::ErrorCode;
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

/// A soft limit for one scope. What exceeds a file-size limit gets EFBIG, and SIGXFSZ is counted instead of fatal.
class Limit {
 public:
  Limit(decltype(RLIMIT_FSIZE) resource, rlim_t value)
      : resource_(resource), handler_(std::signal(SIGXFSZ, [](int) { signals = signals + 1; })) {
    signals = 0;
    ::getrlimit(resource_, &before_);
    const rlimit limit{value, before_.rlim_max};
    if (::setrlimit(resource_, &limit) != 0) { std::abort(); }
  }
  Limit(const Limit&) = delete;
  Limit& operator=(const Limit&) = delete;
  ~Limit() {
    ::setrlimit(resource_, &before_);
    std::signal(SIGXFSZ, handler_);
  }
  static inline volatile std::sig_atomic_t signals = 0;

 private:
  decltype(RLIMIT_FSIZE) resource_;
  rlimit before_{};
  void (*handler_)(int);
};

/// Every test ends with nothing left.
class SlowFile : public ::testing::Test {
 protected:
  ~SlowFile() override {
    EXPECT_EQ(memory.live, 0U);
    EXPECT_EQ(descriptors().size(), open);
    EXPECT_TRUE(directory.empty());
  }
  void expect_refused(const std::string& path, const std::vector<std::string>& words) {
    expect_error(ErrorCode::io, words, [&] { SlowRegion(SlowTier{path}, size, memory.handle()); });
    EXPECT_EQ(memory.live, 0U);
    EXPECT_EQ(descriptors().size(), open);
  }
  Directory directory;
  CountingMemory memory;
  SlowTier tier{directory.path()};
  std::size_t open = descriptors().size();
};

TEST_F(SlowFile, NeedsADirectoryThatExists) {
  const std::string missing = directory.path() + "/none";
  expect_refused(missing, {"create a file of 100003 bytes", "No such file or directory", "\"" + missing + "\""});
  expect_refused("/proc/self/status", {"Not a directory"});
  expect_refused(std::string(5000, 'x'), {"File name too long"});
}

TEST_F(SlowFile, NeedsADirectoryItMayWriteTo) {
  const uid_t self = ::geteuid();
  ASSERT_EQ(::chmod(directory.path().c_str(), 0500), 0);
  if (self == 0 && ::seteuid(65534) != 0) { GTEST_SKIP() << "root may write everywhere"; }
  expect_refused(directory.path(), {"Permission denied"});
  ASSERT_EQ(::seteuid(self), 0);
  ASSERT_EQ(::chmod(directory.path().c_str(), 0700), 0);
}

TEST_F(SlowFile, NeedsADescriptor) {
  const Limit limit(RLIMIT_NOFILE, 3);
  const auto action = [&] { SlowRegion(tier, size, memory.handle()); };
  expect_error(ErrorCode::io, {"Too many open files"}, action);
}

TEST_F(SlowFile, ReservesItsSpaceAtOnce) {
  const SlowRegion region(tier, size, memory.handle());
  struct stat status {};
  ASSERT_EQ(::stat(descriptors(directory.path()).at(0).c_str(), &status), 0);
  EXPECT_EQ(status.st_size, static_cast<off_t>(size));
  EXPECT_GE(status.st_blocks * 512, static_cast<off_t>(size));
  EXPECT_EQ(status.st_nlink, 0U);
  EXPECT_EQ(status.st_mode & 0777U, 0600U);
}

TEST_F(SlowFile, AFileSizeLimitIsAnErrorNotASignal) {
  const Limit limit(RLIMIT_FSIZE, size - 1);
  expect_refused(directory.path(), {"reserve 100003 bytes", "File too large"});
  EXPECT_EQ(Limit::signals, 0);
  EXPECT_NO_THROW(SlowRegion(tier, size - 1, memory.handle()));
}

TEST_F(SlowFile, AFailedWriteOrCopyKeepsTheRest) {
  const Bytes bytes = random_bytes(size);
  SlowRegion region(tier, size, memory.handle());
  region.write(0, bytes.data(), size);
  SlowRegion copy = region;
  {
    const Limit limit(RLIMIT_FSIZE, 1000);
    expect_error(ErrorCode::io, {"reserve"}, [&] { copy.unshare(); });
    EXPECT_TRUE(copy.shared());
    EXPECT_EQ(contents(copy), bytes);
    copy = SlowRegion(memory.handle());
    expect_error(ErrorCode::io, {"write 5 bytes", "File too large"}, [&] { region.write(2000, "abcde", 5); });
  }
  EXPECT_EQ(contents(region), bytes);
}

TEST_F(SlowFile, AFileThatEndsEarlyIsAnError) {
  const Bytes bytes = random_bytes(size);
  SlowRegion region(tier, size, memory.handle());
  region.write(0, bytes.data(), size);
  const std::string path = descriptors(directory.path()).at(0);
  ASSERT_EQ(::truncate(path.c_str(), size / 2), 0);
  Bytes read(size);
  expect_error(ErrorCode::io, {"read 100003 bytes", "the file ends early", directory.path()}, [&] { region.read(0, read.data(), size); });
  SlowRegion copy = region;
  expect_error(ErrorCode::io, {"read"}, [&] { copy.unshare(); });
  EXPECT_TRUE(copy.shared());
  region.read(0, read.data(), size / 2);
  EXPECT_TRUE(std::equal(read.begin(), read.begin() + size / 2, bytes.begin()));
  copy = SlowRegion(memory.handle());
  region.write(0, bytes.data(), size);
  EXPECT_EQ(contents(region), bytes);
}

// The ways that no file system of the test machine may ask for, tried directly.

TEST_F(SlowFile, CanDoWithoutUnnamedFilesOfTheFileSystem) {
  const int descriptor = kvcompress::file::open_and_unlink(directory.path().c_str());
  ASSERT_GE(descriptor, 0);
  EXPECT_TRUE(directory.empty());
  EXPECT_NE(::fcntl(descriptor, F_GETFD) & FD_CLOEXEC, 0);
  ::close(descriptor);
}

TEST_F(SlowFile, CanReserveByWritingZeros) {
  for (const std::size_t bytes : {std::size_t{1}, std::size_t{16384}, size}) {
    const int descriptor = kvcompress::file::open_unnamed(directory.path().c_str());
    ASSERT_GE(descriptor, 0);
    EXPECT_NE(::fcntl(descriptor, F_GETFD) & FD_CLOEXEC, 0);
    EXPECT_EQ(kvcompress::file::write_zeros(descriptor, bytes), 0);
    Bytes read(bytes + 1, 1);
    auto* const to = reinterpret_cast<std::byte*>(read.data());
    EXPECT_EQ(kvcompress::file::read_all(descriptor, 0, to, bytes), 0);
    EXPECT_EQ(kvcompress::file::read_all(descriptor, 0, to, bytes + 1), -1) << "one byte more than written";
    EXPECT_EQ(std::count(read.begin(), read.end() - 1, 0), static_cast<std::ptrdiff_t>(bytes));
    ::close(descriptor);
  }
}

}  // namespace unnamed_file_test
