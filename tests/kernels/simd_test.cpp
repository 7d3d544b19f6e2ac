// tests/kernels/simd_test.cpp - the backend of this build against the scalar one, operation by operation.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <random>
#include <type_traits>
#include <utility>
#include <vector>

#include "kvcompress/simd/native.hpp"
#include "kvcompress/simd/scalar.hpp"

namespace simd_test {

namespace native = kvcompress::simd::native;
namespace scalar = kvcompress::simd::scalar;
using kvcompress::bfloat16;
using kvcompress::half;

constexpr std::size_t lanes = native::lanes;
static_assert(lanes % scalar::lanes == 0, "a native vector is met as whole scalar ones");

std::vector<float> random_floats(std::size_t count, std::mt19937& rng, float spread = 100.0F) {
  std::normal_distribution<float> normal(0.0F, spread);
  std::vector<float> out(count);
  for (float& x : out) { x = normal(rng); }
  return out;
}
std::uint32_t bits_of(float x) { return std::bit_cast<std::uint32_t>(x); }

/// What op(load) gives, one vector of it: load(i) is the vector of input i.
template <class Op>
std::vector<float> by_native(const std::vector<std::vector<float>>& inputs, Op op) {
  std::vector<float> out(lanes);
  native::store(out.data(), op([&](std::size_t i) { return native::load(inputs[i].data()); }));
  return out;
}
template <class Op>
std::vector<float> by_scalar(const std::vector<std::vector<float>>& inputs, Op op) {
  std::vector<float> out(lanes);
  for (std::size_t at = 0; at < lanes; at += scalar::lanes) {
    scalar::store(out.data() + at, op([&](std::size_t i) { return scalar::load(inputs[i].data() + at); }));
  }
  return out;
}
void expect_same(const std::vector<float>& fast, const std::vector<float>& slow) {
  for (std::size_t i = 0; i < lanes; ++i) { ASSERT_EQ(bits_of(fast[i]), bits_of(slow[i])) << fast[i] << " instead of " << slow[i]; }
}

TEST(Simd, ArithmeticIsBitForBitTheScalarOne) {
  std::mt19937 rng(1);
  for (int round = 0; round < 2000; ++round) {
    const std::vector<std::vector<float>> x{random_floats(lanes, rng), random_floats(lanes, rng), random_floats(lanes, rng)};
    const auto check = [&](auto fast, auto slow) { expect_same(by_native(x, fast), by_scalar(x, slow)); };
    check([](auto in) { return native::add(in(0), in(1)); }, [](auto in) { return scalar::add(in(0), in(1)); });
    check([](auto in) { return native::sub(in(0), in(1)); }, [](auto in) { return scalar::sub(in(0), in(1)); });
    check([](auto in) { return native::mul(in(0), in(1)); }, [](auto in) { return scalar::mul(in(0), in(1)); });
    check([](auto in) { return native::div(in(0), in(1)); }, [](auto in) { return scalar::div(in(0), in(1)); });
    check([](auto in) { return native::max(in(0), in(1)); }, [](auto in) { return scalar::max(in(0), in(1)); });
    check([](auto in) { return native::min(in(0), in(1)); }, [](auto in) { return scalar::min(in(0), in(1)); });
    check([](auto in) { return native::abs(in(0)); }, [](auto in) { return scalar::abs(in(0)); });
    check([](auto in) { return native::fma(in(0), in(1), in(2)); }, [](auto in) { return scalar::fma(in(0), in(1), in(2)); });
    check([&](auto) { return native::set(x[0][3]); }, [&](auto) { return scalar::set(x[0][3]); });
    check([](auto in) { return native::to_float(native::round(in(0))); }, [](auto in) { return scalar::to_float(scalar::round(in(0))); });
  }
}

TEST(Simd, RoundsHalvesToEven) {
  for (const auto& [x, expected] : {std::pair{0.5F, 0.0F}, {1.5F, 2.0F}, {2.5F, 2.0F}, {-0.5F, 0.0F}, {-1.5F, -2.0F}, {7.49F, 7.0F}}) {
    float out[lanes];
    native::store(out, native::to_float(native::round(native::set(x))));
    EXPECT_EQ(out[lanes - 1], expected);
    scalar::store(out, scalar::to_float(scalar::round(scalar::set(x))));
    EXPECT_EQ(out[scalar::lanes - 1], expected);
  }
}

TEST(Simd, Reductions) {
  std::mt19937 rng(2);
  for (int round = 0; round < 500; ++round) {
    const auto x = random_floats(4 * lanes, rng);
    float sums[4];
    native::reduce_add(native::load(x.data()), native::load(x.data() + lanes), native::load(x.data() + 2 * lanes),
                       native::load(x.data() + 3 * lanes), sums);
    for (std::size_t v = 0; v < 4; ++v) {
      const auto first = x.begin() + static_cast<std::ptrdiff_t>(v * lanes);
      const auto last = first + static_cast<std::ptrdiff_t>(lanes);
      const double expected = std::accumulate(first, last, 0.0);
      ASSERT_NEAR(sums[v], expected, 1e-3);
      ASSERT_NEAR(native::reduce_add(native::load(&*first)), expected, 1e-3);
      ASSERT_EQ(native::reduce_max(native::load(&*first)), *std::max_element(first, last));
      ASSERT_EQ(native::reduce_min(native::load(&*first)), *std::min_element(first, last));
    }
  }
}

TEST(Simd, ExpIsWithinFloatRoundingOfTheScalarOne) {
  float out[lanes];
  for (float x = 0.0F; x > -86.9F; x -= 0.0137F) {
    const double expected = std::exp(static_cast<double>(x));
    native::store(out, native::exp(native::set(x)));
    ASSERT_NEAR(out[0], expected, 3e-7 * expected) << x;
  }
  for (const float x : {-87.01F, -1000.0F, -std::numeric_limits<float>::infinity()}) {
    native::store(out, native::exp(native::set(x)));
    EXPECT_EQ(out[lanes - 1], 0.0F) << x;
    scalar::store(out, scalar::exp(scalar::set(x)));
    EXPECT_EQ(out[scalar::lanes - 1], 0.0F) << x;
  }
  native::store(out, native::exp(native::set(0.0F)));
  EXPECT_EQ(out[0], 1.0F);
}

template <class T>
void check_conversions() {
  std::mt19937 rng(2);
  float fast[lanes];
  for (unsigned first = 0; first < 0x10000U; first += lanes) {
    T values[lanes];
    for (unsigned i = 0; i < lanes; ++i) { values[i].bits = static_cast<std::uint16_t>(first + i); }
    native::store(fast, native::load(values));
    for (unsigned i = 0; i < lanes; ++i) {
      const auto slow = static_cast<float>(values[i]);
      if (std::isnan(slow)) {
        ASSERT_TRUE(std::isnan(fast[i]));
      } else {
        ASSERT_EQ(bits_of(fast[i]), bits_of(slow)) << first + i;
      }
    }
    for (std::size_t count = 0; count <= lanes; ++count) {
      native::store(fast, native::load_first(values, count));
      for (std::size_t i = 0; i < lanes; ++i) {
        const auto slow = static_cast<float>(values[i]);
        if (!std::isnan(slow)) { ASSERT_EQ(fast[i], i < count ? slow : 0.0F); }
      }
    }
  }
  for (int round = 0; round < 20000; ++round) {  // rounding to T, subnormals and overflow included
    float wide[lanes];
    for (float& x : wide) {
      x = std::bit_cast<float>(static_cast<std::uint32_t>(rng()));
      if (std::isnan(x)) { x = 1.0F; }
    }
    T narrow[lanes];
    native::store(narrow, native::load(wide));
    for (std::size_t i = 0; i < lanes; ++i) { ASSERT_EQ(narrow[i].bits, T(wide[i]).bits) << wide[i]; }
  }
}

TEST(Simd, HalfConversionsAreTheScalarOnes) { check_conversions<half>(); }
TEST(Simd, Bfloat16ConversionsAreTheScalarOnes) { check_conversions<bfloat16>(); }

/// Products of numbers that they are exact for, and the order in which they are stored.
template <class Weight>
void check_stored_products(int largest, const std::size_t (&order)[4]) {
  std::mt19937 rng(4);
  for (int round = 0; round < 200; ++round) {
    float a[4][lanes];
    float b[4][lanes];
    std::vector<std::int32_t> expected;
    native::f32 numbers[4];
    native::f32 scales[4];
    for (std::size_t v = 0; v < 4; ++v) {
      for (std::size_t i = 0; i < lanes; ++i) {
        const int product =
            round == 0 ? (i % 2 == 0 ? largest : -largest) : static_cast<int>(rng() % (2 * static_cast<unsigned>(largest) + 1)) - largest;
        const float less = round == 0 ? 0.0F : static_cast<float>(rng() % 7) * 0.125F - 0.375F;  // what rounding takes off
        b[v][i] = std::ldexp(1.0F, static_cast<int>(rng() % 21) - 10);
        a[v][i] = (static_cast<float>(product) + less) / b[v][i];
        expected.push_back(product);
      }
      numbers[v] = native::load(a[v]);
      scales[v] = native::load(b[v]);
    }
    std::vector<Weight> weights(4 * lanes);
    const native::i32 sums = native::store_products(weights.data(), numbers, scales, native::set(round));
    for (std::size_t i = 0; i < weights.size(); ++i) { ASSERT_EQ(weights[i], expected[i / 4 * 4 + order[i % 4]]) << i; }
    std::int32_t lane_sums[lanes];
    native::store(lane_sums, sums);
    ASSERT_EQ(std::accumulate(std::begin(lane_sums), std::end(lane_sums), 0),
              std::accumulate(expected.begin(), expected.end(), static_cast<int>(lanes) * round));
  }
}
TEST(Simd, ProductsAsWeightsOf8Bits) { check_stored_products<std::int8_t>(127, {0, 1, 2, 3}); }
TEST(Simd, ProductsAsWeightsOf16Bits) { check_stored_products<std::int16_t>(32767, {0, 2, 1, 3}); }

TEST(Simd, IntegersAsBytesAndWords) {
  std::mt19937 rng(3);
  std::vector<std::int32_t> x(4 * lanes);
  const auto stored = [](auto store, auto number) {
    std::vector<decltype(number)> out(4 * lanes);
    store(out.data());
    return out;
  };
  for (int round = 0; round < 200; ++round) {
    for (auto& one : x) { one = static_cast<std::int32_t>(rng() % 255) - 127; }
    const auto in = [&](std::size_t v) { return native::load(x.data() + v * lanes); };
    for (auto& one : x) { one = static_cast<std::int32_t>(rng() % 256); }
    const auto codes = stored([&](std::uint8_t* to) { native::store_bytes(to, in(0), in(1), in(2), in(3)); }, std::uint8_t{});
    for (std::size_t i = 0; i < x.size(); ++i) { ASSERT_EQ(codes[i], x[i]); }
    std::vector<std::int32_t> back(lanes);
    native::store(back.data(), native::load(codes.data()));
    ASSERT_TRUE(std::equal(back.begin(), back.end(), x.begin()));
    for (auto& one : x) { one = static_cast<std::int32_t>(rng() % 65535) - 32767; }
    const int count = static_cast<int>(rng() % 31);
    const auto left = stored([&](std::int32_t* to) { native::store(to, native::shift_left(in(0), count)); }, std::int32_t{});
    const auto right = stored([&](std::int32_t* to) { native::store(to, native::shift_right(in(0), count)); }, std::int32_t{});
    const auto both =
        stored([&](std::int32_t* to) { native::store(to, native::bit_or(native::bit_and(in(0), in(1)), in(2))); }, std::int32_t{});
    const auto sum = stored([&](std::int32_t* to) { native::store(to, native::add(in(0), in(1))); }, std::int32_t{});
    for (std::size_t i = 0; i < lanes; ++i) {
      ASSERT_EQ(static_cast<std::uint32_t>(left[i]), static_cast<std::uint32_t>(x[i]) << count);
      ASSERT_EQ(static_cast<std::uint32_t>(right[i]), static_cast<std::uint32_t>(x[i]) >> count);
      ASSERT_EQ(both[i], (x[i] & x[lanes + i]) | x[2 * lanes + i]);
      ASSERT_EQ(sum[i], x[i] + x[lanes + i]);
    }
  }
}

template <int Width, std::size_t Weights, class Weight>
void check_lane_dots(std::mt19937& rng) {
  constexpr int largest = std::is_same_v<Weight, std::int8_t> ? 127 : 32767;
  // The topmost field of a byte may be added up where it lies: of half, a quarter, an eighth of the steps.
  constexpr std::size_t heaviest = Width == 8 ? 255 : Width == 4 ? 240 / 2 : Width == 2 ? 192 / 4 : 128 / 8;
  constexpr std::size_t most = 0x7FFF'FFFF / (heaviest * 32767) * Width / 32;  // lines whose sums fit
  for (std::size_t lines = 1; lines <= most; lines = lines < 9 || lines == most ? lines + 1 : std::min(lines + 16, most)) {
    const std::size_t steps = lines * 32 / Width;
    std::vector<std::uint8_t> codes(64 * lines);
    std::vector<Weight> weights(Weights * (steps + 8));
    for (int round = 0; round < 4; ++round) {
      for (auto& byte : codes) { byte = static_cast<std::uint8_t>(round >= 2 ? 255U : rng()); }
      for (auto& weight : weights) {
        const int number = static_cast<int>(rng() % static_cast<unsigned>(2 * largest + 1)) - largest;
        weight = static_cast<Weight>(round == 2 ? largest : round == 3 ? -largest : number);  // the largest sums that must fit
      }
      std::int32_t fast[Weights][16];
      std::int32_t slow[Weights][16];
      native::lane_dots<Width, Weights>(codes.data(), lines, weights.data(), steps + 8, codes.data(), fast);
      scalar::lane_dots<Width, Weights>(codes.data(), lines, weights.data(), steps + 8, codes.data(), slow);
      for (std::size_t w = 0; w < Weights; ++w) {
        for (std::size_t lane = 0; lane < 16; ++lane) {
          ASSERT_EQ(fast[w][lane], slow[w][lane]) << Width << " bits, " << lines << " lines";
        }
      }
    }
  }
}
template <int Width>
void check_lane_dots_of_width() {
  std::mt19937 rng(static_cast<unsigned>(Width));
  check_lane_dots<Width, 1, std::int8_t>(rng);
  check_lane_dots<Width, 2, std::int8_t>(rng);
  check_lane_dots<Width, 4, std::int8_t>(rng);
  check_lane_dots<Width, 1, std::int16_t>(rng);
  check_lane_dots<Width, 2, std::int16_t>(rng);
  check_lane_dots<Width, 4, std::int16_t>(rng);
}

TEST(Simd, LaneDotsAreTheScalarOnesOneBit) { check_lane_dots_of_width<1>(); }
TEST(Simd, LaneDotsAreTheScalarOnesTwoBits) { check_lane_dots_of_width<2>(); }
TEST(Simd, LaneDotsAreTheScalarOnesFourBits) { check_lane_dots_of_width<4>(); }
TEST(Simd, LaneDotsAreTheScalarOnesEightBits) { check_lane_dots_of_width<8>(); }

}  // namespace simd_test
