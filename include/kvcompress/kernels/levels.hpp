// include/kvcompress/kernels/levels.hpp - strips of codes as strips of the levels that the codes stand for, looked up in registers.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kvcompress/kernels/strip.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::kernels {

/// Levels of 8 bits of the steps [first, first + count), multiples of Strip<Bits>::step_multiple, of a strip of codes of up to 4 bits: `to` is a
/// Strip<8> of `count` steps. A line of levels has the bytes of a line of codes in the same places, whatever the width, so that nothing is moved:
/// each byte is shifted, masked and looked up in `table`, 16 bytes.
template <int Bits>
inline void look_up_levels(const std::uint8_t* strip, std::size_t steps, std::size_t first, std::size_t count, const std::uint8_t* table,
                           std::uint8_t* to) noexcept {
  static_assert(Bits <= 4, "a table in a register has 16 levels");
  using Line = std::uint8_t __attribute__((vector_size(64)));
  constexpr std::size_t lines = Strip<Bits>::step_multiple / 4;  // of levels, per line of the narrowest plane
  for (std::size_t step = first; step < first + count; step += Strip<Bits>::step_multiple, to += 64 * lines) {
    Line index[lines] = {};
    Strip<Bits>::for_planes(strip, steps, [&]<int Width, int Shift>(const std::uint8_t* plane) {
      constexpr std::size_t fields = 8 / Width;
#pragma GCC unroll 8
      for (std::size_t i = 0; i < lines; ++i) {
        Line bytes;
        std::memcpy(&bytes, plane + step * 2 * static_cast<std::size_t>(Width) + i / fields * 64, sizeof bytes);
        const Line field = bytes >> static_cast<std::uint8_t>(static_cast<std::size_t>(Width) * (i % fields));
        index[i] |= (field & static_cast<std::uint8_t>((1 << Width) - 1)) << static_cast<std::uint8_t>(Shift);
      }
    });
#pragma GCC unroll 8
    for (std::size_t i = 0; i < lines; ++i) {
      std::uint8_t bytes[64];
      std::memcpy(bytes, &index[i], sizeof bytes);
      simd::native::look_up(bytes, table, to + 64 * i);
    }
  }
}

}  // namespace kvcompress::kernels
