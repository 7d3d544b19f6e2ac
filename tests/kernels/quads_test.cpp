// tests/kernels/quads_test.cpp - quads against their scalar definition, and what is built of them against plain loops.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <vector>

#include "kernels/numbers.hpp"
#include "kvcompress/core/half.hpp"
#include "kvcompress/kernels/quads.hpp"
#include "kvcompress/simd/native.hpp"
#include "kvcompress/simd/scalar.hpp"

namespace quads_test {

namespace native = kvcompress::simd::native;
namespace scalar = kvcompress::simd::scalar;
using kvcompress::half;
using kvcompress::test::numbers;

TEST(Quads, OperationsAreBitForBitTheScalarOnes) {
  std::mt19937 rng(1);
  for (int round = 0; round < 1000; ++round) {
    const auto x = numbers(16, rng);
    native::quad fast[4];
    scalar::quad slow[4];
    for (std::size_t i = 0; i < 4; ++i) {
      fast[i] = native::load_quad(x.data() + 4 * i);
      slow[i] = scalar::load_quad(x.data() + 4 * i);
    }
    fast[0] = native::add(native::fma(x[7], fast[1], fast[2]), fast[0]);
    slow[0] = scalar::add(scalar::fma(x[7], slow[1], slow[2]), slow[0]);
    native::transpose(fast[0], fast[1], fast[2], fast[3]);
    scalar::transpose(slow[0], slow[1], slow[2], slow[3]);
    for (std::size_t i = 0; i < 4; ++i) {
      float a[4];
      float b[4];
      native::store(a, fast[i]);
      scalar::store(b, slow[i]);
      for (std::size_t j = 0; j < 4; ++j) { ASSERT_EQ(a[j], b[j]); }
    }
  }
}

TEST(Quads, TurnQueriesBothWays) {
  std::mt19937 rng(2);
  for (std::size_t queries = 1; queries <= 4; ++queries) {
    for (const std::size_t count : {0UL, 1UL, 3UL, 4UL, 30UL, 128UL}) {
      const std::size_t stride = count + 5;
      const auto from = numbers(queries * stride, rng);
      const auto before = numbers(queries * stride, rng);
      std::vector<float> quads(4 * count, -1.0F);
      kvcompress::kernels::to_quads(from.data(), stride, queries, count, quads.data());
      auto to = before;
      kvcompress::kernels::add_quads(quads.data(), queries, count, to.data(), stride);
      for (std::size_t i = 0; i < count; ++i) {
        for (std::size_t q = 0; q < 4; ++q) { ASSERT_EQ(quads[4 * i + q], q < queries ? from[q * stride + i] : 0.0F); }
      }
      for (std::size_t q = 0; q < queries; ++q) {
        for (std::size_t i = 0; i < stride; ++i) {
          ASSERT_EQ(to[q * stride + i], before[q * stride + i] + (i < count ? from[q * stride + i] : 0.0F));
        }
      }
    }
  }
}

template <class From, class To>
void check_entries(std::mt19937& rng) {
  for (const std::size_t count : {0UL, 1UL, 63UL, 64UL, 65UL, 1000UL}) {
    const auto quads = numbers(4 * 200, rng);
    std::vector<half> entries(count);
    std::vector<From> from(count);
    std::vector<To> to(count);
    std::vector<float> sums(4 * 100, 0.0F);
    std::vector<double> expected(4 * 100, 0.0);
    for (std::size_t i = 0; i < count; ++i) {
      entries[i] = half(static_cast<float>(rng() % 100) / 50.0F - 1.0F);
      from[i] = static_cast<From>(rng() % 200);
      to[i] = static_cast<To>(rng() % 100);
      for (std::size_t q = 0; q < 4; ++q) {
        expected[4 * std::size_t{to[i]} + q] +=
            static_cast<double>(static_cast<float>(entries[i])) * static_cast<double>(quads[4 * std::size_t{from[i]} + q]);
      }
    }
    kvcompress::kernels::add_entries(entries.data(), from.data(), to.data(), count, quads.data(), sums.data());
    for (std::size_t i = 0; i < sums.size(); ++i) { ASSERT_NEAR(sums[i], expected[i], 1e-4); }
  }
}

TEST(Quads, EntriesAddUp) {
  std::mt19937 rng(3);
  check_entries<std::uint8_t, std::uint8_t>(rng);
  check_entries<std::uint8_t, std::uint16_t>(rng);
  check_entries<std::uint16_t, std::uint8_t>(rng);
}

}  // namespace quads_test
