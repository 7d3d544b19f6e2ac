// tests/conformance/coverage_test.cpp - counts the official vectors of the methods that no test here runs.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <filesystem>
#include <iostream>

#include "support/cases.hpp"

namespace coverage_test {

namespace conformance = kvcompress::conformance;

TEST(Coverage, CountsTheMethodsWithoutHandlers) {
  const auto root = conformance::directory();
  if (root.empty()) { GTEST_SKIP() << "KVCOMPRESS_CONFORMANCE_DIR names no directory, so no official vectors were run"; }
  std::size_t handled = 0;
  for (const auto& entry : std::filesystem::directory_iterator(root)) {
    const std::string method = entry.path().filename().string();
    if (!entry.is_directory() || method.starts_with("_")) { continue; }  // _inputs: arrays that cases share
    if (conformance::Method::names().contains(method)) {
      ++handled;
      continue;
    }
    const auto cases = conformance::find_cases(method);
    std::cout << "conformance: " << method << " has no handlers, " << cases.size() << " cases not covered\n";
    for (std::size_t i = 0; i < cases.size(); ++i) { conformance::Tally::get().count(method, conformance::Verdict::not_covered); }
  }
  EXPECT_GT(handled, 0U) << root << " holds none of the methods that have handlers: is it the right directory?";
}

}  // namespace coverage_test
