// examples/llama/block_formats.hpp - quantised blocks that are read a block at a time: their bytes, and how they become floats.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>

#include "vector8.hpp"

namespace llama {

// All of them hold x = scale * code - minimum, or scale * (code - centre) where a format has no minimum. Q4_1, Q5_0 and Q5_1 have
// blocks of 32 values with one scale; the K formats have blocks of 256 in parts of 32 or 16, each part with a small integer that
// multiplies the block's half scale. `block` are the bytes of one block, `out` its values.

namespace block {

inline float half_at(const std::byte* from) noexcept { return from_half(read<std::uint16_t>(from)); }
inline const std::uint8_t* bytes_at(const std::byte* from) noexcept { return reinterpret_cast<const std::uint8_t*>(from); }

/// half scale, half minimum (added), 16 bytes of nibbles: values 0..15 in the low ones, 16..31 in the high ones.
inline void decode_q4_1(const std::byte* block, float* out) noexcept {
  const float scale = half_at(block);
  const float minimum = half_at(block + 2);
  const std::uint8_t* codes = bytes_at(block + 4);
  for (std::size_t i = 0; i < 16; ++i) {
    out[i] = scale * static_cast<float>(codes[i] & 15) + minimum;
    out[i + 16] = scale * static_cast<float>(codes[i] >> 4) + minimum;
  }
}

/// Five bits: nibbles as above, and bit i of a 32-bit word is the fifth bit of value i.
inline void decode_5_bits(const std::byte* fifth, const std::byte* nibbles, float scale, float offset, float* out) noexcept {
  const auto high = read<std::uint32_t>(fifth);
  const std::uint8_t* codes = bytes_at(nibbles);
  for (std::size_t i = 0; i < 16; ++i) {
    out[i] = scale * static_cast<float>((codes[i] & 15U) | (high >> i & 1U) << 4U) + offset;
    out[i + 16] = scale * static_cast<float>((codes[i] >> 4U) | (high >> (i + 16) & 1U) << 4U) + offset;
  }
}
/// half scale, fifth bits, nibbles; code 16 is zero.
inline void decode_q5_0(const std::byte* block, float* out) noexcept {
  const float scale = half_at(block);
  decode_5_bits(block + 2, block + 6, scale, -16.0F * scale, out);
}
/// half scale, half minimum (added), fifth bits, nibbles.
inline void decode_q5_1(const std::byte* block, float* out) noexcept {
  decode_5_bits(block + 4, block + 8, half_at(block), half_at(block + 2), out);
}

/// 16 bytes with a scale (low nibble) and a minimum (high nibble) for 16 values each, 64 bytes of codes, half scale, half minimum.
/// A byte holds one value of each of four parts that are 32 values apart.
inline void decode_q2_k(const std::byte* block, float* out) noexcept {
  const std::uint8_t* parts = bytes_at(block);
  const std::uint8_t* codes = bytes_at(block + 16);
  const float scale = half_at(block + 80);
  const float minimum = half_at(block + 82);
  for (std::size_t part = 0; part < 16; ++part) {
    const float s = scale * static_cast<float>(parts[part] & 15);
    const float m = minimum * static_cast<float>(parts[part] >> 4);
    const std::uint8_t* from = codes + part / 8 * 32 + part % 2 * 16;
    const std::size_t shift = part % 8 / 2 * 2;
    for (std::size_t i = 0; i < 16; ++i) { out[16 * part + i] = s * static_cast<float>(from[i] >> shift & 3) - m; }
  }
}

/// 32 bytes of third bits, 64 bytes of two bits as in Q2_K, 12 bytes of scales, half scale; code 4 is zero.
inline void decode_q3_k(const std::byte* block, float* out) noexcept {
  const std::uint8_t* third = bytes_at(block);
  const std::uint8_t* codes = bytes_at(block + 32);
  const std::uint8_t* scales = bytes_at(block + 96);
  const float scale = half_at(block + 108);
  for (std::size_t part = 0; part < 16; ++part) {
    // Six bits, of which 32 is zero: four in the nibbles of bytes 0..7, two in bytes 8..11.
    const int low = part < 8 ? scales[part] & 15 : scales[part - 8] >> 4;
    const int high = scales[8 + part % 4] >> (part / 4 * 2) & 3;
    const float s = scale * static_cast<float>((low | high << 4) - 32);
    const std::uint8_t* from = codes + part / 8 * 32 + part % 2 * 16;
    const std::uint8_t* bits = third + part % 2 * 16;
    const std::size_t shift = part % 8 / 2 * 2;
    const std::size_t bit = part / 2;
    for (std::size_t i = 0; i < 16; ++i) {
      out[16 * part + i] = s * static_cast<float>((from[i] >> shift & 3) + 4 * (bits[i] >> bit & 1) - 4);
    }
  }
}

/// Scale and minimum of the 32 values of a part (0..7) of Q4_K and Q5_K, six bits each in 12 bytes: those of parts 0..3 in the low bits
/// of bytes 0..3 and 4..7; of parts 4..7 four bits in bytes 8..11, the other two in the high bits of bytes 0..7.
struct ScaleAndMinimum {
  float scale, minimum;
};
inline ScaleAndMinimum part_of(const std::byte* block, std::size_t part) noexcept {
  const std::uint8_t* packed = bytes_at(block + 4);
  int scale = 0;
  int minimum = 0;
  if (part < 4) {
    scale = packed[part] & 63;
    minimum = packed[part + 4] & 63;
  } else {
    scale = (packed[part + 4] & 15) | packed[part - 4] >> 6 << 4;
    minimum = packed[part + 4] >> 4 | packed[part] >> 6 << 4;
  }
  return {half_at(block) * static_cast<float>(scale), half_at(block + 2) * static_cast<float>(minimum)};
}

/// half scale, half minimum, 12 bytes of scales and minima, 128 bytes of nibbles: of 32 bytes the low ones are a part, the high ones the
/// next part.
inline void decode_q4_k(const std::byte* block, float* out) noexcept {
  for (std::size_t pair = 0; pair < 4; ++pair) {
    const auto [s0, m0] = part_of(block, 2 * pair);
    const auto [s1, m1] = part_of(block, 2 * pair + 1);
    const std::uint8_t* codes = bytes_at(block + 16 + 32 * pair);
    float* to = out + 64 * pair;
    for (std::size_t i = 0; i < 32; ++i) { to[i] = s0 * static_cast<float>(codes[i] & 15) - m0; }
    for (std::size_t i = 0; i < 32; ++i) { to[i + 32] = s1 * static_cast<float>(codes[i] >> 4) - m1; }
  }
}

/// As Q4_K, with 32 bytes of fifth bits before the nibbles: bit p of byte i belongs to value i of part p.
inline void decode_q5_k(const std::byte* block, float* out) noexcept {
  const std::uint8_t* fifth = bytes_at(block + 16);
  for (std::size_t pair = 0; pair < 4; ++pair) {
    const auto [s0, m0] = part_of(block, 2 * pair);
    const auto [s1, m1] = part_of(block, 2 * pair + 1);
    const std::uint8_t* codes = bytes_at(block + 48 + 32 * pair);
    float* to = out + 64 * pair;
    const std::size_t bit = 2 * pair;
    for (std::size_t i = 0; i < 32; ++i) { to[i] = s0 * static_cast<float>((codes[i] & 15) | (fifth[i] >> bit & 1) << 4) - m0; }
    for (std::size_t i = 0; i < 32; ++i) { to[i + 32] = s1 * static_cast<float>(codes[i] >> 4 | (fifth[i] >> (bit + 1) & 1) << 4) - m1; }
  }
}

/// 128 bytes of nibbles, 64 bytes of two more bits, 16 signed scales for 16 values each, half scale; code 32 is zero. Of each half of
/// 128 values: nibbles of 64 bytes (first all low ones, then all high ones), and of 32 bytes the bits 0-1, 2-3, 4-5, 6-7 in turn.
inline void decode_q6_k(const std::byte* block, float* out) noexcept {
  const auto* scales = reinterpret_cast<const std::int8_t*>(block + 192);
  const float scale = half_at(block + 208);
  for (std::size_t part = 0; part < 16; ++part) {
    const float s = scale * static_cast<float>(scales[part]);
    const std::size_t half = part / 8;
    const std::size_t within = part % 8;  // of the half, 16 values each
    const std::uint8_t* low = bytes_at(block + 64 * half + 16 * (within % 4));
    const std::uint8_t* high = bytes_at(block + 128 + 32 * half + 16 * (within % 2));
    const std::size_t low_shift = within / 4 * 4;
    const std::size_t high_shift = within / 2 * 2;
    for (std::size_t i = 0; i < 16; ++i) {
      out[16 * part + i] = s * static_cast<float>(((low[i] >> low_shift & 15) | (high[i] >> high_shift & 3) << 4) - 32);
    }
  }
}

}  // namespace block
}  // namespace llama
