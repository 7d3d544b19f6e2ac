// include/kvcompress/core/random_bits.hpp - random numbers by hashing: the same for the same seed, lane and row, whatever was drawn before.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>

#include "kvcompress/core/site.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// SplitMix64.
[[nodiscard]] constexpr std::uint64_t random_bits(std::uint64_t x) noexcept {
  x += 0x9E37'79B9'7F4A'7C15U;
  x = (x ^ (x >> 30U)) * 0xBF58'476D'1CE4'E5B9U;
  x = (x ^ (x >> 27U)) * 0x94D0'49BB'1331'11EBU;
  return x ^ (x >> 31U);
}
/// What to begin with in a lane.
[[nodiscard]] inline std::uint64_t random_bits(std::size_t seed, const Site& site) noexcept {
  return random_bits(random_bits(seed + 1) + (std::uint64_t{site.layer} << 20U) + site.kv_head);
}

}  // namespace kvcompress
