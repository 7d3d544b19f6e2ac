// include/kvcompress/core/most_rows.hpp - the rows of a lane that a budget in bytes allows.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

#include "kvcompress/core/abi.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// The most rows that a lane holds under a budget in bytes: live ones, of which so many were decoded after the prompt, and dead ones that have
/// not given their place back. A store's most_bytes(most, dim, options, shape, at_hand) is an upper bound of what it holds of them after a
/// commit, spare memory included; a store without it is taken at its bytes_for.
struct MostRows {
  std::size_t live = 0;
  std::size_t decoded = 0;
  std::size_t dead = 0;
  [[nodiscard]] constexpr std::size_t all() const noexcept { return live + dead; }
};

}  // namespace kvcompress
