// include/kvcompress/core/half.hpp - the two 16-bit storage types: IEEE half and bfloat16, round to nearest even.
// SPDX-License-Identifier: MIT
#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>

#include "kvcompress/core/abi.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

namespace detail {

constexpr std::uint16_t half_from_float(float value) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 16U) & 0x8000U;
  const std::uint32_t magnitude = bits & 0x7FFF'FFFFU;
  if (magnitude >= 0x7F80'0000U) {  // infinity or NaN (a NaN stays one)
    return static_cast<std::uint16_t>(sign | 0x7C00U | (magnitude > 0x7F80'0000U ? 0x0200U : 0U));
  }
  if (magnitude >= 0x4780'0000U) { return static_cast<std::uint16_t>(sign | 0x7C00U); }  // above the range
  if (magnitude < 0x3880'0000U) {  // subnormal half: adding 0.5 lets the float unit round at the right bit
    const float shifted = std::bit_cast<float>(magnitude) + 0.5F;
    return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(shifted) - 0x3F00'0000U));
  }
  const std::uint32_t odd = (magnitude >> 13U) & 1U;
  return static_cast<std::uint16_t>(sign | ((magnitude - 0x3800'0000U + 0x0FFFU + odd) >> 13U));
}

constexpr float float_from_half(std::uint16_t half) noexcept {
  const std::uint32_t sign = (half & 0x8000U) << 16U;
  const std::uint32_t magnitude = half & 0x7FFFU;
  if (magnitude >= 0x7C00U) { return std::bit_cast<float>(sign | 0x7F80'0000U | ((magnitude & 0x03FFU) << 13U)); }
  if (magnitude < 0x0400U) {  // subnormal half: an integer multiple of 2^-24
    const float value = static_cast<float>(magnitude) * 5.9604644775390625e-8F;
    return sign != 0 ? -value : value;
  }
  return std::bit_cast<float>(sign | ((magnitude << 13U) + 0x3800'0000U));
}

/// The same by the processor, where it can: encoding a token rounds two numbers per group.
constexpr std::uint16_t to_half(float value) noexcept {
#if defined(__F16C__)
  if (!std::is_constant_evaluated()) {
    using Floats [[gnu::vector_size(16)]] = float;
    return static_cast<std::uint16_t>(__builtin_ia32_vcvtps2ph(Floats{value}, 0)[0]);
  }
#endif
  return half_from_float(value);
}
constexpr float to_float(std::uint16_t half) noexcept {
#if defined(__F16C__)
  if (!std::is_constant_evaluated()) {
    using Halves [[gnu::vector_size(16)]] = short;
    return __builtin_ia32_vcvtph2ps(Halves{static_cast<short>(half)})[0];
  }
#endif
  return float_from_half(half);
}

}  // namespace detail

/// IEEE 754 binary16, for storage only: arithmetic happens in float. Largest finite value 65504.
struct half {
  std::uint16_t bits = 0;

  constexpr half() noexcept = default;
  constexpr explicit half(float value) noexcept : bits(detail::to_half(value)) {}
  constexpr explicit operator float() const noexcept { return detail::to_float(bits); }
  friend constexpr bool operator==(half, half) noexcept = default;
};

/// The upper half of a float (8 exponent bits, 7 fraction bits), for storage only.
struct bfloat16 {
  std::uint16_t bits = 0;

  constexpr bfloat16() noexcept = default;
  constexpr explicit bfloat16(float value) noexcept {
    const auto raw = std::bit_cast<std::uint32_t>(value);
    const bool nan = (raw & 0x7FFF'FFFFU) > 0x7F80'0000U;
    bits = static_cast<std::uint16_t>(nan ? (raw >> 16U) | 0x40U : (raw + 0x7FFFU + ((raw >> 16U) & 1U)) >> 16U);
  }
  constexpr explicit operator float() const noexcept { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16U); }
  friend constexpr bool operator==(bfloat16, bfloat16) noexcept = default;
};

/// Largest magnitude that a row held as T may contain.
template <class T>
inline constexpr float largest = 3.3895314e38F;
template <>
inline constexpr float largest<half> = 65504.0F;

/// The smallest T above 0.
template <class T>
constexpr T smallest() noexcept {
  if constexpr (sizeof(T) == 2) {
    T result{};
    result.bits = 1;
    return result;
  } else {
    return std::bit_cast<float>(1U);
  }
}
/// The largest T that is at most x, and the smallest that is at least x, for |x| up to largest<T>.
template <class T>
constexpr T at_most(float x) noexcept {
  T result(x);
  if constexpr (sizeof(T) == 2) {
    if (static_cast<float>(result) > x) {
      const bool negative = (result.bits & 0x8000U) != 0;
      result.bits = static_cast<std::uint16_t>(negative ? result.bits + 1U : result.bits == 0 ? 0x8001U : result.bits - 1U);
    }
  }
  return result;
}
template <class T>
constexpr T at_least(float x) noexcept {
  return T(-static_cast<float>(at_most<T>(-x)));
}

/// What T is called in names of policies and in saved caches.
template <class T>
inline constexpr const char* number_name = "f32";
template <>
inline constexpr const char* number_name<half> = "f16";
template <>
inline constexpr const char* number_name<bfloat16> = "bf16";

}  // namespace kvcompress
