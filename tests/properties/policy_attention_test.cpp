// tests/properties/policy_attention_test.cpp - what every policy promises about its outputs: exactness, chunks, lanes, determinism.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <functional>

#include "support/policies.hpp"

namespace policy_attention_test {

using namespace kvcompress;
using namespace kvcompress::test;

const Shape small{.query_heads = 4, .kv_heads = 2, .head_dim = 32};

template <class P>
class PolicyAttention : public ::testing::Test {};
TYPED_TEST_SUITE(PolicyAttention, Policies);

TYPED_TEST(PolicyAttention, EveryOutputIsAttentionOverTheHeldRows) {
  const Text text(small, 330, 1);
  for (const Accumulation mode : tested_modes) {
    KVCache<TypeParam> cache(small, options_with<TypeParam>(48, mode));
    for (std::size_t first = 0, count = 0; first < text.tokens; first += count) {
      count = first == 0 ? 70 : first % 7 == 0 ? 5 : 1;  // a prompt, then single and several tokens
      count = std::min(count, text.tokens - first);
      const Outputs out = step(cache, text, first, count);
      const Outputs expected = attention_over_held_rows(cache, text, first + count, count);
      ASSERT_LT(deviation(out, expected), 3e-5 + accumulation_slack(mode)) << "tokens " << first << " to " << first + count;
      first == 0 ? cache.end_prompt(0) : cache.commit(0);
    }
    if (!encodes<TypeParam>) { break; }
  }
}

/// Drafts that are verified in one call are what decoding them one by one would have been.
TYPED_TEST(PolicyAttention, AQueryHasTheSameBitsInAnyCompany) {
  constexpr std::size_t drafts = 100;
  for (const auto& [heads, dim] : {std::pair<std::size_t, std::size_t>{2, 32}, {14, 20}}) {
    const Shape shape{.query_heads = heads, .kv_heads = 2, .head_dim = dim};
    Text text(shape, 300 + drafts, 12);
    for (std::size_t i = 0; i < text.keys.size(); ++i) { text.keys[i] *= i % dim % 9 == 4 ? 12.0F : 1.0F; }
    for (std::size_t i = 0; i < text.queries.size(); ++i) { text.queries[i] *= i % 97 == 0 ? 30.0F : i % dim % 9 == 4 ? 0.2F : 1.0F; }
    KVCache<TypeParam> cache(shape, options_with<TypeParam>(120));
    static_cast<void>(run(cache, text, 290, 300));
    for (const AttendOptions& options : {AttendOptions{}, AttendOptions{.soft_cap = 20.0F, .window = 60, .start = 250}}) {
      KVCache<TypeParam> together = cache.fork();
      together.append(0, text.key_rows(300, drafts), text.value_rows(300, drafts));
      const Outputs all = attend(together, text, 300 + drafts, drafts, 0, options);
      const auto part = [&](std::size_t end, std::size_t count) {
        const auto at = [&](std::size_t token) { return all.begin() + static_cast<std::ptrdiff_t>((token - 300) * text.output_width()); };
        return Outputs(at(end - count), at(end));
      };
      for (const std::size_t count : {1U, 2U, 7U, 33U}) {  // as many queries a call
        ASSERT_TRUE(attend(together, text, 300 + drafts, count, 0, options) == part(300 + drafts, count)) << count << " queries";
        for (std::size_t end = 300 + count; end <= 300 + drafts; end += 33) {
          KVCache<TypeParam> fewer = cache.fork();
          fewer.append(0, text.key_rows(300, end - 300), text.value_rows(300, end - 300));
          ASSERT_TRUE(attend(fewer, text, end, count, 0, options) == part(end, count)) << count << " queries up to token " << end;
        }
      }
    }
  }
}

TYPED_TEST(PolicyAttention, HoldsItsBudgetTheNewestRowsAndNoPositionTwice) {
  for (const std::size_t budget : {24U, 48U, 90U}) {
    const Text text(small, 400, 10);
    KVCache<TypeParam> cache(small, options_with<TypeParam>(budget));
    static_cast<void>(step(cache, text, 0, 100));
    for (std::size_t t = 100; t <= text.tokens; ++t) {
      t == 100 ? cache.end_prompt(0) : cache.commit(0);
      for (std::size_t lane = 0; lane < small.kv_heads; ++lane) {
        const auto kept = cache.kept(0, lane);
        ASSERT_LE(kept.size(), evicts<TypeParam> ? budget : t);
        ASSERT_GE(kept.size(), evicts<TypeParam> ? budget - budget / 3 : t);
        ASSERT_TRUE(std::ranges::adjacent_find(kept, std::greater_equal<>()) == kept.end()) << "ascending, none twice";
        for (std::size_t i = 0; i < 8; ++i) { ASSERT_EQ(kept[kept.size() - 1 - i], t - 1 - i); }
        const RowTable& table = cache.table(0, lane);
        ASSERT_EQ(table.live(), kept.size());
        ASSERT_LE(table.rows(), 2 * table.live()) << "more dead rows than live ones";
        ASSERT_EQ(cache.keys(0, lane).rows(), table.rows());
        ASSERT_EQ(cache.values(0, lane).rows(), table.rows());
        if constexpr (std::is_same_v<EvictionOf<TypeParam>, SinkWindow>) {
          for (std::size_t i = 0; i < 4; ++i) { ASSERT_EQ(kept[i], i) << "the sinks"; }
        }
      }
      if (t < text.tokens) { static_cast<void>(step(cache, text, t, 1)); }
    }
  }
}

TYPED_TEST(PolicyAttention, PromptOutputIsFullAttention) {
  const Text text(small, 150, 2);
  KVCache<TypeParam> cache(small, options_with<TypeParam>(48));
  EXPECT_LT(deviation(step(cache, text, 0, text.tokens), full_attention(text)), 8 * row_rounding<TypeParam> + 2e-5);
}

TYPED_TEST(PolicyAttention, FullBudgetAndResidualEqualFullAttention) {
  const Text text(small, 150, 3);
  auto options = options_with<TypeParam>();
  if constexpr (encodes<TypeParam>) { options.storage.residual = 160; }
  KVCache<TypeParam> cache(small, options);
  EXPECT_LT(deviation(run(cache, text, 90, text.tokens), full_attention(text)), 8 * row_rounding<TypeParam> + 2e-5);
  EXPECT_EQ(cache.kept(0, 0).size(), text.tokens);
}

TYPED_TEST(PolicyAttention, AnyChunksOfAPromptGiveTheSameOutputsAndState) {
  const Text text(small, 200, 5);
  constexpr std::size_t prompt = 170;
  KVCache<TypeParam> whole(small, options_with<TypeParam>(48));
  const Outputs expected = run(whole, text, prompt, text.tokens);
  for (const std::size_t chunk : {1U, 7U, 32U, 64U, 169U}) {
    KVCache<TypeParam> cache(small, options_with<TypeParam>(48));
    Outputs out;
    for (std::size_t first = 0; first < prompt; first += chunk) {
      const Outputs part = step(cache, text, first, std::min(chunk, prompt - first));
      out.insert(out.end(), part.begin(), part.end());
    }
    cache.end_prompt(0);
    for (std::size_t t = prompt; t < text.tokens; ++t) {
      const Outputs part = step(cache, text, t, 1);
      out.insert(out.end(), part.begin(), part.end());
    }
    cache.commit(0);
    EXPECT_TRUE(out == expected) << "chunks of " << chunk << ", deviation " << deviation(out, expected);
    EXPECT_EQ(cache.kept(0, 1), whole.kept(0, 1)) << "chunks of " << chunk;
  }
}

TYPED_TEST(PolicyAttention, LanesAndLayersAreIndependent) {
  const Shape two{.layers = 2, .query_heads = 4, .kv_heads = 2, .head_dim = 32};
  const Text text(two, 140, 6);
  Text other(two, 140, 7);  // the second KV head of `text`, with another first one
  const auto copy_head = [](std::vector<float>& to, const std::vector<float>& from, std::size_t heads, std::size_t dim, std::size_t first) {
    for (std::size_t at = 0; at < to.size(); at += heads * dim) {
      std::copy_n(from.begin() + static_cast<std::ptrdiff_t>(at + first * dim), (heads - first) * dim,
                  to.begin() + static_cast<std::ptrdiff_t>(at + first * dim));
    }
  };
  copy_head(other.keys, text.keys, 2, 32, 1);
  copy_head(other.values, text.values, 2, 32, 1);
  copy_head(other.queries, text.queries, 4, 32, 2);

  KVCache<TypeParam> a(two, options_with<TypeParam>(48));
  KVCache<TypeParam> b(two, options_with<TypeParam>(48));
  const Outputs out_a = run(a, text, 80, 140, 0);
  const Outputs out_b = run(b, other, 80, 140, 0);
  Outputs half_a;
  Outputs half_b;
  for (std::size_t at = 0; at < out_a.size(); at += 128) {
    half_a.insert(half_a.end(), out_a.begin() + static_cast<std::ptrdiff_t>(at + 64),
                  out_a.begin() + static_cast<std::ptrdiff_t>(at + 128));
    half_b.insert(half_b.end(), out_b.begin() + static_cast<std::ptrdiff_t>(at + 64),
                  out_b.begin() + static_cast<std::ptrdiff_t>(at + 128));
  }
  EXPECT_TRUE(half_a == half_b) << "the first KV head changed the second";
  EXPECT_EQ(a.kept(0, 1), b.kept(0, 1));
  EXPECT_TRUE(run(a, other, 80, 140, 1) == out_b) << "the first layer changed the second";
  EXPECT_EQ(a.kept(1, 0), b.kept(0, 0));
}

TYPED_TEST(PolicyAttention, TheSameInputGivesTheSameBits) {
  const Text text(small, 160, 8);
  KVCache<TypeParam> a(small, options_with<TypeParam>(48));
  KVCache<TypeParam> b(small, options_with<TypeParam>(48));
  EXPECT_TRUE(run(a, text, 100, text.tokens) == run(b, text, 100, text.tokens));
  EXPECT_EQ(a.kept(0, 0), b.kept(0, 0));
}

TYPED_TEST(PolicyAttention, UnrotatedInputGivesTheSameAsRotatedInput) {
  for (const RopePairing pairing : {RopePairing::half_split, RopePairing::interleaved}) {
    Shape plain = small;
    plain.keys = KeyForm::unrotated;
    plain.rope = {.theta = 500.0, .pairing = pairing, .rotary_dim = 16};
    Shape rotated = plain;
    rotated.keys = KeyForm::rotated;
    const Text text(plain, 60, 9);
    Text turned = text;
    Rotation rotation(plain, {});
    for (std::size_t t = 0; t < text.tokens; ++t) {
      rotation.turn_by(static_cast<std::int64_t>(t));
      for (std::size_t h = 0; h < 2; ++h) { rotation.apply(turned.keys.data() + (2 * t + h) * 32); }
      for (std::size_t h = 0; h < 4; ++h) { rotation.apply(turned.queries.data() + (4 * t + h) * 32); }
    }
    KVCache<TypeParam> a(plain, options_with<TypeParam>(24));
    KVCache<TypeParam> b(rotated, options_with<TypeParam>(24));
    EXPECT_TRUE(run(a, text, 40, text.tokens) == run(b, turned, 40, text.tokens));
    EXPECT_EQ(a.kept(0, 1), b.kept(0, 1));
  }
}

}  // namespace policy_attention_test
