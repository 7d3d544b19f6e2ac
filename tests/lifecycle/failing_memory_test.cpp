// tests/lifecycle/failing_memory_test.cpp - a memory handle that gives nothing at the n-th call: an Error, no leak, a usable cache.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <optional>

#include "support/counting_memory.hpp"
#include "support/policies.hpp"

namespace {

using namespace kvcompress;
using namespace kvcompress::test;

const Shape small{.query_heads = 2, .kv_heads = 2, .head_dim = 16};
constexpr std::size_t prompt = 70;
constexpr std::size_t tokens = 160;

/// Calls `action`; if memory fails, allows it again and calls it once more. Returns whether it failed.
template <class Action>
bool again_if_refused(CountingMemory& memory, Action&& action) {
  try {
    action();
    return false;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::memory);
    EXPECT_NE(std::string(error.what()).find("bytes"), std::string::npos) << error.what();
  }
  memory.allow();
  action();
  return true;
}

/// A prompt in two appends, decoding with a burst of five tokens now and then, a fork written to on the way. Verbs that meet a refusal are
/// called again.
template <class P>
Outputs workload(CountingMemory& memory, std::size_t refuse_after, bool& refused) {
  const Text text(small, tokens, 11);
  std::optional<KVCache<P>> cache;
  memory.refuse_after(refuse_after);
  refused = again_if_refused(memory, [&] { cache.emplace(small, options_with<P>(40), memory.handle()); });
  Outputs all;
  const auto append = [&](std::size_t first, std::size_t count) {
    const auto before = cache->memory().total();
    const auto held = memory.bytes;
    EXPECT_EQ(before, held);
    refused |= again_if_refused(memory, [&] { cache->append(0, text.key_rows(first, count), text.value_rows(first, count)); });
  };
  const auto commit = [&](auto verb) { refused |= again_if_refused(memory, verb); };
  append(0, 30);
  append(30, prompt - 30);
  Workspace workspace(small);  // of the default handle: attend's own scratch does not fail here
  const auto look = [&](std::size_t end, std::size_t count) {
    Outputs out(count * text.output_width());
    refused |= again_if_refused(
        memory, [&] { cache->attend(0, text.query_rows(end - count, count), Output::tokens_first(out.data(), count, 2, 16), workspace); });
    all.insert(all.end(), out.begin(), out.end());
  };
  look(prompt, prompt);
  commit([&] { cache->end_prompt(0); });
  std::optional<KVCache<P>> fork;
  for (std::size_t t = prompt, count = 0; t < tokens; t += count) {
    count = std::min<std::size_t>(t % 3 == 0 ? 5 : 1, tokens - t);
    if (t == prompt + 20) {
      commit([&] { cache->commit(0); });
      refused |= again_if_refused(memory, [&] { fork.emplace(cache->fork()); });
    }
    if (t < prompt + 20 || !fork) {
      append(t, count);
    } else {
      refused |= again_if_refused(memory, [&] { cache->append(0, text.key_rows(t, count), text.value_rows(t, count)); });
    }
    look(t + count, count);
    commit([&] { cache->commit(0); });
  }
  memory.allow();
  return all;
}

template <class P>
class FailingMemory : public ::testing::Test {};
TYPED_TEST_SUITE(FailingMemory, Policies);

TYPED_TEST(FailingMemory, AVerbThatFailedCanBeCalledAgainAndNothingIsLost) {
  CountingMemory plenty;
  bool refused = false;
  const Outputs expected = workload<TypeParam>(plenty, static_cast<std::size_t>(-1), refused);
  ASSERT_FALSE(refused);
  ASSERT_EQ(plenty.live, 0U);
  for (std::size_t n = 0; n < plenty.calls; ++n) {
    CountingMemory memory;
    Outputs out;
    ASSERT_NO_THROW(out = workload<TypeParam>(memory, n, refused)) << "refused at allocation " << n;
    EXPECT_TRUE(refused) << n;
    EXPECT_EQ(memory.live, 0U) << "leak after a refusal at allocation " << n;
    ASSERT_LT(deviation(out, expected), 1e-5) << "refused at allocation " << n;  // rows may lie in another order now
  }
}

}  // namespace
