// tests/conformance/coverage_test.cpp - names the methods whose official vectors no test here runs.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <filesystem>
#include <iostream>
#include <set>

#include "support/cases.hpp"

namespace {

TEST(Coverage, NamesTheMethodsWithoutTests) {
  const auto root = kvcompress::conformance::directory();
  if (!std::filesystem::is_directory(root)) {
    GTEST_SKIP() << "KVCOMPRESS_CONFORMANCE_DIR names no directory, so no official vectors were run";
  }
  const std::set<std::string> covered{"gear", "h2o", "kivi", "shadowkv", "snapkv", "streamingllm", "xkv"};
  std::size_t found = 0;
  for (const auto& entry : std::filesystem::directory_iterator(root)) {
    const std::string method = entry.path().filename().string();
    if (!entry.is_directory()) { continue; }
    if (covered.contains(method)) {
      ++found;
    } else {
      std::cout << "conformance: " << method << " not covered, " << kvcompress::conformance::find_cases(method).size() << " cases\n";
    }
  }
  EXPECT_GT(found, 0U) << root << " holds none of the covered methods: is it the right directory?";
}

}  // namespace
