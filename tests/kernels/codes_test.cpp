// tests/kernels/codes_test.cpp - products of codes with queries and probabilities are those of the definition.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <utility>
#include <vector>

#include "kernels/random_strip.hpp"
#include "kvcompress/core/half.hpp"
#include "kvcompress/kernels/codes.hpp"

namespace codes_test {

namespace kernels = kvcompress::kernels;
using kvcompress::Accumulation;
using kvcompress::half;
using kvcompress::test::for_all_bits;
using kvcompress::test::RandomStrip;

std::vector<float> numbers(std::size_t count, std::mt19937& rng) {
  std::normal_distribution<float> normal;
  std::vector<float> out(count);
  for (float& x : out) { x = normal(rng); }
  return out;
}
/// Scales between 0.01 and 0.05, minima around them.
struct Group {
  std::vector<half> scale;
  std::vector<half> minimum;
  Group(std::size_t count, std::mt19937& rng) {
    std::uniform_real_distribution<float> spread(0.01F, 0.05F);
    for (std::size_t i = 0; i < count; ++i) {
      scale.push_back(half(spread(rng)));
      minimum.push_back(half(-10.0F * spread(rng)));
    }
  }
};

/// Relative to the largest product of a query.
template <Accumulation Mode>
constexpr double tolerance = Mode == Accumulation::exact        ? 1e-5
                             : Mode == Accumulation::near_exact ? 2e-4
                                                                : 5e-2;

template <int Bits, Accumulation Mode>
void check_keys(std::mt19937& rng) {
  using Products = kernels::CodeProducts<Bits, Mode>;
  for (const std::size_t dim : {1U, 20U, 64U, 80U, 96U, 128U, 256U, 300U}) {
    for (const std::size_t queries : {1U, 2U, 3U, 4U, 8U, 13U}) {
      const RandomStrip<Bits> keys(dim, rng);
      const Group group(dim, rng);
      const std::size_t stride = kernels::padded(dim) + 16;
      auto x = numbers(queries * stride, rng);
      for (std::size_t q = 0; q < queries; ++q) {
        std::fill(x.begin() + static_cast<std::ptrdiff_t>(q * stride + dim), x.begin() + static_cast<std::ptrdiff_t>((q + 1) * stride),
                  0.0F);
      }
      std::vector<float> scratch(Products::floats(queries, dim), -1.0F);
      ASSERT_LE(Products::floats(queries, dim), (kernels::CodeProducts<Bits, Accumulation::exact>::floats(queries, dim)));
      Products products(scratch.data(), queries, dim);
      products.take_keys(x.data(), stride, dim, 1, [&](std::size_t) { return group.scale.data(); });
      products.fold_keys(group.scale.data(), group.minimum.data(), dim);
      for (const auto& [first, last] : {std::pair<std::size_t, std::size_t>{0, 16}, {3, 9}}) {
        std::vector<float> out(queries * 20, 7.0F);
        products.template strip<false>(keys.strip.data(), dim, 0, kernels::Strip<Bits>::padded(dim), nullptr, first, last, out.data(), 20);
        for (std::size_t q = 0; q < queries; ++q) {
          double largest = 0.0;
          std::vector<double> expected(16);
          for (std::size_t lane = 0; lane < 16; ++lane) {
            double size = 0.0;
            for (std::size_t c = 0; c < dim; ++c) {
              const double number = keys.codes[16 * c + lane] * static_cast<double>(static_cast<float>(group.scale[c])) +
                                    static_cast<double>(static_cast<float>(group.minimum[c]));
              expected[lane] += static_cast<double>(x[q * stride + c]) * number;
              size += std::pow(static_cast<double>(x[q * stride + c]) * number, 2.0);
            }
            largest = std::max(largest, std::sqrt(size));  // the size of a product of independent numbers
          }
          for (std::size_t lane = first; lane < last; ++lane) {
            ASSERT_NEAR(out[q * 20 + lane - first], expected[lane], (Bits == 1 ? 2 : 1) * tolerance<Mode> * largest + 1e-6)
                << Bits << " bits, dim " << dim;
          }
          ASSERT_EQ(out[q * 20 + last - first], 7.0F);
        }
      }
    }
  }
}

/// Channels that weigh 64 times as much as the rest leave the others their precision: their own products are fp32.
template <int Bits, Accumulation Mode>
void check_outliers(std::size_t outliers, std::mt19937& rng) {
  using Products = kernels::CodeProducts<Bits, Mode>;
  constexpr std::size_t queries = 5;
  for (const std::size_t dim : {81U, 100U, 128U}) {
    const RandomStrip<Bits> keys(dim, rng);
    const Group group(dim, rng);
    auto x = numbers(queries * dim, rng);
    std::vector<double> size(queries);  // of the products of the other channels
    for (std::size_t c = 0; c < dim; ++c) {
      const bool outlier = c % 5 == 3 && c / 5 < outliers;
      for (std::size_t q = 0; q < queries; ++q) {
        float& number = x[q * dim + c];
        if (outlier) {
          number = std::copysign(64.0F + std::abs(number), number);
        } else {
          size[q] += std::pow(static_cast<double>(number * static_cast<float>(group.scale[c])) * ((1 << Bits) - 1), 2.0);
        }
      }
    }
    std::vector<float> scratch(Products::floats(queries, dim), -1.0F);
    Products products(scratch.data(), queries, dim);
    products.take_keys(x.data(), dim, dim, 1, [&](std::size_t) { return group.scale.data(); });
    products.fold_keys(group.scale.data(), group.minimum.data(), dim);
    std::vector<float> out(queries * 16, 7.0F);
    products.template strip<false>(keys.strip.data(), dim, 0, kernels::Strip<Bits>::padded(dim), nullptr, 0, 16, out.data(), 16);
    for (std::size_t q = 0; q < queries; ++q) {
      for (std::size_t lane = 0; lane < 16; ++lane) {
        double expected = 0.0;
        double all = 0.0;
        for (std::size_t c = 0; c < dim; ++c) {
          const double number = keys.codes[16 * c + lane] * static_cast<double>(static_cast<float>(group.scale[c])) +
                                static_cast<double>(static_cast<float>(group.minimum[c]));
          expected += static_cast<double>(x[q * dim + c]) * number;
          all += std::abs(static_cast<double>(x[q * dim + c]) * number);
        }
        ASSERT_NEAR(out[q * 16 + lane], expected, 0.5 * tolerance<Mode> * std::sqrt(size[q]) + 1e-6 * all)
            << Bits << " bits, dim " << dim << ", outliers " << outliers;
      }
    }
  }
}

/// A query alone has the bits that it has among others, whatever their outlier channels and sizes.
template <int Bits, Accumulation Mode>
void check_company(std::mt19937& rng) {
  using Products = kernels::CodeProducts<Bits, Mode>;
  constexpr std::size_t queries = 13;
  constexpr std::size_t dim = 100;
  const RandomStrip<Bits> strip(dim, rng);
  const Group group(dim, rng);
  auto x = numbers(queries * dim, rng);
  for (std::size_t q = 0; q < queries; ++q) {
    for (std::size_t i = 0; i < q; ++i) { x[q * dim + rng() % dim] *= i % 2 == 0 ? 40.0F : 3000.0F; }
  }
  const auto key_products = [&](std::size_t first, std::size_t count) {
    std::vector<float> scratch(Products::floats(count, dim), -1.0F);
    Products products(scratch.data(), count, dim);
    products.take_keys(x.data() + first * dim, dim, dim, 1, [&](std::size_t) { return group.scale.data(); });
    products.fold_keys(group.scale.data(), group.minimum.data(), dim);
    std::vector<float> out(count * 16);
    products.template strip<false>(strip.strip.data(), dim, 0, kernels::Strip<Bits>::padded(dim), nullptr, 0, 16, out.data(), 16);
    return out;
  };
  const auto value_products = [&](std::size_t first, std::size_t count) {
    std::vector<float> scratch(Products::floats(count, dim), -1.0F);
    Products products(scratch.data(), count, dim);
    float factor = 0.0F;
    products.take_values(
        x.data() + first * dim, dim, 0, dim, 1, [&](std::size_t) { return group.scale.data(); }, &factor);
    products.fold_values(group.scale.data(), group.minimum.data(), 0, dim, factor);
    std::vector<float> out(count * 16);
    products.template strip<true>(strip.strip.data(), dim, 0, kernels::Strip<Bits>::padded(dim), nullptr, 0, 16, out.data(), 16);
    return out;
  };
  const auto keys = key_products(0, queries);
  const auto values = value_products(0, queries);
  for (const std::size_t count : {1U, 2U, 3U, 4U, 7U}) {
    for (std::size_t first = 0; first + count <= queries; ++first) {
      const auto key = key_products(first, count);
      const auto value = value_products(first, count);
      for (std::size_t i = 0; i < count * 16; ++i) {
        ASSERT_EQ(key[i], keys[first * 16 + i]) << Bits << " bits, key products of query " << first << " + " << i / 16;
        ASSERT_EQ(value[i], values[first * 16 + i]) << Bits << " bits, value products of query " << first << " + " << i / 16;
      }
    }
  }
}

/// The largest codes times the largest weights, for heads so long that the integers must get smaller to fit 31 bits.
template <int Bits, Accumulation Mode>
void check_largest() {
  using Products = kernels::CodeProducts<Bits, Mode>;
  using Strip = kernels::Strip<Bits>;
  const std::uint8_t top = static_cast<std::uint8_t>((1U << Bits) - 1U);
  for (const std::size_t dim : {256U, 320U, 512U, 576U, 1000U, 2048U, 5000U}) {
    std::vector<std::uint8_t> codes(Strip::bytes(dim), 0xFF);
    const std::vector<half> scale(dim, half(1.0F));
    const std::vector<half> minimum(dim, half(0.0F));
    std::vector<float> x(2 * dim, 1.0F);
    std::fill_n(x.begin(), dim, -1.0F);
    std::vector<float> scratch(Products::floats(2, dim), -1.0F);
    Products products(scratch.data(), 2, dim);
    products.take_keys(x.data(), dim, dim, 1, [&](std::size_t) { return scale.data(); });
    products.fold_keys(scale.data(), minimum.data(), dim);
    std::vector<float> out(32);
    products.template strip<false>(codes.data(), dim, 0, Strip::padded(dim), nullptr, 0, 16, out.data(), 16);
    const float expected = static_cast<float>(dim) * top;
    for (std::size_t lane = 0; lane < 16; ++lane) {
      ASSERT_NEAR(out[lane], -expected, 1e-5F * expected) << Bits << " bits, dim " << dim;
      ASSERT_NEAR(out[16 + lane], expected, 1e-5F * expected) << Bits << " bits, dim " << dim;
    }
    // What any backend may add up, even the fields that stand topmost in a byte; see largest_weight.
    const double heaviest = Bits == 8 ? 255.0 : std::max((1 << Bits) - 1, Bits >= 4 ? 120 : Bits >= 2 ? 48 : 16);
    const double weight = static_cast<double>(kernels::largest_weight<Mode, Bits>(kernels::padded_steps(dim)));
    ASSERT_LE(heaviest * weight * static_cast<double>(kernels::padded_steps(dim)), 0x7FFF'FFFF) << Bits << " bits, dim " << dim;
    ASSERT_GE(weight, std::min(Mode == Accumulation::near_exact ? 32767.0 : 127.0, 32767.0 * 256.0 / static_cast<double>(dim + 64)));
  }
}

template <int Bits, Accumulation Mode>
void check_values(std::mt19937& rng) {
  using Products = kernels::CodeProducts<Bits, Mode>;
  using Strip = kernels::Strip<Bits>;
  for (const auto& [place, count] : {std::pair<std::size_t, std::size_t>{0, 128}, {0, 1}, {5, 40}, {127, 1}, {64, 64}, {33, 95}}) {
    for (const std::size_t queries : {1U, 4U, 5U}) {
      const RandomStrip<Bits> values(128, rng);
      const Group group(128, rng);
      auto p = numbers(queries * 128, rng);
      for (float& one : p) { one = std::exp(one); }
      const std::size_t first = place / Strip::step_multiple * Strip::step_multiple;
      std::vector<float> scratch(Products::floats(queries, 128), -1.0F);
      Products products(scratch.data(), queries, 128);
      float factor = 0.0F;
      products.take_values(
          p.data(), 128, place - first, count, 1, [from = group.scale.data() + place](std::size_t) { return from; }, &factor);
      products.fold_values(group.scale.data() + place, group.minimum.data() + place, place - first, count, factor);
      std::vector<float> out(queries * 16, 3.0F);
      products.template strip<true>(values.strip.data(), 128, first, Strip::padded(place - first + count), nullptr, 0, 16, out.data(), 16);
      for (std::size_t q = 0; q < queries; ++q) {
        for (std::size_t lane = 0; lane < 16; ++lane) {
          double expected = 3.0;
          double size = 0.0;
          for (std::size_t t = 0; t < count; ++t) {
            const double number = values.codes[16 * (place + t) + lane] * static_cast<double>(static_cast<float>(group.scale[place + t])) +
                                  static_cast<double>(static_cast<float>(group.minimum[place + t]));
            expected += static_cast<double>(p[q * 128 + t]) * number;
            size += std::abs(static_cast<double>(p[q * 128 + t]) * number);
          }
          ASSERT_NEAR(out[q * 16 + lane], expected, (Bits == 1 ? 2 : 1) * tolerance<Mode> * size + 1e-5)
              << Bits << " bits, rows " << place << " + " << count;
        }
      }
    }
  }
}

template <Accumulation Mode>
void check_products() {
  std::mt19937 rng(2);
  for_all_bits([&]<int Bits>() {
    check_keys<Bits, Mode>(rng);
    check_values<Bits, Mode>(rng);
  });
}

TEST(CodeProducts, ExactIsFloatArithmetic) { check_products<Accumulation::exact>(); }
TEST(CodeProducts, NearExactIsWithin2e4) { check_products<Accumulation::near_exact>(); }
TEST(CodeProducts, OutlierChannelsCostTheOthersNoPrecision) {
  std::mt19937 rng(4);
  for_all_bits([&]<int Bits>() {
    for (const std::size_t outliers : {1U, 4U, 12U, 16U}) {
      check_outliers<Bits, Accumulation::near_exact>(outliers, rng);
      if constexpr (kvcompress::offers_fast<Bits>) { check_outliers<Bits, Accumulation::fast>(outliers, rng); }
    }
  });
}
TEST(CodeProducts, OfAQueryHaveTheSameBitsInAnyCompany) {
  std::mt19937 rng(5);
  for_all_bits([&]<int Bits>() {
    check_company<Bits, Accumulation::exact>(rng);
    check_company<Bits, Accumulation::near_exact>(rng);
    if constexpr (kvcompress::offers_fast<Bits>) { check_company<Bits, Accumulation::fast>(rng); }
  });
}
TEST(CodeProducts, OfTheLargestCodesAndWeightsFit31Bits) {
  for_all_bits([&]<int Bits>() {
    check_largest<Bits, Accumulation::near_exact>();
    check_largest<Bits, Accumulation::fast>();
  });
}
/// Queries of any size: what the integers' unit leaves must be finite, and right where it counts.
TEST(CodeProducts, OfTinyAndHugeNumbersAreFinite) {
  std::mt19937 rng(6);
  using Products = kernels::CodeProducts<4, Accumulation::near_exact>;
  constexpr std::size_t dim = 64;
  const RandomStrip<4> keys(dim, rng);
  for (const float scale : {6e-8F, 1.0F, 4000.0F}) {
    for (const float size : {1e-38F, 1e-30F, 1e-10F, 1.0F, 1e20F, 1e30F}) {
      for (const float flat : {0.0F, 1.0F, 1e10F, 1e30F}) {  // the query's number in a channel whose keys are all the same
        std::vector<half> scales(dim, half(scale));
        std::vector<half> minima(dim, half(0.0F));
        scales[7] = half(0.0F);
        minima[7] = half(2.0F);
        auto x = numbers(dim, rng);
        for (float& one : x) { one *= size; }
        x[7] = flat;
        std::vector<float> scratch(Products::floats(1, dim));
        Products products(scratch.data(), 1, dim);
        products.take_keys(x.data(), dim, dim, 1, [&](std::size_t) { return scales.data(); });
        products.fold_keys(scales.data(), minima.data(), dim);
        float out[16];
        products.strip<false>(keys.strip.data(), dim, 0, dim, nullptr, 0, 16, out, 16);
        for (std::size_t lane = 0; lane < 16; ++lane) {
          double expected = 2.0 * static_cast<double>(flat);
          double most = expected;
          for (std::size_t c = 0; c < dim; ++c) {
            const double product =
                static_cast<double>(x[c]) * keys.codes[16 * c + lane] * static_cast<double>(static_cast<float>(scales[c]));
            expected += product;
            most += std::abs(product);
          }
          ASSERT_NEAR(out[lane], expected, 1e-4 * most + 1e-30) << "scale " << scale << ", size " << size << ", flat " << flat;
        }
      }
    }
  }
}
TEST(CodeProducts, FastIsWithin5Percent) { check_products<Accumulation::fast>(); }

TEST(CodeProducts, GroupsWithoutSpreadAndZeroWeightsGiveTheMinima) {
  std::mt19937 rng(3);
  const RandomStrip<4> values(128, rng);
  const std::vector<half> nothing(128, half(0.0F));
  const std::vector<half> minimum(128, half(0.5F));
  std::vector<float> scratch(kernels::CodeProducts<4, Accumulation::near_exact>::floats(2, 128));
  kernels::CodeProducts<4, Accumulation::near_exact> products(scratch.data(), 2, 128);
  std::vector<float> p(256, 0.25F);
  std::fill_n(p.begin(), 128, 0.0F);
  float factor = 0.0F;
  products.take_values(
      p.data(), 128, 0, 128, 1, [&](std::size_t) { return nothing.data(); }, &factor);
  products.fold_values(nothing.data(), minimum.data(), 0, 128, factor);
  float out[32] = {};
  products.strip<false>(values.strip.data(), 128, 0, 128, nullptr, 0, 16, out, 16);
  for (std::size_t lane = 0; lane < 16; ++lane) {
    EXPECT_EQ(out[lane], 0.0F);
    EXPECT_NEAR(out[16 + lane], 16.0F, 1e-4);
  }
}

}  // namespace codes_test
