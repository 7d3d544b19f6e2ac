// include/kvcompress/quantization/group_quantizer.hpp - asymmetric min/max quantisation of one group of numbers.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kvcompress/core/half.hpp"
#include "kvcompress/core/math.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// A number x of the group becomes code c = round_half_even(clamp((x - minimum) / scale, 0, 2^Bits - 1)), and stands for
/// c * scale + minimum. Scale and minimum are rounded to `Scale` first, so that codes match what is stored; a group of equal
/// numbers has scale 0 and codes 0. |x - decoded| <= scale/2, plus what rounding to `Scale` adds.
///
/// Source: KIVI, jy-yuan/KIVI@876b4d2d08e3:quant/new_pack.py (clamp before rounding, real-valued minimum).
template <int Bits, class Scale>
struct GroupQuantizer {
  static_assert(Bits >= 1 && Bits <= 8, "a code has 1 to 8 bits");
  static constexpr int largest_code = (1 << Bits) - 1;

  Scale scale{};
  Scale minimum{};

  /// Fits the group x[0], x[stride], ..., `count` numbers.
  GroupQuantizer(const float* x, std::size_t count, std::size_t stride) noexcept {
    float low = x[0];
    float high = x[0];
    for (std::size_t i = 1; i < count; ++i) {
      low = std::min(low, x[i * stride]);
      high = std::max(high, x[i * stride]);
    }
    scale = Scale(std::min((high - low) / static_cast<float>(largest_code), largest<Scale>));
    minimum = Scale(low);
  }

  /// Of a group whose smallest and largest number are known.
  GroupQuantizer(float low, float high) noexcept
      : scale(std::min((high - low) / static_cast<float>(largest_code), largest<Scale>)), minimum(low) {}

  [[nodiscard]] std::uint8_t encode(float x) const noexcept {
    const auto step = static_cast<float>(scale);
    if (step == 0.0F) { return 0; }
    const float code = (x - static_cast<float>(minimum)) / step;
    return static_cast<std::uint8_t>(math::round_half_even(std::clamp(code, 0.0F, static_cast<float>(largest_code))));
  }
  /// Rounded twice, as in the official code: a fused multiply-add would differ in the last bit.
  [[nodiscard]] static float decode(std::uint8_t code, Scale scale, Scale minimum) noexcept {
    float product = static_cast<float>(code) * static_cast<float>(scale);
#if __has_builtin(__builtin_assoc_barrier)  // GCC fuses across statements, Clang does not
    product = __builtin_assoc_barrier(product);
#endif
    return product + static_cast<float>(minimum);
  }
};

}  // namespace kvcompress
