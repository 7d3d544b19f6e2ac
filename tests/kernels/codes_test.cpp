// tests/kernels/codes_test.cpp - strips of codes: what is put in comes out, and products are those of the definition.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <utility>
#include <vector>

#include "kvcompress/core/half.hpp"
#include "kvcompress/kernels/codes.hpp"

namespace {

namespace kernels = kvcompress::kernels;
using kvcompress::Accumulation;
using kvcompress::half;

template <class F>
void for_all_bits(F f) {
  [&]<int... Less>(std::integer_sequence<int, Less...>) { (f.template operator()<Less + 1>(), ...); }
  (std::make_integer_sequence<int, 8>{});
}

/// Random codes (steps, 16), put into a strip step by step.
template <int Bits>
struct RandomStrip {
  using Strip = kernels::Strip<Bits>;
  std::size_t steps;
  std::vector<std::uint8_t> codes;
  std::vector<std::uint8_t> strip;

  RandomStrip(std::size_t n, std::mt19937& rng) : steps(n), codes(n * 16), strip(Strip::bytes(n), 0xA5) {
    for (auto& code : codes) { code = static_cast<std::uint8_t>(rng() % (1U << Bits)); }
    namespace vec = kvcompress::simd::native;
    for (std::size_t i = 0; i < codes.size(); i += vec::lanes) {
      Strip::put_step(strip.data(), n, i / 16, i % 16, vec::load(codes.data() + i));
    }
  }
};

TEST(Strip, GivesBackWhatWasPutIn) {
  std::mt19937 rng(1);
  for_all_bits([&]<int Bits>() {
    using Strip = kernels::Strip<Bits>;
    for (const std::size_t steps : {1U, 5U, 20U, 64U, 80U, 128U}) {
      RandomStrip<Bits> one(steps, rng);
      ASSERT_EQ(Strip::bytes(steps) * 8, Strip::padded(steps) * 16 * Bits);
      const auto expect = [&](const std::vector<std::uint8_t>& strip) {
        for (std::size_t i = 0; i < one.codes.size(); ++i) {
          ASSERT_EQ(Strip::get(strip.data(), steps, i % 16, i / 16), one.codes[i]) << Bits << " bits, " << i;
        }
      };
      expect(one.strip);
      std::vector<std::uint8_t> by_lane(16 * Strip::padded(steps));  // (lanes, steps)
      for (std::size_t i = 0; i < one.codes.size(); ++i) { by_lane[i % 16 * Strip::padded(steps) + i / 16] = one.codes[i]; }
      std::vector<std::uint8_t> other(Strip::bytes(steps), 0x5A);
      Strip::put_lanes(other.data(), steps, 0, 8, 0, Strip::padded(steps), by_lane.data(), Strip::padded(steps));
      Strip::put_lanes(other.data(), steps, 8, 16, 0, Strip::padded(steps), by_lane.data() + 8 * Strip::padded(steps),
                       Strip::padded(steps));
      expect(other);
      for (const std::size_t kept : {4U, 8U, 12U}) {
        std::vector<std::uint8_t> narrow(Strip::narrow_bytes(steps, kept));
        Strip::narrow(other.data(), steps, kept, narrow.data());
        for (std::size_t i = 0; i < one.codes.size(); ++i) {
          if (i % 16 < kept) { ASSERT_EQ(Strip::get(narrow.data(), steps, i % 16, i / 16, kept), one.codes[i]); }
        }
        std::vector<std::uint8_t> wide(Strip::bytes(steps), 0xFF);
        Strip::widen(narrow.data(), steps, kept, wide.data());
        for (std::size_t i = 0; i < one.codes.size(); ++i) {
          ASSERT_EQ(Strip::get(wide.data(), steps, i % 16, i / 16), i % 16 < kept ? one.codes[i] : 0);
        }
      }
      for (std::size_t lane = 0; lane < 16; lane += kvcompress::simd::native::lanes) {
        std::int32_t codes[kvcompress::simd::native::lanes];
        kvcompress::simd::native::store(codes, Strip::get_step(one.strip.data(), steps, steps - 1, lane));
        for (std::size_t i = 0; i < kvcompress::simd::native::lanes; ++i) { ASSERT_EQ(codes[i], one.codes[16 * (steps - 1) + lane + i]); }
      }
      Strip::copy_step(one.strip.data(), steps - 1, other.data(), 0, steps);
      for (std::size_t lane = 0; lane < 16; ++lane) { one.codes[lane] = one.codes[16 * (steps - 1) + lane]; }
      expect(other);
    }
  });
}

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
template <int Bits>
void check_outliers(std::size_t outliers, std::mt19937& rng) {
  using Products = kernels::CodeProducts<Bits, Accumulation::near_exact>;
  constexpr std::size_t queries = 5;
  for (const std::size_t dim : {64U, 100U, 128U}) {
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
        ASSERT_NEAR(out[q * 16 + lane], expected, 1e-4 * std::sqrt(size[q]) + 1e-6 * all)
            << Bits << " bits, dim " << dim << ", outliers " << outliers;
      }
    }
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
    for (const std::size_t outliers : {1U, 2U, 4U}) { check_outliers<Bits>(outliers, rng); }
  });
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

}  // namespace
