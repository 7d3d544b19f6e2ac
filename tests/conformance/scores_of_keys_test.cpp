// tests/conformance/scores_of_keys_test.cpp - scorers that read keys and values against the official implementations.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include "kvcompress/policies/knorm.hpp"
#include "support/eviction_cases.hpp"

namespace {

using namespace kvcompress;
using conformance::Case;
using conformance::expect_kept;
using conformance::prompt;
using conformance::score_deviation;
using conformance::Watched;
using test::HeadArray;

/// The first `tokens` rows, as many as the case has.
HeadArray first_rows(const Case& one, const HeadArray& all) {
  const auto tokens = one.get<std::size_t>("tokens");
  HeadArray some(all.heads, tokens, all.dim);
  for (std::size_t head = 0; head < all.heads; ++head) {
    std::copy_n(all.data.begin() + static_cast<std::ptrdiff_t>(head * all.tokens * all.dim), tokens * all.dim,
                some.data.begin() + static_cast<std::ptrdiff_t>(head * tokens * all.dim));
  }
  return some;
}
/// Scores and kept rows of one prompt, with the scores as they are.
template <class S>
void expect_scores(const Case& one, const HeadArray& v, const typename S::Options& scorer, double bound) {
  const HeadArray k = first_rows(one, HeadArray(one.array("k_postrope")));
  const auto cache = prompt<S, Evict<Watched<S>>>(k, k, first_rows(one, v), {.budget = one.get<std::size_t>("n_kept"), .scorer = scorer});
  const auto at = [](std::size_t head, std::size_t row) { return static_cast<double>(Watched<S>::scores.at(head).at(row)); };
  expect_kept(one, cache, 0, k.heads, at, 0.0);
  conformance::expect_within(one, "scores", score_deviation(one, k.heads, 0, at), bound);
}

TEST(Knorm, ReproducesTheOfficialVectors) {
  conformance::run_cases("knorm",
                         {{"scores", [](const Case& one) { expect_scores<KeyNorm>(one, HeadArray(one.array("k_postrope")), {}, 4e-6); }}});
}

const conformance::Method knorm("knorm", {});

}  // namespace
