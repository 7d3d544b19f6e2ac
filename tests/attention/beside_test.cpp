// tests/attention/beside_test.cpp - what a softmax counts beside the rows of a cache: learned sinks, and attention over rows elsewhere.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kvcompress/policies/full.hpp"
#include "kvcompress/policies/h2o.hpp"
#include "kvcompress/policies/snapkv.hpp"
#include "support/random_rows.hpp"

namespace {

using namespace kvcompress;
using namespace kvcompress::test;

const Shape shape{.query_heads = 4, .kv_heads = 2, .head_dim = 16};
const std::vector<float> sinks{0.5F, -std::numeric_limits<float>::infinity(), 3.0F, -2.0F};

struct Answer {
  Outputs out;
  std::vector<float> log_sum_exp;
};
/// Attention of the tokens [first, first + count), appended already, in one call.
template <class Cache>
Answer ask(Cache& cache, const Text& text, std::size_t first, std::size_t count, AttendOptions options = {}) {
  Answer answer{Outputs(count * text.output_width()), std::vector<float>(count * shape.query_heads)};
  options.log_sum_exp = answer.log_sum_exp.data();
  cache.attend(0, text.query_rows(first, count), Output::tokens_first(answer.out.data(), count, shape.query_heads, shape.value_width()),
               options);
  return answer;
}
template <class Cache>
void add(Cache& cache, const Text& text, std::size_t first, std::size_t count) {
  cache.append(0, text.key_rows(first, count), text.value_rows(first, count));
}
void expect_near(const std::vector<float>& a, const std::vector<float>& b, float bound) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) { ASSERT_NEAR(a[i], b[i], bound) << i; }
}

TEST(Sinks, AreOneMoreTermOfTheDenominator) {
  const Text text(shape, 300, 1);
  KVCache<Full<float>> cache(shape);
  add(cache, text, 0, 300);
  const Answer plain = ask(cache, text, 200, 100);
  const Answer with = ask(cache, text, 200, 100, {.sinks = sinks});
  for (std::size_t i = 0; i < plain.log_sum_exp.size(); ++i) {
    const double sink = static_cast<double>(sinks[i % shape.query_heads]);
    const double rows = static_cast<double>(plain.log_sum_exp[i]);
    EXPECT_NEAR(static_cast<double>(with.log_sum_exp[i]), std::log(std::exp(rows) + std::exp(sink)), 1e-5);
    const double keep = 1.0 / (1.0 + std::exp(sink - rows));
    for (std::size_t c = 0; c < 16; ++c) {
      EXPECT_NEAR(static_cast<double>(with.out[i * 16 + c]), keep * static_cast<double>(plain.out[i * 16 + c]), 1e-5);
    }
  }
  std::vector<Workspace> workspaces(2, Workspace(shape));  // the parts of one token's rows are merged before the sinks
  Outputs out(text.output_width());
  cache.attend(0, text.query_rows(299, 1), Output::tokens_first(out.data(), 1, 4, 16), workspaces, SerialExecutor{}, {.sinks = sinks});
  EXPECT_EQ(out, Outputs(with.out.end() - static_cast<std::ptrdiff_t>(text.output_width()), with.out.end()));
}

TEST(Partials, OfThePartsOfATextAreAttentionOverAllOfIt) {
  const Text text(shape, 300, 2);
  KVCache<Full<float>> whole(shape);
  KVCache<Full<float>> prefix(shape);
  KVCache<Full<float>> middle(shape);
  KVCache<Full<float>> rest(shape);
  add(whole, text, 0, 300);
  add(prefix, text, 0, 120);
  add(middle, text, 120, 130);
  add(rest, text, 250, 50);
  // The last 50 tokens are rows of `rest`; the others are asked with the same queries at rows of their own that see all there are.
  const Answer all = ask(whole, text, 250, 50, {.sinks = sinks});
  for (std::size_t t = 250; t < 300; ++t) {
    const Answer a = ask(prefix, text, t, 1);
    const Answer b = ask(middle, text, t, 1);
    const Partial parts[] = {{a.log_sum_exp.data(), a.out.data()}, {b.log_sum_exp.data(), b.out.data()}};
    KVCache<Full<float>> own(shape);
    add(own, text, 250, t - 249);
    const Answer merged = ask(own, text, t, 1, {.sinks = sinks, .partials = parts});
    const std::size_t at = t - 250;
    expect_near(
        merged.out,
        Outputs(all.out.begin() + static_cast<std::ptrdiff_t>(at * 64), all.out.begin() + static_cast<std::ptrdiff_t>(at * 64 + 64)),
        1e-5F);
    expect_near(
        merged.log_sum_exp,
        {all.log_sum_exp.begin() + static_cast<std::ptrdiff_t>(at * 4), all.log_sum_exp.begin() + static_cast<std::ptrdiff_t>(at * 4 + 4)},
        1e-5F);
    Answer by_hand = a;
    merge({a.log_sum_exp.data(), a.out.data()}, {b.log_sum_exp.data(), b.out.data()}, 4, 16, by_hand.log_sum_exp.data(),
          by_hand.out.data());
    const Answer mine = ask(own, text, t, 1, {.sinks = sinks});
    merge({by_hand.log_sum_exp.data(), by_hand.out.data()}, {mine.log_sum_exp.data(), mine.out.data()}, 4, 16, by_hand.log_sum_exp.data(),
          by_hand.out.data());
    expect_near(by_hand.out, merged.out, 1e-5F);
  }
}

TEST(Partials, AQueryThatSeesNothingAnywhereGivesZero) {
  const float none = -std::numeric_limits<float>::infinity();
  const float lse[] = {none, 1.0F};
  const float out[] = {0.0F, 7.0F};
  float merged_lse[2];
  float merged[2];
  const float nothing[] = {none, none};
  const float zero[] = {0.0F, 0.0F};
  merge({lse, out}, {nothing, zero}, 2, 1, merged_lse, merged);
  EXPECT_EQ(merged_lse[0], none);
  EXPECT_EQ(merged[0], 0.0F);
  EXPECT_EQ(merged_lse[1], 1.0F);
  EXPECT_EQ(merged[1], 7.0F);
}

/// Sums of probabilities over rows: what the sinks take is not there.
TEST(Sinks, ReachWhatPoliciesObserve) {
  const Text text(shape, 80, 3);
  KVCache<H2O> h2o(shape, {.eviction = {.budget = 100}});
  add(h2o, text, 0, 80);
  const Answer answer = ask(h2o, text, 0, 80, {.sinks = sinks});
  for (std::size_t head = 0; head < 2; ++head) {
    double sum = 0.0;
    for (std::size_t row = 0; row < 80; ++row) { sum += static_cast<double>(h2o.state(0, head).get(row, 0)); }
    double expected = 0.0;
    for (std::size_t t = 0; t < 80; ++t) {
      for (std::size_t h = 2 * head; h < 2 * head + 2; ++h) {
        expected += 1.0 - std::exp(static_cast<double>(sinks[h]) - static_cast<double>(answer.log_sum_exp[t * 4 + h]));
      }
    }
    EXPECT_NEAR(sum, expected, 1e-3);
  }
  // The last queries of a prompt, of which only the softmax is kept: heads that a sink silences vote less.
  KVCache<SnapKV> snap(shape, {.eviction = {.budget = 30, .window = 8, .kernel = 1}});
  KVCache<SnapKV> in_pieces(shape, {.eviction = {.budget = 30, .window = 8, .kernel = 1}});
  KVCache<SnapKV> without(shape, {.eviction = {.budget = 30, .window = 8, .kernel = 1}});
  std::vector<float> strong(4, 0.0F);
  strong[0] = strong[2] = 30.0F;
  add(snap, text, 0, 80);
  add(without, text, 0, 80);
  static_cast<void>(ask(snap, text, 0, 80, {.sinks = strong}));
  static_cast<void>(ask(without, text, 0, 80));
  for (std::size_t t = 0; t < 80; t += 5) {
    add(in_pieces, text, t, 5);
    static_cast<void>(ask(in_pieces, text, t, 5, {.sinks = strong}));
  }
  for (KVCache<SnapKV>* cache : {&snap, &in_pieces, &without}) { cache->end_prompt(0); }
  Text one_head = text;  // the silenced heads alike: their queries do not matter
  for (std::size_t t = 0; t < 80; ++t) {
    for (const std::size_t h : {0U, 2U}) {
      std::fill_n(one_head.queries.begin() + static_cast<std::ptrdiff_t>((t * 4 + h) * 16), 16, 0.0F);
    }
  }
  KVCache<SnapKV> alone(shape, {.eviction = {.budget = 30, .window = 8, .kernel = 1}});
  add(alone, one_head, 0, 80);
  static_cast<void>(ask(alone, one_head, 0, 80, {.sinks = strong}));
  alone.end_prompt(0);
  for (std::size_t head = 0; head < 2; ++head) {
    EXPECT_EQ(snap.kept(0, head), in_pieces.kept(0, head));
    EXPECT_EQ(snap.kept(0, head), alone.kept(0, head));
    EXPECT_NE(snap.kept(0, head), without.kept(0, head));
  }
}

TEST(Sinks, BadOnesAreRefused) {
  const Text text(shape, 4, 4);
  KVCache<Full<float>> cache(shape);
  add(cache, text, 0, 4);
  const auto refused = [&](const AttendOptions& options, const std::string& sentence) {
    try {
      static_cast<void>(ask(cache, text, 3, 1, options));
      ADD_FAILURE() << sentence;
    } catch (const Error& error) { EXPECT_EQ(error.what(), "kvcompress: attend: " + sentence); }
  };
  const std::vector<float> few{1.0F};
  const std::vector<float> bad{0.0F, 0.0F, std::numeric_limits<float>::quiet_NaN(), 0.0F};
  refused({.sinks = few}, "sinks has 1 numbers, must have one for each of the 4 query heads");
  refused({.sinks = bad}, "sinks[2] is nan, must be at most 1.12589991e+15");
  const Partial none{};
  refused({.partials = {&none, 1}}, "partials[0] is null, must have a log-sum-exp and an output");
}

}  // namespace
