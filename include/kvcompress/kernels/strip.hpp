// include/kvcompress/kernels/strip.hpp - how integer codes lie: 16 lanes side by side, the steps of a sum behind one another.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kvcompress/simd/native.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::kernels {

/// Codes of `Bits` bits for 16 lanes and a number of steps. For keys a lane is a token and a step a channel, for values a lane is a channel
/// and a step a token: either way a dot product runs over the steps of a lane, needs no sum across lanes, and one kernel serves both.
///
/// A code is cut into planes of 8, 4, 2 or 1 bits (3 bits are 2 + 1), the widest in the low bits. A plane is a run of lines (see lane_dots
/// in simd/scalar.hpp): 64 bytes with 32 / width steps of all lanes. Memory: 2 * Bits bytes a step, exactly Bits per code; steps are padded
/// to a multiple of `step_multiple` (8 at 4 bits, 16 at 2).
template <int Bits>
struct Strip {
  static_assert(Bits >= 1 && Bits <= 8, "a code has 1 to 8 bits");
  static constexpr std::size_t lanes = simd::native::line_lanes;
  static constexpr std::size_t step_multiple = static_cast<std::size_t>(32 / (Bits & -Bits));

  static constexpr std::size_t padded(std::size_t steps) noexcept { return (steps + step_multiple - 1) / step_multiple * step_multiple; }
  static constexpr std::size_t bytes(std::size_t steps) noexcept { return padded(steps) * 2 * static_cast<std::size_t>(Bits); }
  /// Bytes of a narrow strip, whose lines are cut after the first `lanes` lanes.
  static constexpr std::size_t narrow_bytes(std::size_t steps, std::size_t lanes_kept) noexcept {
    return bytes(steps) / lanes * lanes_kept;
  }
  static void narrow(const std::uint8_t* strip, std::size_t steps, std::size_t lanes_kept, std::uint8_t* to) noexcept {
    for (std::size_t line = 0; line < bytes(steps) / 64; ++line) {
      std::memcpy(to + 4 * lanes_kept * line, strip + 64 * line, 4 * lanes_kept);
    }
  }
  /// A whole strip of a narrow one; the lanes it lacks have code 0.
  static void widen(const std::uint8_t* from, std::size_t steps, std::size_t lanes_kept, std::uint8_t* strip) noexcept {
    for (std::size_t line = 0; line < bytes(steps) / 64; ++line) {
      std::memcpy(strip + 64 * line, from + 4 * lanes_kept * line, 4 * lanes_kept);
      std::memset(strip + 64 * line + 4 * lanes_kept, 0, 64 - 4 * lanes_kept);
    }
  }

  /// Calls plane<Width, Shift>(lines) for every plane of a strip: `Shift` is its lowest bit in the code. Plane may throw.
  template <int Shift = 0, class Byte>
  static void for_planes(Byte* strip, std::size_t steps, auto&& plane) {
    constexpr int left = Bits - Shift;
    if constexpr (left > 0) {
      constexpr int width = left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
      plane.template operator()<width, Shift>(strip);
      for_planes<Shift + width>(strip + padded(steps) * 2 * static_cast<std::size_t>(width), steps, plane);
    }
  }

  /// One code; `line_lanes` are fewer in a narrow strip.
  [[nodiscard]] static std::uint8_t get(const std::uint8_t* strip, std::size_t steps, std::size_t lane, std::size_t step,
                                        std::size_t line_lanes = lanes) noexcept {
    unsigned code = 0;
    for_planes(strip, steps, [&]<int Width, int Shift>(const std::uint8_t* lines) {
      const Place at = place<Width>(lane, step);
      const std::size_t line = static_cast<std::size_t>(lines - strip) / 64 + at.byte / 64;
      code |= (strip[line * 4 * line_lanes + at.byte % 64] >> at.bit & ((1U << Width) - 1U)) << Shift;
    });
    return static_cast<std::uint8_t>(code);
  }
  /// Codes of one lane at all steps, a byte each; padded(steps) are written. `line_lanes` are fewer in a narrow strip.
  static void get_lane(const std::uint8_t* strip, std::size_t steps, std::size_t lane, std::size_t line_lanes,
                       std::uint8_t* codes) noexcept {
    for_planes(strip, steps, [&]<int Width, int Shift>(const std::uint8_t* lines) {
      constexpr std::uint32_t mask = 0x01010101U * ((1U << Width) - 1U);
      const std::uint8_t* line = strip + (lines - strip) / 64 * 4 * static_cast<std::ptrdiff_t>(line_lanes) + 4 * lane;
      for (std::size_t step = 0; step < padded(steps); step += 32 / Width, line += 4 * line_lanes) {
        std::uint32_t word = 0;
        std::memcpy(&word, line, 4);
        for (int j = 0; j < 8 / Width; ++j) {
          std::uint32_t four = Shift == 0 ? 0U : load_four(codes + step + 4 * j);
          four |= (word >> (Width * j) & mask) << Shift;
          std::memcpy(codes + step + 4 * j, &four, 4);
        }
      }
    });
  }
  /// Codes of a vector of lanes, from `lane` on, at one step.
  static simd::native::i32 get_step(const std::uint8_t* strip, std::size_t steps, std::size_t step, std::size_t lane) noexcept {
    namespace vec = simd::native;
    vec::i32 codes = vec::set(std::int32_t{0});
    for_planes(strip, steps, [&]<int Width, int Shift>(const std::uint8_t* lines) {
      const Place at = place<Width>(0, step);
      const vec::i32 words = vec::load_words(lines + at.byte / 64 * 64 + 4 * lane);
      const vec::i32 field = vec::bit_and(vec::shift_right(words, 8 * static_cast<int>(at.byte % 4) + at.bit), vec::set((1 << Width) - 1));
      codes = vec::bit_or(codes, vec::shift_left(field, Shift));
    });
    return codes;
  }
  /// Puts codes of a vector of lanes, from `lane` on, at one step.
  static void put_step(std::uint8_t* strip, std::size_t steps, std::size_t step, std::size_t lane, simd::native::i32 codes) noexcept {
    namespace vec = simd::native;
    for_planes(strip, steps, [&]<int Width, int Shift>(std::uint8_t* lines) {
      constexpr int mask = (1 << Width) - 1;
      const Place at = place<Width>(0, step);
      const int up = 8 * static_cast<int>(at.byte % 4) + at.bit;
      std::uint8_t* words = lines + at.byte / 64 * 64 + 4 * lane;
      const vec::i32 others = vec::set(static_cast<std::int32_t>(~(static_cast<std::uint32_t>(mask) << up)));
      const vec::i32 field = vec::shift_left(vec::bit_and(vec::shift_right(codes, Shift), vec::set(mask)), up);
      vec::store_words(words, vec::bit_or(vec::bit_and(vec::load_words(words), others), field));
    });
  }
  /// Codes of a vector of lanes, from `lane` on, at step_multiple steps from `step` on, a multiple of it.
  static void put_words(std::uint8_t* strip, std::size_t steps, std::size_t step, std::size_t lane,
                        const simd::native::i32 (&codes)[step_multiple]) noexcept {
    namespace vec = simd::native;
    for_planes(strip, steps, [&]<int Width, int Shift>(std::uint8_t* lines) {
      constexpr std::size_t per_line = 32 / Width;
#pragma GCC unroll 4
      for (std::size_t line = 0; line < step_multiple / per_line; ++line) {
        vec::i32 word = vec::set(std::int32_t{0});
#pragma GCC unroll 32
        for (std::size_t i = 0; i < per_line; ++i) {
          vec::i32 field = codes[line * per_line + i];
          if constexpr (Width != Bits) { field = vec::bit_and(vec::shift_right(field, Shift), vec::set((1 << Width) - 1)); }
          word = vec::bit_or(word, vec::shift_left(field, 8 * static_cast<int>(i % 4) + Width * static_cast<int>(i / 4)));
        }
        vec::store_words(lines + step * 2 * Width + 64 * line + 4 * lane, word);
      }
    });
  }
  /// Codes of the lanes [first, last) at the steps [step, step + count), multiples of step_multiple: codes[(lane - first) * stride + i].
  static void put_lanes(std::uint8_t* strip, std::size_t steps, std::size_t first, std::size_t last, std::size_t step, std::size_t count,
                        const std::uint8_t* codes, std::size_t stride) noexcept {
    for_planes(strip, steps, [&]<int Width, int Shift>(std::uint8_t* lines) {
      constexpr std::uint32_t mask = 0x01010101U * ((1U << Width) - 1U);
      std::uint8_t* line = lines + step * 2 * static_cast<std::size_t>(Width);
      for (std::size_t i = 0; i < count; i += 32 / Width, line += 64) {
        for (std::size_t lane = first; lane < last; ++lane) {
          const std::uint8_t* from = codes + (lane - first) * stride + i;
          std::uint32_t word = 0;
          for (int j = 0; j < 8 / Width; ++j) {
            std::uint32_t four = 0;
            std::memcpy(&four, from + 4 * j, 4);
            word |= (four >> Shift & mask) << (Width * j);
          }
          std::memcpy(line + 4 * lane, &word, 4);
        }
      }
    });
  }
  /// The codes of all lanes at step `from` overwrite those at step `to`, maybe of another strip.
  static void copy_step(const std::uint8_t* source, std::size_t from, std::uint8_t* strip, std::size_t to, std::size_t steps) noexcept {
    for (std::size_t lane = 0; lane < lanes; lane += simd::native::lanes) {
      put_step(strip, steps, to, lane, get_step(source, steps, from, lane));
    }
  }

 private:
  struct Place {
    std::size_t byte;
    int bit;
  };
  static std::uint32_t load_four(const std::uint8_t* from) noexcept {
    std::uint32_t four = 0;
    std::memcpy(&four, from, 4);
    return four;
  }
  template <int Width>
  static constexpr Place place(std::size_t lane, std::size_t step) noexcept {
    constexpr std::size_t per_line = 32 / Width;
    return {step / per_line * 64 + 4 * lane + step % 4, Width * static_cast<int>(step % per_line / 4)};
  }
};

}  // namespace kvcompress::kernels
