// tests/core/half_test.cpp - half and bfloat16 conversions, every one of their 65536 values and the floats between them.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>

#include "kvcompress/core/half.hpp"

namespace half_test {

using kvcompress::bfloat16;
using kvcompress::half;

/// The value of IEEE binary16 bits, from its definition.
double half_value(std::uint16_t bits) {
  const int exponent = bits >> 10 & 0x1F;
  const double fraction = bits & 0x3FF;
  const double magnitude = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024.0 + fraction, exponent - 25);
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}
double bfloat16_value(std::uint16_t bits) {
  const int exponent = bits >> 7 & 0xFF;
  const double fraction = bits & 0x7F;
  const double magnitude = exponent == 0 ? std::ldexp(fraction, -133) : std::ldexp(128.0 + fraction, exponent - 134);
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

template <class T>
std::uint16_t from(double value) {
  return T(static_cast<float>(value)).bits;
}
template <class T>
float to(unsigned bits) {
  T value;
  value.bits = static_cast<std::uint16_t>(bits);
  return static_cast<float>(value);
}

/// Every finite value and both infinities there and back, and the halfway points between neighbours, which go to the even one.
template <class T, class Value>
void check_all(unsigned infinity, Value&& value) {
  for (unsigned bits = 0; bits <= 0xFFFF; ++bits) {
    const unsigned magnitude = bits & 0x7FFFU;
    const float wide = to<T>(bits);
    if (magnitude > infinity) {
      EXPECT_TRUE(std::isnan(wide)) << bits;
      EXPECT_TRUE(std::isnan(static_cast<float>(T(wide)))) << bits;
      continue;
    }
    ASSERT_EQ(T(wide).bits, bits);
    if (magnitude == infinity) {
      EXPECT_TRUE(std::isinf(wide));
      continue;
    }
    ASSERT_EQ(static_cast<double>(wide), value(static_cast<std::uint16_t>(bits))) << bits;
    ASSERT_EQ(std::signbit(wide), bits >= 0x8000U);
    if (magnitude + 1 == infinity) { continue; }
    const double next = value(static_cast<std::uint16_t>(bits + 1));
    const double middle = (value(static_cast<std::uint16_t>(bits)) + next) / 2;
    const auto as_float = static_cast<float>(middle);
    if (static_cast<double>(as_float) != middle) { continue; }  // below float's own resolution
    ASSERT_EQ(from<T>(middle), bits % 2 == 0 ? bits : bits + 1) << "halfway above " << bits;
    ASSERT_EQ(T(std::nextafterf(as_float, 0.0F)).bits, bits) << "just below halfway above " << bits;
    ASSERT_EQ(T(std::nextafterf(as_float, 2.0F * as_float)).bits, bits + 1) << "just above halfway above " << bits;
  }
}

TEST(Half, AllValuesGoThereAndBackAndHalvesRoundToEven) { check_all<half>(0x7C00U, half_value); }
TEST(Bfloat16, AllValuesGoThereAndBackAndHalvesRoundToEven) { check_all<bfloat16>(0x7F80U, bfloat16_value); }

TEST(Half, LargestValuesAndWhatLiesAbove) {
  EXPECT_EQ(half(65504.0F).bits, 0x7BFFU);
  EXPECT_EQ(half(65519.996F).bits, 0x7BFFU);
  EXPECT_EQ(half(65520.0F).bits, 0x7C00U);  // rounds to infinity
  EXPECT_EQ(half(1e30F).bits, 0x7C00U);
  EXPECT_EQ(half(-std::numeric_limits<float>::infinity()).bits, 0xFC00U);
  EXPECT_EQ(static_cast<float>(half(kvcompress::largest<half>)), kvcompress::largest<half>);
  EXPECT_EQ(bfloat16(kvcompress::largest<bfloat16>).bits, 0x7F7FU);
  EXPECT_EQ(half(std::numeric_limits<float>::denorm_min()).bits, 0U);
  EXPECT_EQ(half(-0.0F).bits, 0x8000U);
}

TEST(Half, RandomFloatsRoundToTheNearest) {
  std::mt19937 rng(1);
  for (int i = 0; i < 200000; ++i) {
    const auto x = std::bit_cast<float>(static_cast<std::uint32_t>(rng()));
    if (!std::isfinite(x) || std::abs(x) >= 65504.0F) { continue; }
    const unsigned bits = half(x).bits;
    const double error = std::abs(half_value(static_cast<std::uint16_t>(bits)) - static_cast<double>(x));
    for (const unsigned neighbour : {bits - 1U, bits + 1U}) {
      if ((neighbour & 0x7FFFU) >= 0x7C00U) { continue; }
      ASSERT_LE(error, std::abs(half_value(static_cast<std::uint16_t>(neighbour)) - static_cast<double>(x))) << x;
    }
  }
}

}  // namespace half_test
