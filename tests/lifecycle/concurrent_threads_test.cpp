// tests/lifecycle/concurrent_threads_test.cpp - attend on disjoint KV heads from two threads, and caches of their own per thread.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <thread>

#include "kvcompress/policies/shadowkv.hpp"
#include "support/policies.hpp"

namespace concurrent_threads_test {

using namespace kvcompress;
using namespace kvcompress::test;

const Shape shape{.query_heads = 8, .kv_heads = 4, .head_dim = 32};

/// Appends tokens and attends them, the KV heads [0, 2) and [2, 4) on a thread each.
template <class P>
Outputs step_on_two_threads(KVCache<P>& cache, const Text& text, std::size_t first, std::size_t count) {
  Outputs out(count * text.output_width(), -1.0F);
  cache.append(0, text.key_rows(first, count), text.value_rows(first, count));
  const auto half = [&](std::size_t from) {
    Workspace workspace(shape);
    cache.attend(0, text.query_rows(first, count), Output::tokens_first(out.data(), count, 8, 32), workspace, {},
                 HeadRange{from, from + 2});
  };
  std::thread other([&] { half(2); });
  half(0);
  other.join();
  return out;
}

template <class P>
class Concurrent : public ::testing::Test {};
using SomePolicies =
    ::testing::Types<StreamingLLM, SnapKV, Combine<H2O, Kivi<2, 32, 32>>, Combine<Quest, Kivi<4, 32, 32>>, Gear<4>, ShadowKV<>>;
TYPED_TEST_SUITE(Concurrent, SomePolicies);

TYPED_TEST(Concurrent, AttendOnTwoThreadsEqualsOneCallBitForBit) {
  const Text text(shape, 160, 71);
  auto options = options_with<TypeParam>(48);
  options.speculation = 1;
  KVCache<TypeParam> one(shape, options);
  KVCache<TypeParam> two(shape, options);
  for (std::size_t t = 0, count = 0; t < text.tokens; t += count) {
    count = t == 0 ? 80 : std::min<std::size_t>(t % 3 + 1, text.tokens - t);
    ASSERT_TRUE(step_on_two_threads(two, text, t, count) == step(one, text, t, count)) << "tokens from " << t;
    if (t == 0) {
      one.end_prompt(0);
      two.end_prompt(0);
    }
  }
  for (std::size_t head = 0; head < 4; ++head) { EXPECT_EQ(two.kept(0, head), one.kept(0, head)); }
}

TYPED_TEST(Concurrent, ForksGoOnByThemselvesOnOtherThreads) {
  const Text text(shape, 160, 72);
  KVCache<TypeParam> origin(shape, options_with<TypeParam>(48));
  static_cast<void>(run(origin, text, 80, 100));
  KVCache<TypeParam> fork = origin.fork();
  KVCache<TypeParam> expected(origin);
  const auto go_on = [&](KVCache<TypeParam>& cache) {
    Outputs all;
    for (std::size_t t = 100; t < text.tokens; ++t) {
      const Outputs out = step(cache, text, t, 1);
      all.insert(all.end(), out.begin(), out.end());
    }
    return all;
  };
  Outputs of_fork;
  std::thread other([&] { of_fork = go_on(fork); });
  const Outputs of_origin = go_on(origin);
  other.join();
  const Outputs wanted = go_on(expected);
  EXPECT_TRUE(of_origin == wanted);
  EXPECT_TRUE(of_fork == wanted);
}

}  // namespace concurrent_threads_test
