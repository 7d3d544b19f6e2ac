// tests/kernels/pairs_test.cpp - products of bfloat16 matrices by pairs against their definition.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <bit>
#include <cstdint>
#include <random>
#include <vector>

#include "kernels/numbers.hpp"
#include "kvcompress/core/half.hpp"
#include "kvcompress/kernels/pairs.hpp"
#include "kvcompress/simd/scalar.hpp"

namespace pairs_test {

namespace native = kvcompress::simd::native;
namespace scalar = kvcompress::simd::scalar;
using kvcompress::bfloat16;
using kvcompress::test::numbers;
using kvcompress::test::rounded;

TEST(Pairs, AddedProductsAreTheScalarOnesUpToRounding) {
  std::mt19937 rng(1);
  constexpr std::size_t lanes = native::lanes;
  for (int round = 0; round < 2000; ++round) {
    const auto words = rounded<bfloat16>(numbers(4 * lanes, rng));
    std::int32_t a[lanes];
    std::int32_t b[lanes];
    float sums[lanes];
    for (std::size_t i = 0; i < lanes; ++i) {
      a[i] = static_cast<std::int32_t>(words[4 * i].bits | std::uint32_t{words[4 * i + 1].bits} << 16U);
      b[i] = static_cast<std::int32_t>(words[4 * i + 2].bits | std::uint32_t{words[4 * i + 3].bits} << 16U);
      sums[i] = static_cast<float>(i);
    }
    float fast[lanes];
    float slow[lanes];
    native::store(fast, native::add_pair_products(native::load(a), native::load(b), native::load(sums)));
    for (std::size_t i = 0; i < lanes; i += scalar::lanes) {
      scalar::store(slow + i, scalar::add_pair_products(scalar::load(a + i), scalar::load(b + i), scalar::load(sums + i)));
    }
    for (std::size_t i = 0; i < lanes; ++i) { ASSERT_NEAR(fast[i], slow[i], 1e-6F * (20.0F + static_cast<float>(i))); }
  }
}

TEST(Pairs, ProductsOfAllShapesAreTheDefinition) {
  std::mt19937 rng(2);
  for (const std::size_t dim : {1UL, 15UL, 16UL, 33UL, 64UL, 80UL, 100UL, 128UL}) {
    for (const std::size_t rank : {1UL, 2UL, 7UL, 32UL, 161UL}) {
      for (const std::size_t count : {1UL, 3UL, 8UL, 13UL, 16UL}) {
        const auto rows = rounded<bfloat16>(numbers(count * rank, rng));
        const auto matrix = rounded<bfloat16>(numbers(rank * dim, rng));
        const std::size_t stride = kvcompress::kernels::padded(dim);
        std::vector<std::uint32_t> pairs(kvcompress::kernels::pair_words(rank, dim));
        std::vector<float> out(count * stride, -1.0F);
        kvcompress::kernels::interleave_pairs(matrix.data(), rank, dim, pairs.data());
        kvcompress::kernels::multiply_pairs(rows.data(), count, rank, pairs.data(), dim, out.data(), stride);
        for (std::size_t r = 0; r < count; ++r) {
          for (std::size_t c = 0; c < stride; ++c) {
            double expected = 0.0;
            for (std::size_t k = 0; c < dim && k < rank; ++k) {
              expected += static_cast<double>(static_cast<float>(rows[r * rank + k])) *
                          static_cast<double>(static_cast<float>(matrix[k * dim + c]));
            }
            ASSERT_NEAR(out[r * stride + c], expected, 2e-5) << "dim " << dim << ", rank " << rank << ", row " << r << ", column " << c;
          }
        }
      }
    }
  }
}

TEST(Pairs, DotPairsIsTheDotProduct) {
  std::mt19937 rng(8);
  for (const std::size_t dim : {1UL, 15UL, 16UL, 33UL, 64UL, 80UL, 100UL, 128UL, 130UL}) {
    for (const std::size_t queries : {1UL, 2UL, 3UL, 4UL, 7UL}) {
      for (const std::size_t count : {1UL, 4UL, 6UL, 64UL}) {
        const auto rows = rounded<bfloat16>(numbers(count * dim, rng));
        const std::size_t stride = dim + 3;
        const auto x = rounded<bfloat16>(numbers(queries * stride, rng));
        std::vector<float> logits(queries * count, 7.0F);
        kvcompress::kernels::dot_pairs(rows.data(), count, dim, x.data(), stride, queries, logits.data(), count,
                                       count == 64 ? rows.data() : nullptr);
        for (std::size_t q = 0; q < queries; ++q) {
          for (std::size_t r = 0; r < count; ++r) {
            double expected = 0.0;
            for (std::size_t c = 0; c < dim; ++c) {
              expected +=
                  static_cast<double>(static_cast<float>(x[q * stride + c])) * static_cast<double>(static_cast<float>(rows[r * dim + c]));
            }
            ASSERT_NEAR(logits[q * count + r], expected, 2e-5) << "dim " << dim << ", query " << q << ", row " << r;
          }
        }
      }
    }
  }
}

}  // namespace pairs_test
