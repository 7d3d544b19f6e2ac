// include/kvcompress/quantization/ggml/blocks.hpp - the bytes of ggml's block types, for caches that come from there or go there.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kvcompress/quantization/ggml/types.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::ggml {

/// Channels of a block: 64 for nvfp4, which has four groups in one, the row for q8_KV, else a group.
template <class Type>
constexpr std::size_t block_channels(std::size_t dim) noexcept {
  return std::is_same_v<Type, Nvfp4> ? 64 : Type::group == 0 ? dim : Type::group;
}
/// Bytes of a row of `dim` numbers, a multiple of block_channels.
template <class Type>
constexpr std::size_t row_bytes(std::size_t dim) noexcept {
  if constexpr (std::is_same_v<Type, Q8_KV>) { return 8 + dim; }
  if constexpr (std::is_same_v<Type, Mxfp4>) { return dim / 32 * 17; }
  if constexpr (std::is_same_v<Type, Nvfp4>) { return dim / 64 * 36; }
  return dim / 32 * (2 * Type::numbers + 4 * static_cast<std::size_t>(Type::bits));
}

namespace detail {

/// Low nibbles are the first half of `count` codes, high ones the second.
inline void put_nibbles(const std::uint8_t* codes, std::size_t count, std::uint8_t* bytes) noexcept {
  for (std::size_t i = 0; i < count / 2; ++i) {
    bytes[i] = static_cast<std::uint8_t>((codes[i] & 15U) | (codes[i + count / 2] & 15U) << 4U);
  }
}
inline void get_nibbles(const std::uint8_t* bytes, std::size_t count, std::uint8_t* codes) noexcept {
  for (std::size_t i = 0; i < count / 2; ++i) {
    codes[i] = bytes[i] & 15U;
    codes[i + count / 2] = static_cast<std::uint8_t>(bytes[i] >> 4U);
  }
}

}  // namespace detail

/// A block of codes and their numbers, (numbers, groups of the block), as bytes.
template <class Type>
void put_block(const std::uint8_t* codes, const typename Type::Scale* numbers, std::size_t dim, std::uint8_t* bytes) noexcept {
  if constexpr (std::is_same_v<Type, Q8_KV>) {
    std::int32_t sum = 0;
    for (std::size_t i = 0; i < dim; ++i) {
      const int code = codes[i] - 128;
      bytes[8 + i] = static_cast<std::uint8_t>(static_cast<std::int8_t>(code));
      sum += code;
    }
    std::memcpy(bytes, numbers, 4);
    std::memcpy(bytes + 4, &sum, 4);
  } else if constexpr (std::is_same_v<Type, Mxfp4>) {
    bytes[0] = Mxfp4::exponent_of(static_cast<float>(numbers[0]));
    detail::put_nibbles(codes, 32, bytes + 1);
  } else if constexpr (std::is_same_v<Type, Nvfp4>) {
    for (std::size_t g = 0; g < 4; ++g) {
      bytes[g] = Nvfp4::byte_of(2.0F * static_cast<float>(numbers[g]));
      detail::put_nibbles(codes + 16 * g, 16, bytes + 4 + 8 * g);
    }
  } else {
    std::memcpy(bytes, numbers, 2 * Type::numbers);
    bytes += 2 * Type::numbers;
    if constexpr (Type::bits == 8) {
      for (std::size_t i = 0; i < 32; ++i) { bytes[i] = static_cast<std::uint8_t>(static_cast<std::int8_t>(codes[i] - 128)); }
      return;
    }
    if constexpr (Type::bits == 5) {  // the fifth bits
      std::uint32_t high = 0;
      for (std::size_t i = 0; i < 32; ++i) { high |= static_cast<std::uint32_t>(codes[i] >> 4U) << i; }
      std::memcpy(bytes, &high, 4);
      bytes += 4;
    }
    if constexpr (Type::bits == 6) {  // two bits each: codes i and i + 16 of the first eight bytes' low and high halves
      for (std::size_t i = 0; i < 8; ++i) {
        const auto high = [&](std::size_t c) { return static_cast<unsigned>(codes[c] >> 4U); };
        bytes[i] = static_cast<std::uint8_t>(high(i) | high(i + 16) << 2U | high(i + 8) << 4U | high(i + 24) << 6U);
      }
      bytes += 8;
    }
    detail::put_nibbles(codes, 32, bytes);
  }
}
/// And back.
template <class Type>
void get_block(const std::uint8_t* bytes, std::size_t dim, std::uint8_t* codes, typename Type::Scale* numbers) noexcept {
  if constexpr (std::is_same_v<Type, Q8_KV>) {
    std::memcpy(numbers, bytes, 4);
    for (std::size_t i = 0; i < dim; ++i) { codes[i] = static_cast<std::uint8_t>(static_cast<std::int8_t>(bytes[8 + i]) + 128); }
  } else if constexpr (std::is_same_v<Type, Mxfp4>) {
    numbers[0] = bfloat16(Mxfp4::scale_of(bytes[0]));
    detail::get_nibbles(bytes + 1, 32, codes);
  } else if constexpr (std::is_same_v<Type, Nvfp4>) {
    for (std::size_t g = 0; g < 4; ++g) {
      numbers[g] = half(Nvfp4::scale_of(bytes[g]));
      detail::get_nibbles(bytes + 4 + 8 * g, 16, codes + 16 * g);
    }
  } else {
    std::memcpy(static_cast<void*>(numbers), bytes, 2 * Type::numbers);
    bytes += 2 * Type::numbers;
    if constexpr (Type::bits == 8) {
      for (std::size_t i = 0; i < 32; ++i) { codes[i] = static_cast<std::uint8_t>(static_cast<std::int8_t>(bytes[i]) + 128); }
      return;
    }
    detail::get_nibbles(bytes + (Type::bits == 5 ? 4 : Type::bits == 6 ? 8 : 0), 32, codes);
    for (std::size_t i = 0; i < 32; ++i) {
      unsigned high = 0;
      if constexpr (Type::bits == 5) { high = bytes[i / 8] >> (i % 8) & 1U; }
      if constexpr (Type::bits == 6) { high = bytes[i % 8] >> (4 * (i % 16 / 8) + 2 * (i / 16)) & 3U; }
      codes[i] = static_cast<std::uint8_t>(codes[i] | high << 4U);
    }
  }
}

/// Row `row` of a codec of that type, `dim` numbers wide, as the bytes that ggml has.
template <class Type>
void put_row(const auto& codec, std::size_t row, std::size_t dim, std::uint8_t* bytes) noexcept {
  const std::size_t width = block_channels<Type>(dim);
  const std::size_t group = Type::group == 0 ? dim : Type::group;
  std::uint8_t codes[4096];
  typename Type::Scale numbers[8];
  for (std::size_t first = 0; first < dim; first += width, bytes += row_bytes<Type>(width)) {
    for (std::size_t c = 0; c < width; ++c) { codes[c] = codec.code(row, first + c); }
    for (std::size_t g = 0; g < width / group; ++g) { numbers[g] = codec.scale(row, first + g * group); }
    if constexpr (Type::numbers == 2) { numbers[1] = codec.minimum(row, first); }
    put_block<Type>(codes, numbers, width, bytes);
  }
}
/// A row of bytes as numbers.
template <class Type>
void decode_row(const std::uint8_t* bytes, std::size_t dim, float* out) noexcept {
  const std::size_t width = block_channels<Type>(dim);
  const std::size_t group = Type::group == 0 ? dim : Type::group;
  std::uint8_t codes[4096];
  typename Type::Scale numbers[8];
  for (std::size_t first = 0; first < dim; first += width, bytes += row_bytes<Type>(width)) {
    get_block<Type>(bytes, width, codes, numbers);
    for (std::size_t c = 0; c < width; ++c) { out[first + c] = Type::decode(codes[c], numbers + c / group, 1); }
  }
}

}  // namespace kvcompress::ggml
