// include/kvcompress/quantization/token_code.hpp - how a run of numbers of one token becomes codes: min to max, or the levels of a normal distribution.
// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <type_traits>

#include "kvcompress/quantization/encode_rows.hpp"
#include "kvcompress/quantization/lloyd_max.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// What per-token codecs of keys and values leave open: how a run of numbers becomes codes of `bits` bits and one or two `numbers` of type Scale, `stride`
/// apart. A code stands for (byte * step() + start()) * number[0] + number[1], where byte is the code or, where the code `looks_up`, the code's place in
/// table(), 16 bytes; attention multiplies bytes, which have `product_bits` bits. `affine`: it is GroupQuantizer's, of which many are made at a time.
/// exact_type is what rows are held in before they are encoded. encode(x, count, number, stride, codes) may write up to 4 vectors of codes too many.

/// Channels of a row that per-token codecs take.
inline constexpr std::size_t most_token_width = 4096;

/// From the smallest to the largest number, in equal steps (see GroupQuantizer).
template <int Bits, class ScaleType>
struct AffineCode {
  using Scale = ScaleType;
  using exact_type = Scale;
  static constexpr std::string_view name = "codes per token";
  static constexpr int bits = Bits;
  static constexpr int product_bits = Bits;
  static constexpr std::size_t numbers = 2;
  static constexpr bool looks_up = false;
  static constexpr bool affine = true;

  explicit AffineCode(const auto& /*options*/) noexcept {}
  static constexpr float step() noexcept { return 1.0F; }
  static constexpr float start() noexcept { return 0.0F; }

  void encode(const float* x, std::size_t count, Scale* number, std::size_t stride, std::uint8_t* codes) const noexcept {
    const auto fitted = quantization::fit_run<Bits, Scale>(x, count);
    number[0] = fitted.scale;
    number[stride] = fitted.minimum;
    quantization::encode_run<Bits>(x, count, fitted.scale, fitted.minimum, codes);
  }
  [[nodiscard]] float decode(std::uint8_t code, const Scale* number, std::size_t stride) const noexcept {
    return GroupQuantizer<Bits, Scale>::decode(code, number[0], number[stride]);
  }
};

/// Levels of a table, Lloyd's and Max's unless the options name another, times one scale: the root mean square of the numbers, corrected so that
/// decoded numbers have the norm of the numbers. For numbers that are normal and of mean 0, as rotated rows are, nearly. A scale that Scale cannot hold
/// is its largest.
template <int Bits, class ScaleType>
struct LevelCode {
  using Scale = ScaleType;
  using exact_type = Scale;
  static constexpr std::string_view name = "levels per token";
  static constexpr int bits = Bits;
  static constexpr int product_bits = 8;
  static constexpr std::size_t numbers = 1;
  static constexpr bool looks_up = true;
  static constexpr bool affine = false;

  const LevelTable<Bits>* levels = &lloyd_max_levels<Bits>;

  explicit LevelCode(const auto& options) noexcept {
    if constexpr (requires { options.levels; }) { levels = options.levels; }
  }
  [[nodiscard]] float step() const noexcept { return levels->step; }
  [[nodiscard]] float start() const noexcept { return -127.5F * levels->step; }
  [[nodiscard]] const std::uint8_t* table() const noexcept { return levels->bytes.data(); }
  void encode(const float* x, std::size_t count, Scale* number, std::size_t /*stride*/, std::uint8_t* codes) const noexcept {
    number[0] = Scale(std::min(quantization::encode_levels<Bits>(x, count, *levels, codes), largest<Scale>));
  }
  [[nodiscard]] float decode(std::uint8_t code, const Scale* number, std::size_t /*stride*/) const noexcept {
    return levels->level(code) * static_cast<float>(number[0]);
  }
};

/// Codes that stand for (code - Offset) * scale, and where there are two numbers + minimum.
template <int Bits, int Offset, std::size_t Numbers, class ScaleType>
struct IntegerCode {
  using Scale = ScaleType;
  using exact_type = std::conditional_t<std::is_same_v<Scale, bfloat16>, half, Scale>;
  static constexpr int bits = Bits;
  static constexpr int product_bits = Bits;
  static constexpr std::size_t numbers = Numbers;
  static constexpr bool looks_up = false;
  static constexpr bool affine = false;
  static constexpr int largest_code = (1 << Bits) - 1;

  static constexpr float step() noexcept { return 1.0F; }
  static constexpr float start() noexcept { return static_cast<float>(-Offset); }
  [[nodiscard]] static float decode(std::uint8_t code, const Scale* number, std::size_t stride) noexcept {
    if constexpr (Numbers == 2) {
      return GroupQuantizer<Bits, Scale>::decode(code, number[0], number[stride]);
    } else {
      return static_cast<float>(static_cast<int>(code) - Offset) * static_cast<float>(number[0]);
    }
  }
};
/// Codes that stand for one of 16 integers times scale.
template <class ScaleType>
struct IntegerLevels {
  using Scale = ScaleType;
  using exact_type = half;
  using Table = std::array<std::int8_t, 16>;
  static constexpr int bits = 4;
  static constexpr int product_bits = 8;
  static constexpr std::size_t numbers = 1;
  static constexpr bool looks_up = true;
  static constexpr bool affine = false;

  static constexpr float step() noexcept { return 1.0F; }
  static constexpr float start() noexcept { return -128.0F; }

 protected:
  static constexpr std::array<std::uint8_t, 16> bytes_of(const Table& levels) noexcept {
    std::array<std::uint8_t, 16> bytes{};
    for (std::size_t i = 0; i < 16; ++i) { bytes[i] = static_cast<std::uint8_t>(levels[i] + 128); }
    return bytes;
  }
};

}  // namespace kvcompress
