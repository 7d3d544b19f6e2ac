// tests/registry/capabilities_test.cpp - what a policy is said to do before a cache is made is what the cache does.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "kvcompress/capabilities.hpp"
#include "registry/registry.hpp"
#include "support/random_rows.hpp"

namespace capabilities_test {

using namespace kvcompress;
using namespace kvcompress::test;

const Shape shape{.layers = 2, .query_heads = 4, .kv_heads = 2, .head_dim = 64};

Capabilities of(const std::string& policy) { return capabilities<AnyPolicy>(shape, examples::registry().options(policy, shape)); }
/// What it is refused with; empty if it is not.
std::string refusal(auto&& act) {
  try {
    act();
  } catch (const Error& error) { return error.what(); }
  return {};
}
/// The cache after a prompt of 300 tokens and six more one by one, all committed.
AnyCache settled(const std::string& policy, const Text& text) {
  AnyCache cache = examples::registry().make(policy, shape);
  for (std::size_t layer = 0; layer < 2; ++layer) { static_cast<void>(step(cache, text, 0, 300, layer)); }
  for (std::size_t layer = 0; layer < 2; ++layer) { cache.end_prompt(layer); }
  for (std::size_t t = 300; t < 306; ++t) {
    for (std::size_t layer = 0; layer < 2; ++layer) { static_cast<void>(step(cache, text, t, 1, layer)); }
  }
  for (std::size_t layer = 0; layer < 2; ++layer) { cache.commit(layer); }
  return cache;
}

TEST(Capabilities, AreWhatACacheDoes) {
  const Text text(shape, 310, 1);
  const std::vector<float> slopes(4, 0.1F);
  const std::vector<std::string> policies{"f16",
                                          "f32+quest:budget=64,page=8",
                                          "f32+landmarks:budget=64",
                                          "kivi4:residual=32",
                                          "kivi2:residual=32+quest:budget=64,page=8",
                                          "gear4",
                                          "rot4",
                                          "h2o:budget=100+kivi4:residual=32",
                                          "h2o:budget=100,in_cache_positions=true",
                                          "snapkv:budget=64",
                                          "tova:budget=100",
                                          "keydiff:budget=100",
                                          "expected_attention:budget=100",
                                          "streaming:sinks=4,window=60",
                                          "h2o:budget=100+demote+tiers4",
                                          "xkv:layers_per_group=2,rank_keys=32,rank_values=32",
                                          "shadowkv:rank=32,budget=64",
                                          "layers 0: f16; rest: snapkv:budget=64+kivi4:residual=32"};
  std::set<std::string> seen;
  for (const std::string& policy : policies) {
    const Capabilities says = of(policy);
    AnyCache cache = settled(policy, text);
    std::size_t live = 306;
    for (std::size_t head = 0; head < 2; ++head) { live = std::min(live, cache.table(1, head).live()); }
    EXPECT_EQ(says.evicts, live < 306) << policy;
    EXPECT_EQ(says.keeps_every_row, live == 306) << policy;
    EXPECT_EQ(says.encodes, cache.memory().codes + cache.memory().factors > 0) << policy;
    EXPECT_EQ(says.offloads, cache.memory().slow_tier > 0) << policy;
    EXPECT_EQ(says.in_cache_positions, cache.table(0, 0).renumbers()) << policy;
    EXPECT_EQ(says.layers_together, policy.starts_with("xkv") ? 2U : 1U) << policy;
    AnyCache unseen = examples::registry().make(policy, shape);
    for (std::size_t layer = 0; layer < 2; ++layer) { unseen.append(layer, text.key_rows(0, 300), text.value_rows(0, 300)); }
    EXPECT_EQ(says.needs_prompt_queries, !refusal([&] {
                                            unseen.end_prompt(0);
                                            unseen.end_prompt(1);
                                          }).empty())
        << policy;
    EXPECT_FALSE(says.needs_kept_queries) << policy;
    AnyCache moved = cache.fork();
    const std::string shift = refusal([&] { moved.shift(0, 306, 5); });
    EXPECT_EQ(says.shift.empty(), shift.empty()) << policy << ": " << shift;
    AnyCache asked = cache.fork();
    for (std::size_t layer = 0; layer < 2; ++layer) { asked.append(layer, text.key_rows(306, 1), text.value_rows(306, 1)); }
    const std::string alibi = refusal([&] { static_cast<void>(attend(asked, text, 307, 1, 1, {.alibi_slopes = slopes})); });
    EXPECT_EQ(says.alibi.empty(), alibi.empty()) << policy << ": " << alibi;
    EXPECT_NE(alibi.find(says.alibi), std::string::npos) << policy << ": " << alibi;
    const std::string elsewhere = refusal([&] { static_cast<void>(attend(asked, text, 307, 1, 1, {.query_position = 307})); });
    EXPECT_EQ(says.query_position.empty(), elsewhere.empty()) << policy << ": " << elsewhere;
    EXPECT_NE(elsewhere.find(says.query_position), std::string::npos) << policy << ": " << elsewhere;
    AnyCache drafted = cache.fork();
    for (std::size_t layer = 0; layer < 2; ++layer) { static_cast<void>(step(drafted, text, 306, 2, layer)); }
    EXPECT_EQ(says.drafts.empty(), refusal([&] { drafted.truncate(307); }).empty()) << policy;
    // Below the last commit: where nothing is encoded everything, else what is exact.
    using enum Capabilities::Truncates;
    AnyCache shorter = cache.fork();
    EXPECT_EQ(says.truncates == anywhere, refusal([&] { shorter.truncate(10); }).empty() && !says.retrieves) << policy;
    AnyCache a_little = cache.fork();
    EXPECT_EQ(says.truncates != last_commit, refusal([&] { a_little.truncate(305); }).empty()) << policy;
    seen.insert(std::string(says.shift) + "|" + std::string(says.alibi) + "|" + std::to_string(static_cast<int>(says.truncates)));
  }
  EXPECT_GE(seen.size(), 5U);
  EXPECT_NEAR(of("f16").bytes_per_token, 1024.0, 2.0);
  EXPECT_LT(of("kivi4").bytes_per_token, 0.35 * of("f16").bytes_per_token);
}

TEST(Capabilities, EveryPolicyHasThemAndWhatIsRefusedSaysWhy) {
  const auto names = examples::registry().policies();
  std::size_t evict = 0;
  for (const std::string& name : names) {
    const std::string why = refusal([&] { evict += of(name).evicts ? 1U : 0U; });
    const std::string of_cache = refusal([&] { static_cast<void>(examples::registry().make(name, shape)); });
    EXPECT_EQ(why, of_cache) << name;
  }
  EXPECT_GT(evict, names.size() / 2);
  EXPECT_NE(refusal([] { static_cast<void>(of("h2o+quest")); }).find("observes the probabilities of every row for every query"),
            std::string::npos);
}

}  // namespace capabilities_test
