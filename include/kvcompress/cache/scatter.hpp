// include/kvcompress/cache/scatter.hpp - a number for a position, so that sums of such numbers tell sets of positions apart.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

#include "kvcompress/core/shape.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

/// The last step of SplitMix64.
constexpr std::uint64_t scatter(Position position) noexcept {
  std::uint64_t x = position + std::uint64_t{0x9E37'79B9'7F4A'7C15};
  x = (x ^ (x >> 30U)) * 0xBF58'476D'1CE4'E5B9U;
  x = (x ^ (x >> 27U)) * 0x94D0'49BB'1331'11EBU;
  return x ^ (x >> 31U);
}

}  // namespace kvcompress::detail
