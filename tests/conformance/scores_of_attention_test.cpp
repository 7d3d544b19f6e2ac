// tests/conformance/scores_of_attention_test.cpp - scorers that observe attention against the official implementations.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include "kvcompress/eviction/scorers/average_attention.hpp"
#include "support/eviction_cases.hpp"

namespace {

using namespace kvcompress;
using conformance::Case;
using conformance::expect_kept;
using conformance::first_rows;
using conformance::prompt;
using conformance::score_deviation;
using conformance::Watched;
using test::HeadArray;

TEST(ObservedAttention, ReproducesTheOfficialVectors) {
  using S = Watched<AverageAttention>;
  conformance::run_cases("observed_attention", {{"scores",
                                                 [](const Case& one) {
    const HeadArray q = first_rows(one, "q_postrope");
    const HeadArray k = first_rows(one, "k_postrope");
    const auto cache = prompt<AverageAttention, Evict<S>>(q, k, k, {.budget = one.get<std::size_t>("n_kept")});
    const auto at = [](std::size_t head, std::size_t row) { return static_cast<double>(S::scores.at(head).at(row)); };
    expect_kept(one, cache, 0, k.heads, at, 0.0);
    conformance::expect_within(one, "scores", score_deviation(one, k.heads, 0, at), 4e-7);
                                                 }}});
}

const conformance::Method observed_attention("observed_attention", {});

}  // namespace
