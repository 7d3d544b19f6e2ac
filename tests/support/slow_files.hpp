// tests/support/slow_files.hpp - what tests of the slow tier look at: a directory of their own, open descriptors, contents, errors.
// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "kvcompress/core/slow_tier.hpp"

namespace kvcompress::test {

using Bytes = std::vector<unsigned char>;

/// An empty directory, removed at the end.
class Directory {
 public:
  Directory() {
    if (::mkdtemp(path_.data()) == nullptr) { std::abort(); }
  }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;
  ~Directory() { std::filesystem::remove_all(path_); }
  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] bool empty() const { return std::filesystem::is_empty(path_); }

 private:
  std::string path_ = ::testing::TempDir() + "slow_tier_XXXXXX";
};

/// Open descriptors, those of them that are unnamed files below `directory`, if one is given.
inline std::vector<std::string> descriptors(const std::string& directory = "") {
  std::vector<std::string> found;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code gone;  // the iterator's own descriptor may be listed
    const std::string target = std::filesystem::read_symlink(entry.path(), gone).string();
    if (!gone && target.starts_with(directory)) { found.push_back(entry.path().string()); }
  }
  return found;
}

inline Bytes random_bytes(std::size_t count, unsigned seed = 7) {
  std::mt19937 random(seed);
  Bytes bytes(count);
  for (unsigned char& byte : bytes) { byte = static_cast<unsigned char>(random()); }
  return bytes;
}
inline Bytes contents(const SlowRegion& region) {
  Bytes bytes(region.bytes());
  region.read(0, bytes.data(), bytes.size());
  return bytes;
}
/// Runs `action`, which must raise that code with all of these words in its sentence.
template <class Action>
void expect_error(ErrorCode code, const std::vector<std::string>& words, Action action) {
  try {
    action();
    ADD_FAILURE() << "no error";
  } catch (const kvcompress::Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    const std::string sentence = error.what();
    for (const std::string& word : words) { EXPECT_NE(sentence.find(word), std::string::npos) << sentence << " / " << word; }
  }
}

}  // namespace kvcompress::test
