// include/kvcompress/quantization/token_code.hpp - how a run of numbers of one token becomes codes: min to max, or the levels of a normal distribution.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "kvcompress/quantization/encode_rows.hpp"
#include "kvcompress/quantization/lloyd_max.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// What per-token codecs of keys and values leave open: `numbers` of type Scale per group, `stride` apart, of which the first is a scale. Products
/// are made of codes of `product_bits` bits, which stand for code * scale + minimum; `looks_up`: those of a strip are levels, which are looked up.

/// Channels of a row that per-token codecs take.
inline constexpr std::size_t most_token_width = 4096;

/// From the smallest to the largest number, in equal steps (see GroupQuantizer).
template <int Bits, class ScaleType>
struct AffineCode {
  using Scale = ScaleType;
  static constexpr std::string_view name = "codes per token";
  static constexpr int bits = Bits;
  static constexpr int product_bits = Bits;
  static constexpr std::size_t numbers = 2;
  static constexpr bool looks_up = false;

  explicit AffineCode(const auto& /*options*/) noexcept {}

  /// Writes up to 4 vectors of codes behind the last, too.
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
  static constexpr std::string_view name = "levels per token";
  static constexpr int bits = Bits;
  static constexpr int product_bits = 8;
  static constexpr std::size_t numbers = 1;
  static constexpr bool looks_up = true;

  const LevelTable<Bits>* table = &lloyd_max_levels<Bits>;

  explicit LevelCode(const auto& options) noexcept {
    if constexpr (requires { options.levels; }) { table = options.levels; }
  }
  void encode(const float* x, std::size_t count, Scale* number, std::size_t /*stride*/, std::uint8_t* codes) const noexcept {
    number[0] = Scale(std::min(quantization::encode_levels<Bits>(x, count, *table, codes), largest<Scale>));
  }
  [[nodiscard]] float decode(std::uint8_t code, const Scale* number, std::size_t /*stride*/) const noexcept {
    return table->level(code) * static_cast<float>(number[0]);
  }
};

}  // namespace kvcompress
