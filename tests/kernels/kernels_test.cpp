// tests/kernels/kernels_test.cpp - every kernel against plain loops in double, at sizes that are and are not whole vectors.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "kernels/numbers.hpp"
#include "kvcompress/kernels/exact.hpp"
#include "kvcompress/kernels/softmax.hpp"

namespace kernels_test {

using kvcompress::bfloat16;
using kvcompress::half;
namespace kernels = kvcompress::kernels;
using kvcompress::test::numbers;
using kvcompress::test::rounded;

constexpr std::size_t dims[] = {1, 7, 8, 9, 16, 24, 64, 80, 96, 100, 112, 128, 131, 192, 256};
constexpr std::size_t counts[] = {1, 2, 3, 7, 8, 9, 17, 32, 33};
constexpr std::size_t query_counts[] = {1, 2, 3, 4, 5, 7, 8};

template <class T>
class RowKernels : public ::testing::Test {};
using Elements = ::testing::Types<float, half, bfloat16>;
TYPED_TEST_SUITE(RowKernels, Elements);

TYPED_TEST(RowKernels, DotRowsIsTheDotProduct) {
  std::mt19937 rng(1);
  for (const std::size_t dim : dims) {
    for (const std::size_t count : counts) {
      for (const std::size_t queries : query_counts) {
        const auto rows = rounded<TypeParam>(numbers(count * dim, rng));
        const std::size_t stride = kernels::padded(dim);
        std::vector<float> query(queries * stride, 0.0F);
        for (std::size_t q = 0; q < queries; ++q) {
          const auto one = numbers(dim, rng);
          std::copy(one.begin(), one.end(), query.begin() + static_cast<std::ptrdiff_t>(q * stride));
        }
        std::vector<float> logits(queries * (count + 1), -7.0F);
        kernels::dot_rows(rows.data(), count, dim, query.data(), stride, queries, logits.data(), count + 1);
        for (std::size_t q = 0; q < queries; ++q) {
          for (std::size_t r = 0; r < count; ++r) {
            double expected = 0.0;
            for (std::size_t c = 0; c < dim; ++c) {
              expected += static_cast<double>(query[q * stride + c]) * static_cast<double>(static_cast<float>(rows[r * dim + c]));
            }
            ASSERT_NEAR(logits[q * (count + 1) + r], expected, 1e-4)
                << dim << " channels, " << count << " rows, query " << q << " of " << queries;
          }
          ASSERT_EQ(logits[q * (count + 1) + count], -7.0F) << "wrote behind the last row";
        }
      }
    }
  }
}

TYPED_TEST(RowKernels, DotRowsApartReadsNoFurtherThanItsRowsAndQueries) {
  std::mt19937 rng(4);
  for (const std::size_t dim : dims) {
    for (const std::size_t count : {1UL, 2UL, 4UL, 5UL}) {
      for (const std::size_t queries : query_counts) {
        const std::size_t apart = dim + 3;
        const auto rows = rounded<TypeParam>(numbers((count - 1) * apart + dim, rng));
        auto query =
            numbers(queries * dim + 16, rng);  // no padding: behind a query comes the next one, behind the last what must not count
        std::fill(query.begin() + static_cast<std::ptrdiff_t>(queries * dim), query.end(), std::numeric_limits<float>::quiet_NaN());
        std::vector<float> logits(queries * count);
        kernels::dot_rows_apart(rows.data(), apart, count, dim, query.data(), dim, queries, logits.data(), count);
        for (std::size_t q = 0; q < queries; ++q) {
          for (std::size_t r = 0; r < count; ++r) {
            double expected = 0.0;
            for (std::size_t c = 0; c < dim; ++c) {
              expected += static_cast<double>(query[q * dim + c]) * static_cast<double>(static_cast<float>(rows[r * apart + c]));
            }
            ASSERT_NEAR(logits[q * count + r], expected, 1e-4)
                << dim << " channels, " << count << " rows, query " << q << " of " << queries;
          }
        }
      }
    }
  }
}

TYPED_TEST(RowKernels, MixRowsAddsTheWeightedSum) {
  std::mt19937 rng(2);
  for (const std::size_t dim : dims) {
    for (const std::size_t count : counts) {
      for (const std::size_t queries : query_counts) {
        const auto rows = rounded<TypeParam>(numbers(count * dim, rng));
        const std::size_t stride = kernels::padded(dim);
        const auto weights = numbers(queries * count, rng);
        const auto before = numbers(queries * stride, rng);
        auto out = before;
        kernels::mix_rows(rows.data(), count, dim, weights.data(), count, queries, out.data(), stride);
        for (std::size_t q = 0; q < queries; ++q) {
          for (std::size_t c = 0; c < dim; ++c) {
            double expected = static_cast<double>(before[q * stride + c]);
            for (std::size_t r = 0; r < count; ++r) {
              expected += static_cast<double>(weights[q * count + r]) * static_cast<double>(static_cast<float>(rows[r * dim + c]));
            }
            ASSERT_NEAR(out[q * stride + c], expected, 1e-4) << dim << " channels, " << count << " rows, query " << q << " of " << queries;
          }
        }
      }
    }
  }
}

TYPED_TEST(RowKernels, ConvertAndWidenRoundElementByElement) {
  std::mt19937 rng(3);
  for (const std::size_t count : {1U, 7U, 8U, 9U, 100U}) {
    const auto from = numbers(count, rng);
    std::vector<TypeParam> narrow(count);
    kernels::convert(from.data(), narrow.data(), count);
    std::vector<float> wide(count);
    kernels::widen(narrow.data(), wide.data(), count);
    for (std::size_t i = 0; i < count; ++i) { ASSERT_EQ(wide[i], static_cast<float>(TypeParam(from[i]))); }
  }
}

TEST(SoftmaxKernels, MatchPlainLoops) {
  std::mt19937 rng(4);
  for (std::size_t count = 1; count < 70; ++count) {
    auto x = numbers(count, rng);
    for (float& one : x) { one *= 20.0F; }
    x[count / 2] = kernels::minus_infinity;
    const float top = kernels::largest_of(x.data(), count);
    ASSERT_EQ(top, *std::max_element(x.begin(), x.end()));
    const float shift = top == kernels::minus_infinity ? 0.0F : top;
    std::vector<float> e(count + 1, -3.0F);
    const float sum = kernels::exponentials(x.data(), count, shift, e.data());
    double expected_sum = 0.0;
    for (std::size_t i = 0; i < count; ++i) {
      const double expected = std::exp(static_cast<double>(x[i] - shift));
      expected_sum += expected;
      ASSERT_NEAR(e[i], expected, 3e-7 * expected + 1e-37) << x[i] - shift;
    }
    ASSERT_NEAR(sum, expected_sum, 1e-6 * expected_sum + 1e-37);
    ASSERT_EQ(e[count], -3.0F);
    auto capped = x;
    kernels::soft_cap(capped.data(), count, 30.0F);
    auto half_of = e;
    kernels::multiply(half_of.data(), count, 0.5F);
    for (std::size_t i = 0; i < count; ++i) {
      const double expected = 30.0 * std::tanh(static_cast<double>(x[i]) / 30.0);
      ASSERT_NEAR(capped[i], expected, 5e-7 * std::abs(expected)) << x[i];
      ASSERT_EQ(half_of[i], 0.5F * e[i]);
    }
  }
  for (float x = 1e-30F; x < 1e30F; x *= 1.001F) {  // of every size, and for caps of every size
    for (const float cap : {1.0F, 50.0F, 1e-20F, 3e38F}) {
      float both[] = {x, -x};
      kernels::soft_cap(both, 2, cap);
      const double expected = static_cast<double>(cap) * std::tanh(static_cast<double>(x) / static_cast<double>(cap));
      ASSERT_NEAR(both[0], expected, 5e-7 * expected) << x << ", cap " << cap;
      ASSERT_EQ(both[1], -both[0]);
    }
  }
}

TEST(Softmax, LogSumExpAndTheLargestLessAShift) {
  std::mt19937 rng(8);
  for (const std::size_t count : {1U, 15U, 16U, 255U, 256U, 257U, 1000U}) {
    const auto rows = numbers(3 * count, rng);
    float sums[3];
    for (std::size_t q = 0; q < 3; ++q) {
      double expected = 0.0;
      for (std::size_t i = 0; i < count; ++i) { expected += std::exp(static_cast<double>(rows[q * count + i])); }
      sums[q] = kernels::log_sum_exp(rows.data() + q * count, count);
      ASSERT_NEAR(sums[q], std::log(expected), 2e-6 * (1.0 + std::abs(std::log(expected)))) << count;
    }
    std::vector<float> largest(count + 1, -7.0F);
    kernels::largest_less_shift(rows.data(), count, 3, count, sums, largest.data());
    for (std::size_t i = 0; i < count; ++i) {
      ASSERT_EQ(largest[i], std::max({rows[i] - sums[0], rows[count + i] - sums[1], rows[2 * count + i] - sums[2]}))
          << i << " of " << count;
    }
    ASSERT_EQ(largest[count], -7.0F);
  }
}

TEST(AllWithin, FindsOneBadNumberWhereverItStands) {
  for (const std::size_t count : {1U, 7U, 16U, 33U, 64U, 100U, 131U, 200U}) {
    std::vector<float> x(count + 1, 1.5F);
    x[count] = std::numeric_limits<float>::quiet_NaN();  // behind the last one
    EXPECT_TRUE(kernels::all_within(x.data(), count, 1.5F));
    EXPECT_FALSE(kernels::all_within(x.data(), count, 1.25F));
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity(), -1.75F}) {
      for (std::size_t at = 0; at < count; ++at) {
        x[at] = bad;
        ASSERT_FALSE(kernels::all_within(x.data(), count, 1.5F)) << bad << " at " << at << " of " << count;
        x[at] = 1.5F;
      }
    }
  }
}

}  // namespace kernels_test
