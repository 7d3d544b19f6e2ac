// tests/kernels/strip_test.cpp - strips of codes: what is put in comes out.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <vector>

#include "kernels/random_strip.hpp"

namespace strip_test {

namespace kernels = kvcompress::kernels;
using kvcompress::test::for_all_bits;
using kvcompress::test::RandomStrip;

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

}  // namespace strip_test
