// tests/attention/attend_test.cpp - attention of the uncompressed cache against the reference: shapes, layouts, elements, options.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include "kvcompress/policies/full.hpp"
#include "kvcompress/policies/kivi.hpp"
#include "support/random_rows.hpp"

namespace attend_test {

using namespace kvcompress;
using namespace kvcompress::test;

using Cache = KVCache<Full<float>>;

/// A text through a cache in a prompt of two chunks and decoding, with `options`.
Outputs outputs(const Text& text, const AttendOptions& options = {}, std::vector<float>* log_sum_exp = nullptr) {
  Cache cache(text.shape);
  const std::size_t heads = text.shape.query_heads;
  Outputs out(text.tokens * text.output_width(), -1.0F);
  if (log_sum_exp != nullptr) { log_sum_exp->assign(text.tokens * heads, -1.0F); }
  const std::size_t prompt = text.tokens * 2 / 3;
  for (std::size_t t = 0, count = 0; t < text.tokens; t += count) {
    count = t < prompt ? (prompt + 1) / 2 : 1;
    count = std::min(count, (t < prompt ? prompt : text.tokens) - t);
    cache.append(0, text.key_rows(t, count), text.value_rows(t, count));
    AttendOptions here = options;
    here.log_sum_exp = log_sum_exp != nullptr ? log_sum_exp->data() + t * heads : nullptr;
    cache.attend(0, text.query_rows(t, count),
                 Output::tokens_first(out.data() + t * text.output_width(), count, heads, text.shape.value_width()), here);
    if (t + count == prompt) { cache.end_prompt(0); }
  }
  return out;
}

TEST(Attend, HeadSizesAndGroups) {
  unsigned seed = 0;
  for (const std::size_t dim : {64U, 80U, 96U, 100U, 112U, 128U, 192U, 256U}) {
    for (const std::size_t group : {1U, 2U, 3U, 4U, 8U}) {
      const Text text({.query_heads = 2 * group, .kv_heads = 2, .head_dim = dim}, 33, ++seed);
      ASSERT_LT(deviation(outputs(text), full_attention(text)), 2e-5) << "head size " << dim << ", group " << group;
    }
  }
}

TEST(Attend, OneKeyValueHeadForManyQueryHeads) {
  for (const std::size_t heads : {7U, 32U, 40U, 71U}) {  // more than a block of queries, too
    const Text text({.query_heads = heads, .kv_heads = 1, .head_dim = 64}, 12, static_cast<unsigned>(heads));
    ASSERT_LT(deviation(outputs(text), full_attention(text)), 2e-5) << heads;
  }
}

TEST(Attend, KeysAndValuesOfDifferentSizes) {
  for (const auto& [key, value] : {std::pair<std::size_t, std::size_t>{192, 128}, {64, 100}, {24, 8}, {12, 20}, {2, 1}}) {
    const Text text({.query_heads = 4, .kv_heads = 2, .head_dim = 64, .key_dim = key, .value_dim = value}, 40, static_cast<unsigned>(key));
    ASSERT_LT(deviation(outputs(text), full_attention(text)), 2e-5) << key << " and " << value;
  }
}

TEST(Attend, ManyRowsMeetTheQueriesInChunks) {
  const Text text({.query_heads = 2, .kv_heads = 1, .head_dim = 16}, 1100, 3);
  EXPECT_LT(deviation(outputs(text), full_attention(text)), 2e-5);
}

/// Runs the tasks backwards, on workers in turn.
struct Backwards {
  std::size_t workers;
  void operator()(std::size_t tasks, auto&& run) const {
    for (std::size_t task = tasks; task-- > 0;) { run(task, task % workers); }
  }
};

template <class P>
void check_parts(double tolerance) {
  const Text text({.query_heads = 4, .kv_heads = 2, .head_dim = 16}, 9001, 10);
  KVCache<P> cache(text.shape);
  cache.append(0, text.key_rows(0, 9000), text.value_rows(0, 9000));
  cache.end_prompt(0);
  cache.append(0, text.key_rows(9000, 1), text.value_rows(9000, 1));
  std::vector<Workspace> workspaces(2, Workspace(text.shape));
  const Rows queries = text.query_rows(9000, 1);
  for (const AttendOptions& options : {AttendOptions{}, AttendOptions{.window = 700}, AttendOptions{.start = 5000}}) {
    std::vector<float> logs[2];
    Outputs outs[2];
    for (const bool shared : {false, true}) {
      logs[shared].resize(4);
      outs[shared].resize(text.output_width());
      AttendOptions here = options;
      here.log_sum_exp = logs[shared].data();
      const Output out = Output::tokens_first(outs[shared].data(), 1, 4, 16);
      if (shared) {
        cache.attend(0, queries, out, workspaces, Backwards{2}, here);
      } else {
        cache.attend(0, queries, out, here);
      }
    }
    EXPECT_TRUE(outs[0] == outs[1]);
    EXPECT_TRUE(logs[0] == logs[1]);
    // Against the definition, over the rows as they are decoded.
    for (std::size_t head = 0; head < 4; ++head) {
      std::vector<double> expected(16);
      double sum = 0.0;
      for (std::size_t row = 0; row < 9001; ++row) {
        if (row < options.start || (options.window > 0 && 9000 - row >= options.window)) { continue; }
        float key[16];
        float value[16];
        cache.read(0, head / 2, row, key, value);
        double logit = 0.0;
        for (std::size_t c = 0; c < 16; ++c) {
          logit += static_cast<double>(text.queries[(std::size_t{9000} * 4 + head) * 16 + c]) * static_cast<double>(key[c]) / 4.0;
        }
        sum += std::exp(logit);
        for (std::size_t c = 0; c < 16; ++c) { expected[c] += std::exp(logit) * static_cast<double>(value[c]); }
      }
      for (std::size_t c = 0; c < 16; ++c) { ASSERT_NEAR(outs[0][head * 16 + c], expected[c] / sum, tolerance); }
      ASSERT_NEAR(logs[0][head], std::log(sum), 10 * tolerance);
    }
  }
}

TEST(Attend, ThreadsThatShareRowsGetTheSameNumbers) {
  check_parts<Full<float>>(1e-6);
  check_parts<Kivi<4>>(1e-4);
}

TEST(Attend, OptionsScaleSoftCapWindowAndStart) {
  const Text text({.query_heads = 4, .kv_heads = 2, .head_dim = 32}, 300, 4);
  unsigned number = 0;
  for (const AttendOptions& options :
       {AttendOptions{}, AttendOptions{.scale = 0.05F}, AttendOptions{.soft_cap = 3.0F}, AttendOptions{.window = 1},
        AttendOptions{.window = 37}, AttendOptions{.start = 50}, AttendOptions{.window = 9, .start = 270},
        AttendOptions{.scale = 0.4F, .soft_cap = 20.0F, .window = 100, .start = 7}}) {
    std::vector<float> ours;
    std::vector<float> theirs;
    const Outputs out = outputs(text, options, &ours);
    EXPECT_LT(deviation(out, full_attention(text, options, &theirs)), 2e-5) << "case " << number;
    for (std::size_t i = 0; i < ours.size(); ++i) {
      if (std::isinf(theirs[i])) {
        ASSERT_EQ(ours[i], theirs[i]) << "a query that sees nothing, case " << number;
      } else {
        ASSERT_NEAR(ours[i], theirs[i], 2e-5) << "case " << number;
      }
    }
    ++number;
  }
}

/// What lies behind a window is not read, and where reading begins follows from a query alone: not from those that are asked beside it.
TEST(Attend, AWindowGivesTheSameNumbersWhateverIsAskedAtOnce) {
  const Text text({.query_heads = 4, .kv_heads = 2, .head_dim = 16}, 1200, 11);
  KVCache<Kivi<4>> cache(text.shape);
  cache.append(0, text.key_rows(0, 1130), text.value_rows(0, 1130));
  cache.end_prompt(0);
  cache.append(0, text.key_rows(1130, 70), text.value_rows(1130, 70));
  for (const AttendOptions& options : {AttendOptions{.window = 300}, AttendOptions{.window = 40}, AttendOptions{.start = 640}}) {
    const auto ask = [&](std::size_t count) {
      Outputs out(count * text.output_width());
      cache.attend(0, text.query_rows(1200 - count, count), Output::tokens_first(out.data(), count, 4, 16), options);
      return out;
    };
    const Outputs together = ask(70);
    for (const std::size_t count : {1U, 2U, 5U, 8U, 33U, 69U}) {
      const Outputs some = ask(count);
      ASSERT_TRUE(std::equal(some.begin(), some.end(), together.end() - static_cast<std::ptrdiff_t>(some.size()))) << count;
    }
  }
}

TEST(Attend, AQueryThatSeesNothingGetsZeros) {
  const Text text({.query_heads = 1, .kv_heads = 1, .head_dim = 16}, 20, 5);
  const Outputs out = outputs(text, {.start = 15});
  for (std::size_t i = 0; i < std::size_t{15} * 16; ++i) { ASSERT_EQ(out[i], 0.0F); }
  EXPECT_NE(out[15 * 16], 0.0F);
}

TEST(Attend, LargeLogitsDoNotOverflow) {
  Text text({.query_heads = 1, .kv_heads = 1, .head_dim = 16}, 40, 6);
  for (float& x : text.queries) { x *= 1000.0F; }
  for (float& x : text.keys) { x *= 100.0F; }
  EXPECT_LT(deviation(outputs(text), full_attention(text)), 1e-3);
}

/// Logits of up to 1e30: the softmax is a choice of one row, in all storages.
template <class P>
void check_huge_logits(double rounding) {
  const Shape shape{.query_heads = 4, .kv_heads = 1, .head_dim = 32};
  Text text(shape, 161, 13);
  for (float& x : text.queries) { x *= 1e14F; }
  for (float& x : text.keys) { x *= 1e13F; }
  KVCache<P> cache(shape);
  cache.append(0, text.key_rows(0, 160), text.value_rows(0, 160));
  cache.end_prompt(0);
  std::vector<float> log_sum_exp(4);
  cache.append(0, text.key_rows(160, 1), text.value_rows(160, 1));
  Outputs out(text.output_width());
  cache.attend(0, text.query_rows(160, 1), Output::tokens_first(out.data(), 1, 4, 32), {.log_sum_exp = log_sum_exp.data()});
  std::vector<float> expected_log;
  const Outputs all = full_attention(text, {}, &expected_log);
  for (std::size_t h = 0; h < 4; ++h) {
    const float expected = expected_log[std::size_t{160} * 4 + h];
    ASSERT_NEAR(log_sum_exp[h], expected, rounding * std::abs(expected));
  }
  ASSERT_LT(deviation(out, Outputs(all.end() - static_cast<std::ptrdiff_t>(out.size()), all.end())), 1e-3 + rounding);
}
TEST(Attend, HugeLogitsChooseOneRow) {
  check_huge_logits<Full<float>>(1e-6);
  check_huge_logits<Kivi<8, 32, 32, float>>(2e-2);
}

TEST(Attend, OnlyTheAskedForHeadsAreWritten) {
  const Text text({.query_heads = 6, .kv_heads = 3, .head_dim = 16}, 10, 7);
  Cache cache(text.shape);
  const Outputs all = step(cache, text, 0, 10);
  Outputs some(all.size(), -5.0F);
  cache.attend(0, text.query_rows(0, 10), Output::tokens_first(some.data(), 10, 6, 16), {}, HeadRange{1, 2});
  for (std::size_t i = 0; i < some.size(); ++i) {
    const std::size_t head = i / 16 % 6;
    ASSERT_EQ(some[i], head == 2 || head == 3 ? all[i] : -5.0F);
  }
}

TEST(Attend, TheNewestOfTheOpenRowsMayBeAskedAlone) {
  const Text text({.query_heads = 2, .kv_heads = 1, .head_dim = 16}, 30, 8);
  Cache cache(text.shape);
  const Outputs all = step(cache, text, 0, 30);
  const Outputs last = attend(cache, text, 30, 4);
  EXPECT_TRUE(last == Outputs(all.end() - 4 * 32, all.end()));
}

template <class T>
std::vector<T> converted(const std::vector<float>& from, std::vector<float>& back) {
  std::vector<T> to;
  for (const float x : from) { to.push_back(T(x)); }
  back.clear();
  for (const T x : to) { back.push_back(static_cast<float>(x)); }
  return to;
}

template <class T>
void check_elements() {
  const Shape shape{.query_heads = 4, .kv_heads = 2, .head_dim = 20};
  Text text(shape, 25, 9);
  const auto keys = converted<T>(Text(shape, 25, 9).keys, text.keys);
  const auto values = converted<T>(Text(shape, 25, 9).values, text.values);
  const auto queries = converted<T>(Text(shape, 25, 9).queries, text.queries);
  Cache wide(shape);
  Cache cache(shape);
  cache.append(0, Rows::tokens_first(keys.data(), 25, 2, 20), Rows::tokens_first(values.data(), 25, 2, 20));
  Outputs out(25 * text.output_width());
  cache.attend(0, Rows::tokens_first(queries.data(), 25, 4, 20), Output::tokens_first(out.data(), 25, 4, 20));
  EXPECT_TRUE(out == step(wide, text, 0, 25));
}

TEST(Attend, RowsOfFloatHalfAndBfloat16) {
  check_elements<float>();
  check_elements<half>();
  check_elements<bfloat16>();
}

TEST(Attend, LayoutsAndStridesOfInputAndOutput) {
  const Shape shape{.query_heads = 4, .kv_heads = 2, .head_dim = 24};
  const Text text(shape, 30, 10);
  Cache plain(shape);
  const Outputs expected = step(plain, text, 0, 30);
  // The same numbers as [heads, tokens, dim], in rows of `pitch` numbers of which the last are no part of the row.
  const auto turned = [](const std::vector<float>& from, std::size_t heads, std::size_t pitch) {
    std::vector<float> to(heads * 30 * pitch, std::numeric_limits<float>::quiet_NaN());
    for (std::size_t t = 0; t < 30; ++t) {
      for (std::size_t h = 0; h < heads; ++h) {
        std::copy_n(from.begin() + static_cast<std::ptrdiff_t>((t * heads + h) * 24), 24,
                    to.begin() + static_cast<std::ptrdiff_t>((h * 30 + t) * pitch));
      }
    }
    return to;
  };
  for (const std::size_t pitch : {24U, 31U}) {
    const auto keys = turned(text.keys, 2, pitch);
    const auto values = turned(text.values, 2, pitch);
    const auto queries = turned(text.queries, 4, pitch);
    const auto rows = [&](const std::vector<float>& data, std::size_t heads) {
      return pitch == 24 ? Rows::heads_first(data.data(), 30, heads, 24) : Rows(data.data(), 30, heads, 24, pitch, 30 * pitch);
    };
    Cache cache(shape);
    cache.append(0, rows(keys, 2), rows(values, 2));
    Outputs out(4 * 30 * pitch, -1.0F);
    cache.attend(0, rows(queries, 4),
                 pitch == 24 ? Output::heads_first(out.data(), 30, 4, 24) : Output(out.data(), 30, 4, 24, pitch, 30 * pitch));
    const auto wanted = turned(expected, 4, pitch);
    for (std::size_t i = 0; i < out.size(); ++i) { ASSERT_EQ(out[i], std::isnan(wanted[i]) ? -1.0F : wanted[i]); }
  }
}

TEST(Attend, AnExecutorMayRunTheHeadsInAnyOrder) {
  const Text text({.query_heads = 6, .kv_heads = 3, .head_dim = 16}, 40, 11);
  Cache cache(text.shape);
  const Outputs expected = step(cache, text, 0, 40);
  Outputs out(expected.size());
  std::vector<Workspace> workspaces(2, Workspace(text.shape));
  const auto backwards = [](std::size_t tasks, auto&& run) {
    for (std::size_t task = tasks; task-- > 0;) { run(task, task % 2); }
  };
  cache.attend(0, text.query_rows(0, 40), Output::tokens_first(out.data(), 40, 6, 16), workspaces, backwards);
  EXPECT_TRUE(out == expected);
  EXPECT_THROW(cache.attend(0, text.query_rows(0, 40), Output::tokens_first(out.data(), 40, 6, 16), std::span<Workspace>{}, backwards),
               Error);
}

TEST(Rotation, TurnsAsTheReferenceDoes) {
  const std::vector<double> factors{1.0, 2.0, 4.0, 8.0};
  for (const RopePairing pairing : {RopePairing::half_split, RopePairing::interleaved}) {
    for (const std::size_t dim : {20U, 74U}) {
      for (const std::size_t rotary : {0U, 8U}) {
        const Shape shape{.head_dim = dim, .rope = {.theta = 500.0, .pairing = pairing, .rotary_dim = rotary, .scale = 0.25}};
        Rotation used(shape, {});  // what it was asked before must not matter
        for (const std::int64_t position : {0, 1, 17, 31, 32, 1023, 1024, 1025, 32768, 65535, 65536, 100000, 1000000, 33, -3, -40000}) {
          std::mt19937 rng(12);
          auto row = normal_numbers(dim, rng);
          auto again = row;
          const auto before = row;
          reference::Matrix matrix(1, static_cast<reference::Index>(dim));
          for (std::size_t c = 0; c < dim; ++c) { matrix(0, static_cast<reference::Index>(c)) = static_cast<double>(row[c]); }
          Rotation rotation(shape, {});
          rotation.turn_by(position);
          rotation.apply(row.data());
          used.turn_by(position);
          used.apply(again.data());
          ASSERT_EQ(row, again);
          std::vector<half> rounded(dim);
          used.apply(before.data(), dim, rounded.data());
          for (std::size_t c = 0; c < dim; ++c) {
            ASSERT_EQ(rounded[c].bits, half(row[c]).bits) << "channel " << c << " of " << dim << ", rotary " << rotary;
          }
          const auto expected =
              reference::rotate(matrix, reference::consecutive(position, 1),
                                {.pairing = pairing == RopePairing::half_split ? reference::Pairing::half : reference::Pairing::interleaved,
                                 .theta = 500.0,
                                 .rotary_dim = static_cast<reference::Index>(rotary),
                                 .linear_factor = 4.0});
          for (std::size_t c = 0; c < dim; ++c) { ASSERT_NEAR(row[c], expected(0, static_cast<reference::Index>(c)), 1e-6) << position; }
        }
      }
    }
  }
  const Shape shape{.head_dim = 8, .rope = {.theta = 100.0, .frequency_factors = factors.data()}};
  Rotation rotation(shape, {});
  rotation.turn_by(3);
  std::vector<float> row(8, 0.0F);
  std::fill_n(row.begin(), 4, 1.0F);
  rotation.apply(row.data());
  for (std::size_t i = 0; i < 4; ++i) {
    ASSERT_NEAR(row[i], std::cos(3.0 * std::pow(100.0, -static_cast<double>(i) / 4.0) / factors[i]), 1e-6)
        << "frequency factor of pair " << i;
  }
}

}  // namespace attend_test
