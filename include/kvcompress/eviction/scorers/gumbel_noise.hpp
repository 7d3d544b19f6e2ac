// include/kvcompress/eviction/scorers/gumbel_noise.hpp - random numbers that turn the largest logits into samples.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>

#include "kvcompress/core/math.hpp"
#include "kvcompress/core/site.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Gumbel(0, 1) noise from a seed: the same for the same lane, query and row.
class GumbelNoise {
 public:
  GumbelNoise(std::size_t seed, const Site& site) noexcept : key_(mixed(mixed(seed + 1) + (site.layer << 20U) + site.kv_head)) {}
  [[nodiscard]] float operator()(std::size_t query, std::size_t row) const noexcept {
    const float uniform = (static_cast<float>(mixed(key_ + (static_cast<std::uint64_t>(query) << 32U) + row) >> 41U) + 0.5F) * 0x1p-23F;
    return -math::log(-math::log(uniform));
  }

 private:
  [[nodiscard]] static std::uint64_t mixed(std::uint64_t x) noexcept {  // SplitMix64
    x += 0x9E37'79B9'7F4A'7C15U;
    x = (x ^ (x >> 30U)) * 0xBF58'476D'1CE4'E5B9U;
    x = (x ^ (x >> 27U)) * 0x94D0'49BB'1331'11EBU;
    return x ^ (x >> 31U);
  }
  std::uint64_t key_;
};
/// None.
struct NoNoise {
  NoNoise(std::size_t, const Site&) noexcept {}
  [[nodiscard]] constexpr float operator()(std::size_t /*query*/, std::size_t /*row*/) const noexcept { return 0.0F; }
};

}  // namespace kvcompress
