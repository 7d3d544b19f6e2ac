// tests/core/concepts_test.cpp - the library's own parts model the concepts (not asserted in their headers, where every user would pay).
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include "kvcompress/kvcompress.hpp"

namespace concepts_test {

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

/// What a codec of keys must have, and nothing else; its rows cost nothing.
struct KeyCodec {
  using exact_type = float;
  static constexpr std::size_t block_rows = 16;
  static constexpr std::size_t row_multiple = 1;
  KeyCodec(const auto& /*options*/, std::size_t /*dim*/, const Memory& /*memory*/) {}
  [[nodiscard]] static std::size_t rows() noexcept { return 0; }
  void append(const float* /*rows*/, std::size_t /*count*/) {}
  void read(std::size_t /*row*/, float* /*out*/) const noexcept {}
  void move(std::size_t /*from*/, std::size_t /*to*/) {}
  void resize(std::size_t /*rows*/) noexcept {}
  void erase_block(std::size_t /*first*/) noexcept {}
  void make_room(std::size_t /*more*/) {}
  void reserve(std::size_t /*rows*/) {}
  void unshare() {}
  void hold() noexcept {}
  void release() noexcept {}
  void take_room(KeyCodec& /*from*/) noexcept {}
  void hold_at_most(std::size_t /*rows*/) noexcept {}
  [[nodiscard]] static std::size_t scratch_floats(std::size_t /*dim*/, std::size_t /*queries*/) noexcept { return 0; }
  void account(MemoryReport& /*report*/) const noexcept {}
  void scores(RowRange /*range*/, const float* /*queries*/, std::size_t /*stride*/, std::size_t /*count*/, float* /*logits*/,
              std::size_t /*logit_stride*/, float* /*scratch*/) const noexcept {}
};
static_assert(Codec<KeyCodec> && RotatedKeyStore<Buffered<KeyCodec, FlushOldest>> && !ValueStore<Buffered<KeyCodec, FlushOldest>>);
static_assert(Codec<PerChannel<4, 32, half>> && Codec<PerToken<4, 32, half>>);
static_assert(detail::FramesQueries<Buffered<KeyCodec, FlushOldest, BlockHadamard>>);
static_assert(!detail::FramesQueries<Buffered<KeyCodec, FlushOldest>>);

TEST(Concepts, PoliciesModelPolicy) {
  EXPECT_TRUE((works<Full<>> && works<Kivi<2>> && works<Gear<4>> && works<Quest> && works<Landmarks>));
  EXPECT_TRUE(
      (works<StreamingLLM> && works<H2O> && works<SnapKV> && works<TOVA> && works<AdaKV> && works<Combine<SnapKV, Kivi<4>, Quest>>));
}

}  // namespace concepts_test
