// tests/kernels/random_strip.hpp - strips of random codes.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <utility>
#include <vector>

#include "kvcompress/kernels/strip.hpp"

namespace kvcompress::test {

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

}  // namespace kvcompress::test
