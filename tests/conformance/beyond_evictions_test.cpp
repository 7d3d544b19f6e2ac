// tests/conformance/beyond_evictions_test.cpp - official vectors of evictions that need more than evictions are shown: counted, with the reason.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include "support/cases.hpp"

namespace {

using namespace kvcompress;
using conformance::Case;

struct Reason {
  const char* method;
  const char* reason;
};
constexpr Reason reasons[] = {
    {"non_causal_attention", "an eviction sees probabilities, not the queries of a prompt"},
    {"compactor", "an eviction sees no queries, and scores cannot be scaled over all lanes of a layer"},
    {"cap", "an eviction sees no queries"},
    {"rkv", "an eviction sees no queries: logits are joined over the group before their softmax"},
    {"windowkv", "layers cannot take over the choice of another layer"},
    {"d2o", "budgets cannot depend on the scores of all layers, and no part merges rows"},
    {"cake", "budgets cannot depend on the scores of all layers"},
    {"razorattention", "no part adds a row for those that went; head classes are found from queries"},
};

TEST(BeyondEvictions, CountsTheCasesWithTheirReasons) {
  if (conformance::directory().empty()) { GTEST_SKIP() << "KVCOMPRESS_CONFORMANCE_DIR names no directory"; }
  for (const Reason& one : reasons) {
    for (const Case& each : conformance::find_cases(one.method)) {
      std::cout << "conformance: " << each.path() << ": " << one.reason << "\n";
      conformance::Tally::get().count(one.method, conformance::Verdict::not_covered);
    }
  }
}

std::vector<conformance::Method> named() {
  std::vector<conformance::Method> methods;
  for (const Reason& one : reasons) { methods.emplace_back(one.method, conformance::Handlers{}); }
  return methods;
}
const std::vector<conformance::Method> methods = named();

}  // namespace
