// include/kvcompress/quantization/fitted_codes.hpp - other ways to fit codes to the numbers of a token: integer zero points, clipping, centred levels.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "kvcompress/quantization/token_code.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Symmetric: scale = the largest magnitude / (2^(Bits-1) - 1), at least 1e-6; nearest codes. vllm-project/vllm@027e07f2fab2's INT8 per token and head, but
/// for its cut instead of rounded codes, which lose up to a step. Loses: half a step. Bits per number: Bits + 8 * sizeof(Scale) / group.
template <int Bits, class ScaleType>
struct SymmetricCode : IntegerCode<Bits, 1 << (Bits - 1), 1, ScaleType> {
  static constexpr std::string_view name = "symmetric codes per token";
  explicit SymmetricCode(const auto& /*options*/) noexcept {}
  static void encode(const float* x, std::size_t count, ScaleType* number, std::size_t /*stride*/, std::uint8_t* codes) noexcept {
    constexpr int offset = 1 << (Bits - 1);
    constexpr auto top = static_cast<float>(offset - 1);
    float largest_number = 0.0F;
    for (std::size_t i = 0; i < count; ++i) { largest_number = std::max(largest_number, std::abs(x[i])); }
    number[0] = ScaleType(std::min(std::max(largest_number / top, 1e-6F), largest<ScaleType>));
    const float inverted = 1.0F / std::max(static_cast<float>(number[0]), 1e-6F);
    for (std::size_t i = 0; i < count; ++i) {
      const float place = std::clamp(x[i] * inverted, -top, top);
      codes[i] = static_cast<std::uint8_t>(offset + static_cast<int>(place + std::copysign(0.5F, place)));
    }
  }
};

/// From the smallest to the largest number, both times `clip`, with an integer zero point, so that 0 stays 0: code = round(x / scale) + round(-low / scale),
/// cut to 0 and 2^Bits - 1. RotateKV's and OScaR's form (ZunhaiSu/RotateKV@3055e2b6a45d fake_quant, ZunhaiSu/OScaR-KV-Quant@d2109f573da8). A run without
/// spread, where the official codes divide by 0, is exact. Loses: up to a step where the zero point is rounded; with clip, what lies beyond.
template <int Bits, class ScaleType>
struct ZeroPointCode : IntegerCode<Bits, 0, 2, ScaleType> {
  static constexpr std::string_view name = "codes with a zero point per token";
  float clip = 1.0F;

  explicit ZeroPointCode(const auto& options) noexcept {
    if constexpr (requires { options.clip; }) { clip = static_cast<float>(options.clip); }
  }
  void encode(const float* x, std::size_t count, ScaleType* number, std::size_t stride, std::uint8_t* codes) const noexcept {
    constexpr int top = (1 << Bits) - 1;
    const auto [lowest, highest] = std::minmax_element(x, x + count);
    const float low = *lowest * clip;
    const float scale = (*highest * clip - low) / static_cast<float>(top);
    if (!(scale > 0.0F)) {
      number[0] = ScaleType(0.0F);
      number[stride] = ScaleType(*lowest);
      std::fill_n(codes, count, std::uint8_t{0});
      return;
    }
    const float zero = math::round_half_even(-low / scale);
    for (std::size_t i = 0; i < count; ++i) {
      const float code = math::round_half_even(x[i] / scale) + zero;
      codes[i] = static_cast<std::uint8_t>(std::clamp(code, 0.0F, static_cast<float>(top)));
    }
    number[0] = ScaleType(scale);
    number[stride] = ScaleType(-zero * scale);
  }
};

/// The same in 4 bits as vllm-project/vllm@055e47c28003 has them (int4_per_token_head.py): the zero point cut to 0..15, halves away from 0, scales at
/// least 1e-6 and without the last 4 bits of their mantissas, where the official rows keep the zero point; here it is the minimum, -zero * scale.
/// Loses more of runs that do not straddle 0, which rows behind signs and a Hadamard matrix do.
struct CutZeroPointCode : IntegerCode<4, 0, 2, float> {
  static constexpr std::string_view name = "codes with a cut zero point per token";
  explicit CutZeroPointCode(const auto& /*options*/) noexcept {}
  static void encode(const float* x, std::size_t count, float* number, std::size_t stride, std::uint8_t* codes) noexcept {
    const auto [lowest, highest] = std::minmax_element(x, x + count);
    const float scale = std::max((*highest - *lowest) / 15.0F, 1e-6F);
    const float zero = std::clamp(std::round(-*lowest / scale), 0.0F, 15.0F);
    for (std::size_t i = 0; i < count; ++i) {
      codes[i] = static_cast<std::uint8_t>(std::clamp(std::round(x[i] / scale) + zero, 0.0F, 15.0F));
    }
    number[0] = std::bit_cast<float>(std::bit_cast<std::uint32_t>(scale) & ~15U);
    number[stride] = -zero * number[0];
  }
};

/// Numbers are first cut at a percentile of their magnitudes: that of place int(clip * count) among them, none where clip is 0; then from the smallest to the largest.
/// FutureMLS-Lab/OSCAR@473ff3f9d29a's INT2 behind its rotations. Loses, beside half a step, what lies beyond: with clip 0.96 four of 100 numbers.
template <int Bits, class ScaleType>
struct ClippedCode : IntegerCode<Bits, 0, 2, ScaleType> {
  static constexpr std::string_view name = "clipped codes per token";
  float clip = 0.0F;

  explicit ClippedCode(float share) noexcept : clip(share) {}
  explicit ClippedCode(const auto& options) noexcept : clip(static_cast<float>(options.clip)) {}
  void encode(const float* x, std::size_t count, ScaleType* number, std::size_t stride, std::uint8_t* codes) const noexcept {
    float cut[most_token_width];
    for (std::size_t i = 0; i < count; ++i) { cut[i] = std::abs(x[i]); }
    const std::size_t place = std::min(static_cast<std::size_t>(clip * static_cast<float>(count)), count - 1);
    std::nth_element(cut, cut + place, cut + count);
    const float threshold = clip > 0.0F ? cut[place] : largest<float>;
    for (std::size_t i = 0; i < count; ++i) { cut[i] = std::clamp(x[i], -threshold, threshold); }
    const auto fitted = quantization::fit_run<Bits, ScaleType>(cut, count);
    number[0] = fitted.scale;
    number[stride] = fitted.minimum;
    quantization::encode_run<Bits>(cut, count, fitted.scale, fitted.minimum, codes);
  }
};

/// Levels of a normal distribution (see LevelCode) times the numbers' deviation, plus their mean: for numbers whose mean is not 0. OSCAR's Lloyd codes at
/// 2 bits, decoded by the levels that belong to its boundaries (the official decoder's are uniform and 16 % too wide). Loses: of normal numbers 0.117 of
/// their variance at 2 bits, 0.0095 at 4. Bits per number: Bits + 16 * sizeof(Scale) / group.
template <int Bits, class ScaleType>
struct CentredLevelCode {
  using Scale = ScaleType;
  using exact_type = Scale;
  static constexpr std::string_view name = "centred levels per token";
  static constexpr int bits = Bits;
  static constexpr int product_bits = 8;
  static constexpr std::size_t numbers = 2;
  static constexpr bool looks_up = true;
  static constexpr bool affine = false;
  static constexpr bool signed_scales = false;

  const LevelTable<Bits>* levels = &lloyd_max_levels<Bits>;

  explicit CentredLevelCode(const auto& options) noexcept {
    if constexpr (requires { options.levels; }) { levels = options.levels; }
  }
  [[nodiscard]] float step() const noexcept { return levels->step; }
  [[nodiscard]] float start() const noexcept { return -127.5F * levels->step; }
  [[nodiscard]] const std::uint8_t* table() const noexcept { return levels->bytes.data(); }

  void encode(const float* x, std::size_t count, Scale* number, std::size_t stride, std::uint8_t* codes) const noexcept {
    const auto size = static_cast<float>(count);
    float sum = 0.0F;
    for (std::size_t i = 0; i < count; ++i) { sum += x[i]; }
    const float mean = sum / size;
    float squares = 0.0F;
    for (std::size_t i = 0; i < count; ++i) { squares += (x[i] - mean) * (x[i] - mean); }
    const float deviation = math::sqrt(squares / size);
    for (std::size_t i = 0; i < count; ++i) {
      codes[i] = 0;
      for (const float boundary : levels->boundaries) {
        codes[i] = static_cast<std::uint8_t>(codes[i] + (x[i] - mean > boundary * deviation ? 1 : 0));
      }
    }
    number[0] = Scale(std::min(deviation, largest<Scale>));
    number[stride] = Scale(std::clamp(mean, -largest<Scale>, largest<Scale>));
  }
  [[nodiscard]] float decode(std::uint8_t code, const Scale* number, std::size_t stride) const noexcept {
    return levels->level(code) * static_cast<float>(number[0]) + static_cast<float>(number[stride]);
  }
};

/// Block floating point: a sign and `Mantissa` bits, by the power of two of the largest magnitude of a group ("Accurate Block Quantization in LLMs with
/// Outliers", whose code is not public). Numbers in the upper half of the last step are cut to the largest code, which loses up to a step of them.
/// Bits per number: Mantissa + 1 + 16 / group (8 would do for the exponent).
template <int Mantissa>
struct BlockFloatCode : IntegerCode<Mantissa + 1, 1 << Mantissa, 1, bfloat16> {
  static constexpr std::string_view name = "block floats per token";
  explicit BlockFloatCode(const auto& /*options*/) noexcept {}
  static void encode(const float* x, std::size_t count, bfloat16* number, std::size_t /*stride*/, std::uint8_t* codes) noexcept {
    constexpr int offset = 1 << Mantissa;
    float top = 0.0F;
    for (std::size_t i = 0; i < count; ++i) { top = std::max(top, std::abs(x[i])); }
    const int exponent = std::max(top > 0.0F ? std::ilogb(top) : -100, -100);
    const float step = std::ldexp(1.0F, exponent - Mantissa + 1);
    for (std::size_t i = 0; i < count; ++i) {
      const auto code = static_cast<int>(math::round_half_even(x[i] / step));
      codes[i] = static_cast<std::uint8_t>(offset + std::clamp(code, 1 - offset, offset - 1));
    }
    number[0] = bfloat16(step);
  }
};

}  // namespace kvcompress
