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
/// each byte is shifted, masked and looked up in `table`, 16 bytes. `ahead` (null: nothing) is a strip that will be read soon.
template <int Bits>
inline void look_up_levels(const std::uint8_t* strip, std::size_t steps, std::size_t first, std::size_t count, const std::uint8_t* table,
                           const std::uint8_t* ahead, std::uint8_t* to) noexcept {
  static_assert(Bits <= 4, "a table in a register has 16 levels");
  using simd::native::u8;
  constexpr std::size_t lines = Strip<Bits>::step_multiple / 4;  // of levels, per line of the narrowest plane
  for (std::size_t step = first; step < first + count; step += Strip<Bits>::step_multiple, to += 64 * lines) {
    for (std::size_t part = 0; part < 64; part += sizeof(u8)) {
      u8 index[lines] = {};
      Strip<Bits>::for_planes(strip, steps, [&]<int Width, int Shift>(const std::uint8_t* plane) {
        constexpr std::size_t fields = 8 / Width;
        const std::uint8_t* from = plane + step * 2 * static_cast<std::size_t>(Width);
#pragma GCC unroll 8
        for (std::size_t i = 0; i < lines; i += fields) {
          const std::uint8_t* line = from + i / fields * 64;
          if (ahead != nullptr && part == 0) { __builtin_prefetch(ahead + (line - strip), 0, 2); }
          u8 all;
          std::memcpy(&all, line + part, sizeof all);
#pragma GCC unroll 8
          for (std::size_t field = 0; field < fields; ++field) {
            const u8 bits =
                (all >> static_cast<std::uint8_t>(static_cast<std::size_t>(Width) * field)) & static_cast<std::uint8_t>((1 << Width) - 1);
            index[i + field] |= bits << static_cast<std::uint8_t>(Shift);
          }
        }
      });
#pragma GCC unroll 8
      for (std::size_t i = 0; i < lines; ++i) {
        const u8 levels = simd::native::look_up(table, index[i]);
        std::memcpy(to + 64 * i + part, &levels, sizeof levels);
      }
    }
  }
}

}  // namespace kvcompress::kernels
