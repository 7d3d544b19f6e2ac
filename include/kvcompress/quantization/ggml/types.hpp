// include/kvcompress/quantization/ggml/types.hpp - ggml's block types as codes of per-token codecs: how a block of numbers is encoded.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "kvcompress/quantization/token_code.hpp"

/// Codes, scales and decoded numbers of llama.cpp's reference encoders (ggml-org/llama.cpp, version 0.4.0: quantize_row_*_ref), and of q6_0 and q8_KV of
/// ikawrakow/ik_llama.cpp@8337e4cd3861, as codes of PerTokenKeys and PerTokenValues (see token_code.hpp), with a group of `group` channels. How the bytes of
/// a block lie is said by blocks.hpp. Deviations: scales of mxfp4 and nvfp4 are held in 16 bits where a block has 8; numbers whose scale half cannot
/// hold, as of a block with a number above 8 * 65504 in q4_0, are cut (there they become infinite).
namespace kvcompress::inline KVCOMPRESS_ABI::ggml {

namespace detail {

/// The number of the largest magnitude, the first of equal ones.
inline float largest_of(const float* x, std::size_t count) noexcept {
  float largest = 0.0F;
  for (std::size_t i = 0; i < count; ++i) { largest = std::abs(x[i]) > std::abs(largest) ? x[i] : largest; }
  return largest;
}
inline float inverse(float x) noexcept { return x != 0.0F ? 1.0F / x : 0.0F; }
template <class Scale>
Scale held(float x) noexcept {
  return Scale(std::clamp(x, -largest<Scale>, largest<Scale>));
}

/// E2M1 numbers, doubled: the nearest to x / scale, the lower index of two that are as near.
inline constexpr std::array<std::int8_t, 16> doubled_fp4{0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
inline std::uint8_t nearest_fp4(float x, float scale) noexcept {
  std::uint8_t best = 0;
  float least = std::abs(x);
  for (std::uint8_t i = 1; i < 16; ++i) {
    const float error = std::abs(static_cast<float>(doubled_fp4[i]) * scale - x);
    if (error < least) {
      least = error;
      best = i;
    }
  }
  return best;
}

}  // namespace detail

/// q4_0, q5_0: scale = the largest number / -2^(Bits - 1).
template <int Bits>
struct FromLargest : IntegerCode<Bits, 1 << (Bits - 1), 1, half> {
  static constexpr std::string_view name = Bits == 4 ? "q4_0" : "q5_0";
  static constexpr bool signed_scales = true;
  static constexpr std::size_t group = 32;
  explicit FromLargest(const auto& /*options*/) noexcept {}
  static void encode(const float* x, std::size_t count, half* number, std::size_t /*stride*/, std::uint8_t* codes) noexcept {
    constexpr int offset = 1 << (Bits - 1);
    const float scale = detail::largest_of(x, count) / static_cast<float>(-offset);
    const float inverted = detail::inverse(scale);
    for (std::size_t i = 0; i < count; ++i) {
      const int code = static_cast<int>(x[i] * inverted + (static_cast<float>(offset) + 0.5F));
      codes[i] = static_cast<std::uint8_t>(std::min(code, 2 * offset - 1));
    }
    number[0] = detail::held<half>(scale);
  }
};
/// q4_1, q5_1: from the smallest number to the largest.
template <int Bits>
struct FromRange : IntegerCode<Bits, 0, 2, half> {
  static constexpr std::string_view name = Bits == 4 ? "q4_1" : "q5_1";
  static constexpr std::size_t group = 32;
  explicit FromRange(const auto& /*options*/) noexcept {}
  static void encode(const float* x, std::size_t count, half* number, std::size_t stride, std::uint8_t* codes) noexcept {
    const auto [low, high] = std::minmax_element(x, x + count);
    constexpr int top = (1 << Bits) - 1;
    const float scale = (*high - *low) / static_cast<float>(top);
    const float inverted = detail::inverse(scale);
    for (std::size_t i = 0; i < count; ++i) {
      codes[i] = static_cast<std::uint8_t>(std::min(static_cast<int>((x[i] - *low) * inverted + 0.5F), top));
    }
    number[0] = detail::held<half>(scale);
    number[stride] = detail::held<half>(*low);
  }
};
using Q4_0 = FromLargest<4>;
using Q5_0 = FromLargest<5>;
using Q4_1 = FromRange<4>;
using Q5_1 = FromRange<5>;
/// 8 bits, scale = the largest magnitude / 127.
struct Q8_0 : IntegerCode<8, 128, 1, half> {
  static constexpr std::string_view name = "q8_0";
  static constexpr std::size_t group = 32;
  explicit Q8_0(const auto& /*options*/) noexcept {}
  static void encode(const float* x, std::size_t count, half* number, std::size_t /*stride*/, std::uint8_t* codes) noexcept {
    const float scale = std::abs(detail::largest_of(x, count)) / 127.0F;
    const float inverted = detail::inverse(scale);
    for (std::size_t i = 0; i < count; ++i) { codes[i] = static_cast<std::uint8_t>(128 + static_cast<int>(std::round(x[i] * inverted))); }
    number[0] = detail::held<half>(scale);
  }
};
/// 8 bits, one scale for the whole row, halves to even.
struct Q8_KV : IntegerCode<8, 128, 1, float> {
  static constexpr std::string_view name = "q8_KV";
  static constexpr std::size_t group = 0;
  explicit Q8_KV(const auto& /*options*/) noexcept {}
  static void encode(const float* x, std::size_t count, float* number, std::size_t /*stride*/, std::uint8_t* codes) noexcept {
    number[0] = std::abs(detail::largest_of(x, count)) / 127.0F;
    const float inverted = detail::inverse(number[0]);
    for (std::size_t i = 0; i < count; ++i) {
      codes[i] = static_cast<std::uint8_t>(128 + static_cast<int>(math::round_half_even(x[i] * inverted)));
    }
  }
};
/// 6 bits by scale = the largest number / -32, which is then fitted once more by least squares, weighted by the numbers' squares.
struct Q6_0 : IntegerCode<6, 32, 1, half> {
  static constexpr std::string_view name = "q6_0";
  static constexpr bool signed_scales = true;
  static constexpr std::size_t group = 32;
  explicit Q6_0(const auto& /*options*/) noexcept {}
  static void encode(const float* x, std::size_t count, half* number, std::size_t /*stride*/, std::uint8_t* codes) noexcept {
    const float scale = detail::largest_of(x, count) / -32.0F;
    const float inverted = detail::inverse(scale);
    float product = 0.0F;
    float squares = 0.0F;
    for (std::size_t i = 0; i < count; ++i) {
      const float place = x[i] * inverted;
      codes[i] = static_cast<std::uint8_t>(std::min(static_cast<int>(place + 32.5F), largest_code));
      const auto level = static_cast<float>(static_cast<int>(codes[i]) - 32);
      const float weight = place * place;
      product += weight * x[i] * level;
      squares += weight * level * level;
    }
    number[0] = detail::held<half>(squares > 0.0F ? product / squares : scale);
  }
};
/// 16 levels of a normal distribution, by scale = the largest number / the lowest level, which is then fitted like q6_0's: what from_float makes, and so
/// what a cache holds (the encoder of weights tries 15 scales).
struct Iq4Nl : IntegerLevels<half> {
  static constexpr std::string_view name = "iq4_nl";
  static constexpr bool signed_scales = true;
  static constexpr std::size_t group = 32;
  static constexpr Table levels{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
  static constexpr std::array<std::uint8_t, 16> bytes = bytes_of(levels);
  explicit Iq4Nl(const auto& /*options*/) noexcept {}
  static const std::uint8_t* table() noexcept { return bytes.data(); }
  static void encode(const float* x, std::size_t count, half* number, std::size_t /*stride*/, std::uint8_t* codes) noexcept {
    const float top = detail::largest_of(x, count);
    std::fill_n(codes, count, std::uint8_t{0});
    number[0] = half(0.0F);
    if (std::abs(top) < 1e-15F) { return; }
    const float inverted = 1.0F / (top / static_cast<float>(levels[0]));
    float product = 0.0F;
    float squares = 0.0F;
    for (std::size_t i = 0; i < count; ++i) {
      codes[i] = nearest(x[i] * inverted);
      const auto level = static_cast<float>(levels[codes[i]]);
      const float weight = x[i] * x[i];
      product += weight * level * x[i];
      squares += weight * level * level;
    }
    number[0] = detail::held<half>(product / squares);
  }
  [[nodiscard]] static float decode(std::uint8_t code, const half* number, std::size_t /*stride*/) noexcept {
    return static_cast<float>(levels[code]) * static_cast<float>(number[0]);
  }

 private:
  /// The nearest level, the upper one of two that are as near.
  static std::uint8_t nearest(float x) noexcept {
    std::size_t above = 1;
    while (above < 15 && x >= static_cast<float>(levels[above])) { ++above; }
    const bool lower = x - static_cast<float>(levels[above - 1]) < static_cast<float>(levels[above]) - x;
    return static_cast<std::uint8_t>(lower ? above - 1 : above);
  }
};
/// FP4 numbers (E2M1) by a power of two, that of the largest magnitude / 4; the scale here is half of it, since levels are doubled.
struct Mxfp4 : IntegerLevels<bfloat16> {
  static constexpr std::string_view name = "mxfp4";
  static constexpr std::size_t group = 32;
  static constexpr std::array<std::uint8_t, 16> bytes = bytes_of(detail::doubled_fp4);
  explicit Mxfp4(const auto& /*options*/) noexcept {}
  static const std::uint8_t* table() noexcept { return bytes.data(); }
  static void encode(const float* x, std::size_t count, bfloat16* number, std::size_t /*stride*/, std::uint8_t* codes) noexcept {
    const float top = std::abs(detail::largest_of(x, count));
    const int exponent = top > 0.0F ? static_cast<int>(std::bit_cast<std::uint32_t>(top) >> 23U) - 2 : 0;  // E8M0
    const float scale = scale_of(static_cast<std::uint8_t>(std::max(exponent, 0)));
    for (std::size_t i = 0; i < count; ++i) { codes[i] = detail::nearest_fp4(x[i], scale); }
    number[0] = bfloat16(scale);
  }
  [[nodiscard]] static float decode(std::uint8_t code, const bfloat16* number, std::size_t /*stride*/) noexcept {
    return static_cast<float>(detail::doubled_fp4[code]) * static_cast<float>(number[0]);
  }
  /// 2^(exponent - 128), and back.
  static float scale_of(std::uint8_t exponent) noexcept {
    return std::bit_cast<float>(exponent < 2 ? 0x00200000U << exponent : static_cast<std::uint32_t>(exponent - 1) << 23U);
  }
  static std::uint8_t exponent_of(float scale) noexcept {
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(scale);
    return static_cast<std::uint8_t>(bits < 0x00800000U ? (bits > 0x00200000U ? 1U : 0U) : (bits >> 23U) + 1U);
  }
};
/// FP4 numbers by the largest magnitude / 6 of 16, rounded to three bits of mantissa (UE4M3, up to 448); the scale here is half of it. ggml's type has no
/// scale of the whole tensor beside these, so that numbers below 0.006 become 0.
struct Nvfp4 : IntegerLevels<half> {
  static constexpr std::string_view name = "nvfp4";
  static constexpr std::size_t group = 16;
  static constexpr std::array<std::uint8_t, 16> bytes = bytes_of(detail::doubled_fp4);
  explicit Nvfp4(const auto& /*options*/) noexcept {}
  static const std::uint8_t* table() noexcept { return bytes.data(); }
  static void encode(const float* x, std::size_t count, half* number, std::size_t /*stride*/, std::uint8_t* codes) noexcept {
    const float scale = scale_of(byte_of(std::abs(detail::largest_of(x, count)) / 6.0F));
    for (std::size_t i = 0; i < count; ++i) { codes[i] = detail::nearest_fp4(x[i], scale); }
    number[0] = half(scale);
  }
  [[nodiscard]] static float decode(std::uint8_t code, const half* number, std::size_t /*stride*/) noexcept {
    return static_cast<float>(detail::doubled_fp4[code]) * static_cast<float>(number[0]);
  }
  /// Half of what a byte of four bits of exponent and three of mantissa stands for; the byte next to a number, halves up.
  static float scale_of(std::uint8_t byte) noexcept {
    const int exponent = byte >> 3;
    const int mantissa = byte & 7;
    return exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -10) : std::ldexp(static_cast<float>(8 + mantissa), exponent - 11);
  }
  static std::uint8_t byte_of(float x) noexcept {
    if (!(x > 0.0F)) { return 0; }
    if (x < 0.015625F) { return static_cast<std::uint8_t>(std::min(static_cast<int>(x * 512.0F + 0.5F), 7)); }
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(std::min(x, 448.0F)) + 0x00080000U;  // half of the last bit
    return static_cast<std::uint8_t>(std::min((bits >> 20U) - (120U << 3U), 0x7EU));
  }
};

}  // namespace kvcompress::ggml
