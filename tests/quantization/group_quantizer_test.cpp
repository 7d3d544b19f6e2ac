// tests/quantization/group_quantizer_test.cpp - scales, minima and codes of numbers of any size, one group at a time and in KIVI's stores.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>
#include <vector>

#include "kvcompress/quantization/per_channel.hpp"
#include "kvcompress/quantization/per_token.hpp"
#include "support/random_rows.hpp"

namespace group_quantizer_test {

using namespace kvcompress;
using namespace kvcompress::test;

template <int Bits>
void check_quantizer() {
  std::mt19937 rng(static_cast<unsigned>(Bits));
  for (int round = 0; round < 300; ++round) {
    const std::size_t count = rng() % 40 + 1;
    const float spread = round % 5 == 0 ? 1e-3F : round % 5 == 1 ? 1.0F : round % 5 == 2 ? 1000.0F : round % 5 == 3 ? 1e-6F : 3e-8F;
    auto x = normal_numbers(count, rng, spread);
    if (round % 7 == 0) {  // a spread that is small beside the numbers
      for (float& one : x) { one = 100.0F * spread + 0.01F * one; }
    }
    const GroupQuantizer<Bits, float> in_float(x.data(), count, 1);
    const GroupQuantizer<Bits, half> in_half(x.data(), count, 1);
    const float top = static_cast<float>(GroupQuantizer<Bits, float>::largest_code);
    std::vector<float> decoded(count);
    for (std::size_t i = 0; i < count; ++i) {
      const std::uint8_t code = in_float.encode(x[i]);
      ASSERT_LE(code, top);
      decoded[i] = in_float.decode(code, in_float.scale, in_float.minimum);
      const float slack = 4e-7F * (std::abs(x[i]) + std::abs(in_float.minimum) + top * in_float.scale);
      ASSERT_LE(std::abs(x[i] - decoded[i]), in_float.scale / 2 + slack) << Bits << " bits";
      const float step = static_cast<float>(in_half.scale);
      const float rounded = in_half.decode(in_half.encode(x[i]), in_half.scale, in_half.minimum);
      ASSERT_LE(std::abs(x[i] - rounded), step / 2 + slack) << Bits << " bits, half";
    }
    if (count > 1) {  // the extremes have the extreme codes and come back
      const auto [low, high] = std::minmax_element(x.begin(), x.end());
      ASSERT_EQ(in_float.encode(*low), 0);
      ASSERT_EQ(in_float.encode(*high), static_cast<std::uint8_t>(top));
      ASSERT_EQ(in_float.decode(0, in_float.scale, in_float.minimum), *low);
    }
    const GroupQuantizer<Bits, float> again(decoded.data(), count, 1);
    for (std::size_t i = 0; i < count && round % 7 != 0; ++i) {
      ASSERT_EQ(again.encode(decoded[i]), in_float.encode(x[i])) << "not idempotent";
    }
    auto moved = x;  // exact: a power of two, and no shift
    for (float& one : moved) { one *= 4.0F; }
    const GroupQuantizer<Bits, float> scaled(moved.data(), count, 1);
    for (std::size_t i = 0; i < count; ++i) { ASSERT_EQ(scaled.encode(moved[i]), in_float.encode(x[i])) << "not equivariant"; }
  }
}

TEST(GroupQuantizer, HoldsItsBoundsForOneToEightBits) {
  [&]<int... Less>(std::integer_sequence<int, Less...>) { (check_quantizer<Less + 1>(), ...); }
  (std::make_integer_sequence<int, 8>{});
}

/// Numbers of any size, sign, offset: none is more than half a step of its stored scale off, and scales are no larger than they must be.
template <class Store, int Bits>
void check_magnitudes() {
  using Scale = typename Store::exact_type;
  std::mt19937 rng(3);
  constexpr std::size_t rows = 128;
  constexpr std::size_t dim = 44;  // whole vectors, and a rest
  std::vector<float> row(dim);
  for (const float size : {1e-9F, 3e-8F, 1e-7F, 1e-6F, 1e-5F, 1e-4F, 1.0F, 100.0F, 1.3e4F}) {
    for (int kind = 0; kind < 5; ++kind) {
      auto x = normal_numbers(rows * dim, rng);
      for (std::size_t i = 0; i < x.size(); ++i) {
        const float number = std::clamp(x[i], -5.0F, 5.0F);
        x[i] = size * (kind == 0   ? number
                       : kind == 1 ? std::abs(number)
                       : kind == 2 ? -std::abs(number)
                       : kind == 3 ? 1.0F + 0.07F * static_cast<float>(i % dim)  // each channel constant
                                   : 3.0F + 1e-4F * number);
      }
      Store store(dim, Memory{});
      store.append(x.data(), rows);
      for (std::size_t t = 0; t < rows; ++t) {
        store.read(t, row.data());
        for (std::size_t c = 0; c < dim; ++c) {
          const float number = x[t * dim + c];
          const float step = static_cast<float>(store.scale(t, c));
          ASSERT_LE(std::abs(row[c] - number), 0.5F * step + 1e-6F * (std::abs(number) + 256.0F * step))
              << Bits << " bits, numbers of " << size << ", kind " << kind;
          // A spread of ten sizes; roundings of the scale and of the minimum add to it.
          const float most = 10.5F * size / static_cast<float>((1 << Bits) - 1);
          ASSERT_LE(step, most + static_cast<float>(smallest<Scale>()) + 0x1p-6F * std::abs(number)) << "kind " << kind;
        }
      }
    }
  }
}

TEST(GroupQuantizer, IsWithinHalfAStepOfNumbersOfAnySize) {
  check_magnitudes<PerChannel<1, 32, half>, 1>();
  check_magnitudes<PerChannel<4, 32, half>, 4>();
  check_magnitudes<PerChannel<8, 32, half>, 8>();
  check_magnitudes<PerChannel<8, 32, bfloat16>, 8>();
  check_magnitudes<PerToken<1, 32, half>, 1>();
  check_magnitudes<PerToken<2, 32, half>, 2>();
  check_magnitudes<PerToken<8, 32, half>, 8>();
  check_magnitudes<PerToken<8, 32, bfloat16>, 8>();
  check_magnitudes<PerToken<4, 32, float>, 4>();
}

TEST(GroupQuantizer, RoundsHalvesToEvenAndConstantsToCodeZero) {
  const float probe[] = {0.0F, 0.5F, 1.5F, 2.5F, 3.0F};
  const GroupQuantizer<2, float> quantizer(probe, 5, 1);
  EXPECT_EQ(quantizer.encode(0.5F), 0);
  EXPECT_EQ(quantizer.encode(1.5F), 2);
  EXPECT_EQ(quantizer.encode(2.5F), 2);
  const float constant[] = {-7.25F, -7.25F, -7.25F};
  const GroupQuantizer<4, half> flat(constant, 3, 1);
  EXPECT_EQ(flat.encode(-7.25F), 0);
  EXPECT_EQ((flat.decode(0, flat.scale, flat.minimum)), -7.25F);
  const float wide[] = {-60000.0F, 60000.0F};  // the range does not fit half, the scale does
  const GroupQuantizer<2, half> ends(wide, 2, 1);
  EXPECT_NEAR((ends.decode(ends.encode(60000.0F), ends.scale, ends.minimum)), 60000.0F, 100.0F);
  EXPECT_NEAR((ends.decode(ends.encode(-60000.0F), ends.scale, ends.minimum)), -60000.0F, 100.0F);
}

}  // namespace group_quantizer_test
