// tests/quantization/kivi_test.cpp - KIVI's codes, state and attention against the reference, and the invariants of its specification.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <utility>

#include "kvcompress/policies/kivi.hpp"
#include "kvcompress/policies/streaming_llm.hpp"
#include "kvcompress/reference/kivi.hpp"
#include "support/random_rows.hpp"

namespace kivi_test {

using namespace kvcompress;
using namespace kvcompress::test;
using reference::Index;

/// Compares codes, scales and minima bit for bit, exact rows too.
template <class Store>
void expect_same(const Store& store, const reference::QuantizedMatrix& codes, const reference::Matrix& residual) {
  const auto encoded = static_cast<std::size_t>(codes.codes.rows());
  ASSERT_EQ(store.settled(), encoded);
  ASSERT_EQ(store.rows(), encoded + static_cast<std::size_t>(residual.rows()));
  for (Index t = 0; t < codes.codes.rows(); ++t) {
    for (Index c = 0; c < codes.codes.cols(); ++c) {
      const auto row = static_cast<std::size_t>(t);
      const auto channel = static_cast<std::size_t>(c);
      const bool by_token = codes.axis == reference::GroupAxis::tokens;
      const Index a = by_token ? t / codes.group : t;
      const Index b = by_token ? c : c / codes.group;
      ASSERT_EQ(store.body().code(row, channel), codes.codes(t, c)) << "row " << t << " channel " << c;
      ASSERT_EQ(static_cast<double>(static_cast<float>(store.body().scale(row, channel))), codes.scale(a, b));
      ASSERT_EQ(static_cast<double>(static_cast<float>(store.body().minimum(row, channel))), codes.minimum(a, b));
    }
  }
  std::vector<float> row(static_cast<std::size_t>(std::max<Index>(residual.cols(), 1)));
  for (Index t = 0; t < residual.rows(); ++t) {
    store.read(encoded + static_cast<std::size_t>(t), row.data());
    for (Index c = 0; c < residual.cols(); ++c) { ASSERT_EQ(static_cast<double>(row[static_cast<std::size_t>(c)]), residual(t, c)); }
  }
}

/// Random prompts and steps, each state and output compared with the reference in float.
template <int Bits>
void follow_the_reference(std::size_t group, std::size_t dim, std::size_t residual, unsigned seed) {
  using P = Kivi<Bits, 32, 32, float>;
  const Shape shape{.query_heads = 2, .kv_heads = 1, .head_dim = dim, .value_dim = dim + 4};
  const Text text(shape, 150, seed);
  KVCache<P> cache(shape, {.storage = {.residual = residual, .group = group, .accumulation = Accumulation::exact}});
  reference::KiviState<> state{{.bits = Bits, .group = static_cast<Index>(group), .residual = static_cast<Index>(residual)}};
  std::mt19937 rng(seed);
  for (std::size_t t = 0, count = 0; t < text.tokens; t += count) {
    count = std::min<std::size_t>(t == 0 ? rng() % 90 + 1 : rng() % 5 == 0 ? rng() % 40 + 1 : 1, text.tokens - t);
    const Outputs out = step(cache, text, t, count);
    const auto from = static_cast<Index>(t);
    const auto rows = static_cast<Index>(count);
    state.append(text.key_matrix(0).middleRows(from, rows), text.value_matrix(0).middleRows(from, rows));
    for (std::size_t h = 0; h < 2; ++h) {
      const auto expected = state.attend(text.query_matrix(h).middleRows(from, rows));
      for (Index i = 0; i < rows; ++i) {
        for (Index c = 0; c < expected.output.cols(); ++c) {
          const std::size_t at = (static_cast<std::size_t>(i) * 2 + h) * (dim + 4) + static_cast<std::size_t>(c);
          ASSERT_NEAR(out[at], expected.output(i, c), 5e-5) << Bits << " bits, token " << t;
        }
      }
    }
    t == 0 ? cache.end_prompt(0) : cache.commit(0);
    state.commit();
    expect_same(cache.keys(0, 0), state.keys, state.key_residual);
    expect_same(cache.values(0, 0), state.values, state.value_residual);
    const std::size_t seen = t + count;
    ASSERT_EQ(cache.keys(0, 0).settled(), seen - seen % residual);
    ASSERT_EQ(cache.values(0, 0).settled(), seen > residual ? seen - residual : 0);
  }
}

TEST(Kivi, FollowsTheReferenceStepByStep) {
  follow_the_reference<1>(8, 20, 8, 1);
  follow_the_reference<2>(64, 64, 64, 2);
  follow_the_reference<3>(32, 80, 32, 3);
  follow_the_reference<4>(32, 100, 96, 4);
  follow_the_reference<4>(128, 100, 128, 5);
}

/// The two stores alone: codes against the reference, logits and weighted sums of any range against the decoded rows.
template <int Bits, std::size_t Group>
void check_stores(std::size_t dim) {
  using Storage = KiviStorage<Bits, Group, Group, float>;
  std::mt19937 rng(static_cast<unsigned>(Bits) + static_cast<unsigned>(Group));
  const std::size_t rows = 300;
  const std::size_t queries = 3;
  const Text text({.query_heads = 1, .kv_heads = 1, .head_dim = dim, .rope = {.theta = 0.0}}, rows, static_cast<unsigned>(dim));
  const typename Storage::Options options{.accumulation = Accumulation::exact};
  typename Storage::Keys keys(options, Site{0, 0, text.shape}, dim, Memory{});
  typename Storage::Values values(options, Site{0, 0, text.shape}, dim, Memory{});
  Vector<float> scratch;
  for (std::size_t r = 0; r < rows; ++r) {
    keys.append(text.keys.data() + r * dim);
    values.append(text.values.data() + r * dim);
    if (r == 100 || r + 1 == rows) {
      keys.settle(scratch);
      values.settle(scratch);
    }
  }
  const auto whole = static_cast<Index>(rows / Group * Group);
  const auto old = static_cast<Index>(rows - Group);
  expect_same(keys, reference::quantize(text.key_matrix(0).topRows(whole), reference::GroupAxis::tokens, Bits, static_cast<Index>(Group)),
              text.key_matrix(0).bottomRows(static_cast<Index>(rows) - whole));
  expect_same(values,
              reference::quantize(text.value_matrix(0).topRows(old), reference::GroupAxis::channels, Bits, static_cast<Index>(Group)),
              text.value_matrix(0).bottomRows(static_cast<Index>(Group)));
  const std::size_t stride = kernels::padded(dim);
  std::vector<float> query(queries * stride, 0.0F);
  for (std::size_t q = 0; q < queries; ++q) {
    std::ranges::copy(normal_numbers(dim, rng), query.begin() + static_cast<std::ptrdiff_t>(q * stride));
  }
  std::vector<float> row(dim);
  for (int round = 0; round < 20; ++round) {
    const std::size_t first = round == 0 ? 0 : rng() % rows;
    const std::size_t last = round == 0 ? rows : first + rng() % (rows - first) + 1;
    const std::size_t count = last - first;
    std::vector<float> room(std::max(keys.scratch_floats(dim, queries), values.scratch_floats(dim, queries)));
    std::vector<float> logits(queries * count);
    keys.scores({first, last}, query.data(), stride, queries, logits.data(), count, room.data());
    const auto weights = normal_numbers(queries * count, rng);
    std::vector<float> out(queries * stride, 0.5F);
    values.accumulate({first, last}, weights.data(), count, queries, out.data(), stride, room.data());
    std::vector<double> expected(queries * dim, 0.5);
    for (std::size_t r = 0; r < count; ++r) {
      keys.read(first + r, row.data());
      for (std::size_t q = 0; q < queries; ++q) {
        double logit = 0.0;
        for (std::size_t c = 0; c < dim; ++c) { logit += static_cast<double>(query[q * stride + c]) * static_cast<double>(row[c]); }
        ASSERT_NEAR(logits[q * count + r], logit, 2e-4) << Bits << " bits, rows " << first << " to " << last;
      }
      values.read(first + r, row.data());
      for (std::size_t i = 0; i < queries * dim; ++i) {
        expected[i] += static_cast<double>(weights[i / dim * count + r]) * static_cast<double>(row[i % dim]);
      }
    }
    for (std::size_t i = 0; i < queries * dim; ++i) {
      ASSERT_NEAR(out[i / dim * stride + i % dim], expected[i], 5e-4) << Bits << " bits, rows " << first << " to " << last;
    }
  }
}

TEST(KiviStores, EncodeAndAnswerAsTheReferenceForAllBitsAndGroups) {
  check_stores<1, 32>(64);
  check_stores<2, 16>(80);
  check_stores<3, 64>(100);
  check_stores<4, 128>(24);
  check_stores<5, 32>(96);
  check_stores<6, 8>(20);
  check_stores<7, 32>(33);
  check_stores<8, 32>(128);
}

TEST(Kivi, TheStateDoesNotDependOnPromptAndDecodeSplit) {
  using P = Kivi<2, 32, 64>;
  const Shape shape{.query_heads = 1, .kv_heads = 1, .head_dim = 40};
  const Text text(shape, 200, 13);
  const auto state = [&](std::size_t prompt, std::size_t stride) {
    KVCache<P> cache(shape);
    for (std::size_t t = 0; t < 200;) {
      const std::size_t count = std::min(t == 0 ? prompt : stride, 200 - t);
      cache.append(0, text.key_rows(t, count), text.value_rows(t, count));
      t == 0 ? cache.end_prompt(0) : cache.commit(0);
      t += count;
    }
    std::vector<float> rows(200 * 80);
    for (std::size_t r = 0; r < 200; ++r) {
      cache.keys(0, 0).read(r, rows.data() + r * 80);
      cache.values(0, 0).read(r, rows.data() + r * 80 + 40);
    }
    return rows;
  };
  const auto expected = state(200, 1);
  EXPECT_TRUE(state(1, 1) == expected);
  EXPECT_TRUE(state(100, 1) == expected);
  EXPECT_TRUE(state(70, 33) == expected);
  EXPECT_TRUE(state(10, 150) == expected);
}

TEST(Kivi, AnswersAreRightForTinyAndLargeNumbers) {
  const Shape shape{.query_heads = 2, .kv_heads = 1, .head_dim = 32};
  for (const float size : {1e-8F, 1e-6F, 1e-4F, 1.0F, 1e4F}) {
    Text text(shape, 257, 16);
    for (auto* numbers : {&text.keys, &text.values}) {
      for (float& number : *numbers) { number *= size; }
    }
    for (float& number : text.queries) { number /= std::max(1.0F, size); }
    KVCache<Kivi<8, 32, 32>> cache(shape);
    cache.append(0, text.key_rows(0, 256), text.value_rows(0, 256));
    cache.end_prompt(0);
    const Outputs out = step(cache, text, 256, 1);
    const Outputs all = full_attention(text);
    const Outputs expected(all.end() - static_cast<std::ptrdiff_t>(out.size()), all.end());
    double worst = 0.0;
    for (std::size_t i = 0; i < out.size(); ++i) { worst = std::max(worst, static_cast<double>(std::abs(out[i] - expected[i]))); }
    EXPECT_LE(worst, std::max(0x1p-25, 0.02 * static_cast<double>(size))) << size;  // half a step of the smallest scale, or of the values'
  }
}

TEST(Kivi, RowsThatAreEncodedAnewStayFinite) {
  const Shape shape{.query_heads = 1, .kv_heads = 1, .head_dim = 16};
  Text text(shape, 400, 17);
  for (auto* numbers : {&text.keys, &text.values}) {
    for (float& number : *numbers) { number = number < 0.0F ? -65504.0F : 65504.0F; }  // what stands for the largest lies beyond it
  }
  for (float& number : text.queries) { number *= 1e-6F; }
  KVCache<Combine<StreamingLLM, Kivi<4, 32, 32>>> cache(shape, {.eviction = {.sinks = 4, .window = 60}});
  for (const float number : run(cache, text, 200, 400)) { ASSERT_LE(std::abs(number), 65536.0F); }
}

TEST(Kivi, GroupsAreIndependent) {
  using P = Kivi<4, 32, 32>;
  const Shape shape{.query_heads = 1, .kv_heads = 1, .head_dim = 64};
  Text text(shape, 96, 14);
  const auto decoded = [&] {
    KVCache<P> cache(shape);
    cache.append(0, text.key_rows(0, 96), text.value_rows(0, 96));
    cache.end_prompt(0);
    std::vector<float> rows(96 * 128);
    for (std::size_t r = 0; r < 96; ++r) {
      cache.keys(0, 0).read(r, rows.data() + r * 128);
      cache.values(0, 0).read(r, rows.data() + r * 128 + 64);
    }
    return rows;
  };
  const auto before = decoded();
  text.keys[40 * 64 + 5] = 50.0F;     // key group of rows 32 to 63, channel 5
  text.values[10 * 64 + 40] = 50.0F;  // value group of row 10, channels 32 to 63
  const auto after = decoded();
  for (std::size_t r = 0; r < 96; ++r) {
    for (std::size_t c = 0; c < 128; ++c) {
      const bool key = c == 5 && r >= 32 && r < 64;
      const bool value = r == 10 && c >= 96;
      if (!key && !value) { ASSERT_EQ(before[r * 128 + c], after[r * 128 + c]) << "row " << r << " column " << c; }
    }
  }
  EXPECT_NE(before[41 * 128 + 5], after[41 * 128 + 5]);
  EXPECT_NE(before[10 * 128 + 100], after[10 * 128 + 100]);
}

TEST(Kivi, PerChannelKeysBeatPerTokenKeysWithChannelOffsets) {
  const Shape shape{.query_heads = 1, .kv_heads = 1, .head_dim = 64};
  Text text(shape, 128, 15);
  for (std::size_t i = 0; i < text.keys.size(); ++i) { text.keys[i] += i % 64 % 9 == 0 ? 15.0F : 0.0F; }
  KVCache<Kivi<2, 32, 32>> cache(shape);
  cache.append(0, text.key_rows(0, 128), text.key_rows(0, 128));  // the same rows as keys, per channel, and as values, per token
  cache.end_prompt(0);
  double key_error = 0.0;
  double value_error = 0.0;
  std::vector<float> row(64);
  for (std::size_t r = 0; r < 96; ++r) {
    for (const bool key : {true, false}) {
      key ? cache.keys(0, 0).read(r, row.data()) : cache.values(0, 0).read(r, row.data());
      for (std::size_t c = 0; c < 64; ++c) {
        const double error = static_cast<double>(row[c]) - static_cast<double>(text.keys[r * 64 + c]);
        (key ? key_error : value_error) += error * error;
      }
    }
  }
  EXPECT_LT(10.0 * key_error, value_error);
}

template <int Bits>
void check_bulk(std::size_t dim) {
  std::mt19937 rng(40 + Bits);
  const std::vector<float> rows = normal_numbers(300 * dim, rng);
  PerToken<Bits, 32, half> together(dim, {});
  PerToken<Bits, 32, half> alone(dim, {});
  for (const auto& [first, last] : {std::pair<std::size_t, std::size_t>{0, 3}, {3, 203}, {203, 300}}) {
    together.append(rows.data() + first * dim, last - first);
  }
  for (std::size_t row = 0; row < 300; ++row) { alone.append(rows.data() + row * dim, 1); }
  for (std::size_t row = 0; row < 300; ++row) {
    for (std::size_t c = 0; c < dim; ++c) {
      ASSERT_EQ(together.code(row, c), alone.code(row, c)) << Bits << " bits, row " << row << ", channel " << c;
      ASSERT_EQ(together.scale(row, c), alone.scale(row, c));
      ASSERT_EQ(together.minimum(row, c), alone.minimum(row, c));
    }
  }
}

TEST(PerToken, RowsEncodedTogetherEqualRowsEncodedAlone) {
  for (const std::size_t dim : {128U, 80U, 100U}) {
    [dim]<int... Less>(std::integer_sequence<int, Less...>) { (check_bulk<Less + 1>(dim), ...); }
    (std::make_integer_sequence<int, 8>{});
  }
}

}  // namespace kivi_test
