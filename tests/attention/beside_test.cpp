// tests/attention/beside_test.cpp - what a softmax counts beside the rows of a cache: learned sinks, partial results, distances, newer rows.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "attention/answers.hpp"
#include "kvcompress/cache/attend_shared.hpp"
#include "kvcompress/policies/full.hpp"
#include "kvcompress/policies/h2o.hpp"
#include "kvcompress/policies/snapkv.hpp"
#include "kvcompress/policies/streaming_llm.hpp"
#include "support/errors.hpp"

namespace beside_test {

using namespace kvcompress;
using namespace kvcompress::test;

const Shape shape{.query_heads = 4, .kv_heads = 2, .head_dim = 16};
const std::vector<float> sinks{0.5F, -std::numeric_limits<float>::infinity(), 3.0F, -2.0F};

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

TEST(Alibi, TakesTheDistanceFromEveryLogit) {
  const Text text(shape, 300, 4);
  const std::vector<float> slopes{0.5F, 0.0625F, 0.0F, 0.01F};
  KVCache<Full<float>> cache(shape);
  add(cache, text, 0, 300);
  const Answer biased = ask(cache, text, 260, 40, {.soft_cap = 3.0F, .alibi_slopes = slopes});
  std::vector<float> query(16), key(16);
  for (std::size_t t = 260; t < 300; ++t) {
    for (std::size_t h = 0; h < 4; ++h) {
      text.query_rows(t, 1).load(0, h, query.data());
      double sum = 0.0;
      for (std::size_t r = 0; r <= t; ++r) {
        text.key_rows(r, 1).load(0, h / 2, key.data());
        double dot = 0.0;
        for (std::size_t c = 0; c < 16; ++c) { dot += static_cast<double>(query[c]) * static_cast<double>(key[c]); }
        sum += std::exp(3.0 * std::tanh(dot / 4.0 / 3.0) - static_cast<double>(slopes[h]) * static_cast<double>(t - r));
      }
      EXPECT_NEAR(static_cast<double>(biased.log_sum_exp[(t - 260) * 4 + h]), std::log(sum), 1e-4) << t << " " << h;
    }
  }
  KVCache<SnapKV> snapkv(shape);
  add(snapkv, text, 0, 40);
  EXPECT_NE(refusal([&] { ask(snapkv, text, 0, 40, {.alibi_slopes = slopes}); }).find("without their distance"), std::string::npos);
  EXPECT_NE(refusal([&] { ask(cache, text, 299, 1, {.alibi_slopes = std::span(slopes).first(3)}); }).find("has 3 numbers"),
            std::string::npos);
}

/// By type, what masks_test.cpp of the registry looks at by name.
TEST(Until, ReachesWhatPoliciesObserve) {
  const Text text(shape, 80, 6);
  std::vector<Position> until(80, 50);
  std::fill(until.begin() + 50, until.end(), Position{80});
  KVCache<H2O> h2o(shape, {.eviction = {.budget = 100}});
  add(h2o, text, 0, 80);
  const Answer answer = ask(h2o, text, 0, 80, {.until = until});
  reference::AttentionOptions options;
  options.until = reference::consecutive(0, 80);
  for (reference::Index t = 0; t < 80; ++t) { options.until(t) = until[static_cast<std::size_t>(t)]; }
  for (std::size_t head = 0; head < 2; ++head) {
    reference::Vector sums = reference::Vector::Zero(80);
    for (std::size_t h = 2 * head; h < 2 * head + 2; ++h) {
      const auto result = reference::attention(text.query_matrix(h), text.key_matrix(head), text.value_matrix(head),
                                               reference::consecutive(0, 80), reference::consecutive(0, 80), options);
      sums += reference::column_sums(result.probabilities);
      for (std::size_t t = 0; t < 80; ++t) {
        EXPECT_NEAR(answer.log_sum_exp[t * 4 + h], static_cast<float>(result.log_sum_exp(static_cast<reference::Index>(t))), 5e-3F);
        EXPECT_NEAR(answer.out[(t * 4 + h) * 16], static_cast<float>(result.output(static_cast<reference::Index>(t), 0)), 5e-3F);
      }
    }
    for (std::size_t row = 0; row < 80; ++row) {
      EXPECT_NEAR(static_cast<double>(h2o.state(0, head).get(row, 0)), sums(static_cast<reference::Index>(row)), 1e-2) << row;
    }
  }
}

TEST(Batch, OfUnequalSequencesWithASharedPrefixIsEachOfThemAlone) {
  const Text text(shape, 300, 5);
  KVCache<Full<float>> prefix(shape);
  add(prefix, text, 0, 100);
  prefix.end_prompt(0);
  std::vector<KVCache<Full<float>>> caches;
  std::vector<std::size_t> ends{150, 101, 220};
  for (const std::size_t end : ends) {
    caches.emplace_back(shape).append(0, text.key_rows(100, end - 100), text.value_rows(100, end - 100), Position{100});
  }
  std::vector<float> queries;  // the newest token of each
  for (const std::size_t end : ends) {
    for (std::size_t h = 0; h < shape.query_heads; ++h) {
      queries.resize(queries.size() + 16);
      text.query_rows(end - 1, 1).load(0, h, queries.data() + queries.size() - 16);
    }
  }
  Answer of_prefix{Outputs(3 * text.output_width()), std::vector<float>(3 * shape.query_heads)};
  prefix.attend(0, Rows::tokens_first(queries.data(), 3, 4, 16), Output::tokens_first(of_prefix.out.data(), 3, 4, 16),
                {.log_sum_exp = of_prefix.log_sum_exp.data(), .query_position = 100});
  Outputs out(3 * text.output_width());
  std::vector<Partial> partials(3);
  std::vector<BatchItem<KVCache<Full<float>>>> batch;
  for (std::size_t i = 0; i < 3; ++i) {
    partials[i] = {of_prefix.log_sum_exp.data() + i * 4, of_prefix.out.data() + i * text.output_width()};
    batch.push_back({&caches[i],
                     Rows::tokens_first(queries.data() + i * 64, 1, 4, 16),
                     Output::tokens_first(out.data() + i * text.output_width(), 1, 4, 16),
                     {.partials = {&partials[i], 1}}});
  }
  std::vector<Workspace> workspaces(2, Workspace(shape));
  const auto backwards = [](std::size_t tasks, auto&& run) {
    for (std::size_t i = tasks; i > 0; --i) { run(i - 1, i % 2); }
  };
  attend_batch(0, std::span<const BatchItem<KVCache<Full<float>>>>(batch), workspaces, backwards);
  for (std::size_t i = 0; i < 3; ++i) {
    KVCache<Full<float>> whole(shape);
    add(whole, text, 0, ends[i]);
    const auto first = out.begin() + static_cast<std::ptrdiff_t>(i * text.output_width());
    expect_near(Outputs(first, first + static_cast<std::ptrdiff_t>(text.output_width())), ask(whole, text, ends[i] - 1, 1).out, 1e-5F);
    EXPECT_EQ(ask(caches[i], text, ends[i] - 1, 1, batch[i].options).out,
              Outputs(first, first + static_cast<std::ptrdiff_t>(text.output_width())));
  }
  // The same in one call.
  const Outputs by_hand = out;
  std::vector<BatchItem<KVCache<Full<float>>>> plain = batch;
  for (auto& item : plain) { item.options = {}; }
  Vector<float> scratch{Allocator<float>(Memory{})};
  attend_shared(0, prefix, std::span<const BatchItem<KVCache<Full<float>>>>(plain), scratch, workspaces, SerialExecutor{});
  EXPECT_EQ(out, by_hand);
  plain[1].options.window = 10;
  EXPECT_NE(refusal([&] {
              attend_shared(0, prefix, std::span<const BatchItem<KVCache<Full<float>>>>(plain), scratch, workspaces, SerialExecutor{});
            }).find("batch[1].options has a window"),
            std::string::npos);
  batch.push_back(batch[0]);
  EXPECT_NE(refusal([&] {
              attend_batch(0, std::span<const BatchItem<KVCache<Full<float>>>>(batch), workspaces, backwards);
            }).find("batch[3].cache is that of batch[0]"),
            std::string::npos);
}

}  // namespace beside_test
