// include/kvcompress/eviction/scorers/gumbel_noise.hpp - random numbers that turn the largest logits into samples.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>

#include "kvcompress/core/math.hpp"
#include "kvcompress/core/random_bits.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Gumbel(0, 1) noise from a seed: the same for the same lane, query and row.
class GumbelNoise {
 public:
  GumbelNoise(std::size_t seed, const Site& site) noexcept : key_(random_bits(seed, site)) {}
  [[nodiscard]] float operator()(std::size_t query, std::size_t row) const noexcept {
    const float uniform =
        (static_cast<float>(random_bits(key_ + (static_cast<std::uint64_t>(query) << 32U) + row) >> 41U) + 0.5F) * 0x1p-23F;
    return -math::log(-math::log(uniform));
  }

 private:
  std::uint64_t key_;
};
/// None.
struct NoNoise {
  NoNoise(std::size_t, const Site&) noexcept {}
  [[nodiscard]] constexpr float operator()(std::size_t /*query*/, std::size_t /*row*/) const noexcept { return 0.0F; }
};

}  // namespace kvcompress
