// tests/kernels/simd_test.cpp - the backend of this build against the scalar one, operation by operation.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <utility>

#include "kvcompress/simd/native.hpp"
#include "kvcompress/simd/scalar.hpp"

namespace {

namespace native = kvcompress::simd::native;
namespace scalar = kvcompress::simd::scalar;
using kvcompress::bfloat16;
using kvcompress::half;

static_assert(native::lanes == scalar::lanes, "layouts and the order of sums depend on the lanes");

struct Eight {
  float x[8];
};
Eight random_eight(std::mt19937& rng, float spread = 100.0F) {
  std::normal_distribution<float> normal(0.0F, spread);
  Eight out{};
  for (float& x : out.x) { x = normal(rng); }
  return out;
}
template <class V>
Eight stored(V v) {
  Eight out{};
  if constexpr (requires { native::store(out.x, v); }) { native::store(out.x, v); }
  else { scalar::store(out.x, v); }
  return out;
}
bool same_bits(const Eight& a, const Eight& b) { return std::memcmp(&a, &b, sizeof a) == 0; }

TEST(Simd, ArithmeticIsBitForBitTheScalarOne) {
  std::mt19937 rng(1);
  for (int round = 0; round < 2000; ++round) {
    const Eight a = random_eight(rng);
    const Eight b = random_eight(rng);
    const Eight c = random_eight(rng);
    const auto check = [&](auto operation) {
      const Eight fast = stored(operation([](const float* from) { return native::load(from); }, [](auto x, auto y) { return native::add(x, y); },
                                          [](auto x, auto y) { return native::mul(x, y); }, [](auto x, auto y, auto z) { return native::fma(x, y, z); },
                                          [](auto x, auto y) { return native::max(x, y); }));
      const Eight slow = stored(operation([](const float* from) { return scalar::load(from); }, [](auto x, auto y) { return scalar::add(x, y); },
                                          [](auto x, auto y) { return scalar::mul(x, y); }, [](auto x, auto y, auto z) { return scalar::fma(x, y, z); },
                                          [](auto x, auto y) { return scalar::max(x, y); }));
      ASSERT_TRUE(same_bits(fast, slow));
    };
    check([&](auto load, auto add, auto, auto, auto) { return add(load(a.x), load(b.x)); });
    check([&](auto load, auto, auto mul, auto, auto) { return mul(load(a.x), load(b.x)); });
    check([&](auto load, auto, auto, auto fma, auto) { return fma(load(a.x), load(b.x), load(c.x)); });
    check([&](auto load, auto, auto, auto, auto max) { return max(load(a.x), load(b.x)); });
    ASSERT_EQ(native::reduce_add(native::load(a.x)), scalar::reduce_add(scalar::load(a.x)));
    ASSERT_EQ(native::reduce_max(native::load(a.x)), scalar::reduce_max(scalar::load(a.x)));
    ASSERT_TRUE(same_bits(stored(native::set(a.x[3])), stored(scalar::set(a.x[3]))));
  }
}

TEST(Simd, ExpIsWithinFloatRoundingOfTheScalarOne) {
  for (float x = 0.0F; x > -86.9F; x -= 0.0137F) {
    const double expected = std::exp(static_cast<double>(x));
    ASSERT_NEAR(stored(native::exp(native::set(x))).x[0], expected, 3e-7 * expected) << x;
  }
  for (const float x : {-87.01F, -1000.0F, -std::numeric_limits<float>::infinity()}) {
    EXPECT_EQ(stored(native::exp(native::set(x))).x[5], 0.0F) << x;
    EXPECT_EQ(stored(scalar::exp(scalar::set(x))).x[5], 0.0F) << x;
  }
  EXPECT_EQ(stored(native::exp(native::set(0.0F))).x[0], 1.0F);
}

template <class T>
void check_conversions() {
  std::mt19937 rng(2);
  for (unsigned first = 0; first < 0x10000U; first += 8) {
    T values[8];
    for (unsigned i = 0; i < 8; ++i) { values[i].bits = static_cast<std::uint16_t>(first + i); }
    const Eight fast = stored(native::load(values));
    const Eight slow = stored(scalar::load(values));
    for (unsigned i = 0; i < 8; ++i) {
      if (std::isnan(slow.x[i])) { ASSERT_TRUE(std::isnan(fast.x[i])); }
      else { ASSERT_EQ(std::bit_cast<std::uint32_t>(fast.x[i]), std::bit_cast<std::uint32_t>(slow.x[i])) << first + i; }
    }
    for (std::size_t count = 0; count <= 8; ++count) {
      const Eight fast_part = stored(native::load_first(values, count));
      for (std::size_t i = 0; i < 8; ++i) {
        if (!std::isnan(slow.x[i])) { ASSERT_EQ(fast_part.x[i], i < count ? slow.x[i] : 0.0F); }
      }
    }
  }
  for (int round = 0; round < 20000; ++round) {  // rounding to T, subnormals and overflow included
    Eight wide{};
    for (float& x : wide.x) {
      x = std::bit_cast<float>(static_cast<std::uint32_t>(rng()));
      if (std::isnan(x)) { x = 1.0F; }
    }
    T fast[8];
    T slow[8];
    native::store(fast, native::load(wide.x));
    scalar::store(slow, scalar::load(wide.x));
    for (std::size_t i = 0; i < 8; ++i) { ASSERT_EQ(fast[i].bits, slow[i].bits) << wide.x[i]; }
  }
}

TEST(Simd, HalfConversionsAreTheScalarOnes) { check_conversions<half>(); }
TEST(Simd, Bfloat16ConversionsAreTheScalarOnes) { check_conversions<bfloat16>(); }

template <int Bits>
void check_unpack() {
  constexpr auto bits = static_cast<std::size_t>(Bits);
  std::mt19937 rng(static_cast<unsigned>(Bits));
  for (int round = 0; round < 2000; ++round) {
    std::uint8_t packed[static_cast<std::size_t>(Bits)];
    for (auto& byte : packed) { byte = static_cast<std::uint8_t>(rng()); }
    const Eight fast = stored(native::unpack<Bits>(packed));
    const Eight slow = stored(scalar::unpack<Bits>(packed));
    ASSERT_TRUE(same_bits(fast, slow)) << Bits << " bits";
    for (std::size_t i = 0; i < 8; ++i) {  // the definition, bit by bit
      unsigned code = 0;
      for (std::size_t b = 0; b < bits; ++b) { code |= (static_cast<unsigned>(packed[(i * bits + b) / 8]) >> ((i * bits + b) % 8) & 1U) << b; }
      ASSERT_EQ(slow.x[i], static_cast<float>(code));
    }
  }
}

TEST(Simd, UnpackOfOneToEightBits) {
  [&]<int... Less>(std::integer_sequence<int, Less...>) { (check_unpack<Less + 1>(), ...); }(std::make_integer_sequence<int, 8>{});
}

}  // namespace
