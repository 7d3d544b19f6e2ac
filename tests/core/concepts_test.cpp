// tests/core/concepts_test.cpp - the library's own parts model the concepts (not asserted in their headers, where every user would pay).
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include "kvcompress/kvcompress.hpp"

namespace {

using namespace kvcompress;

template <PolicyPart P>
constexpr bool works = Policy<P>;

static_assert(Eviction<KeepAll> && !ObservesAttention<KeepAll>);
static_assert(Eviction<SinkWindow> && !HasBudget<SinkWindow>);
static_assert(ObservesAttention<HeavyHitters> && HasBudget<HeavyHitters>);
static_assert(ObservesAttention<ObservationWindow> && HasBudget<ObservationWindow>);
static_assert(Scorer<AccumulatedAttention> && Scorer<WindowAttention> && Scorer<LastAttention> && Scorer<KeyDifference>);
static_assert(BudgetAllocator<Uniform> && BudgetAllocator<Pyramid> && BudgetAllocator<Ada> && Selector<Best>);
static_assert(HasBudget<Evict<LastAttention>> && !ObservesAttention<Evict<KeyDifference>>);
static_assert(Retrieval<ReadAll> && Retrieval<PageBounds<half>> && Retrieval<LandmarkIndex<float>>);
static_assert(RotatedKeyStore<Exact<half>> && ValueStore<Exact<half>> && !UnrotatedKeyStore<Exact<half>> && !Prepares<Exact<half>>);

TEST(Concepts, PoliciesModelPolicy) {
  EXPECT_TRUE((works<Full<>> && works<Kivi<2>> && works<Gear<4>> && works<Quest> && works<Landmarks>));
  EXPECT_TRUE(
      (works<StreamingLLM> && works<H2O> && works<SnapKV> && works<TOVA> && works<AdaKV> && works<Combine<SnapKV, Kivi<4>, Quest>>));
}

}  // namespace
