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
/// numbers that Scale can hold has scale 0 and codes 0. |x - decoded| <= scale/2 of the stored scale, whatever the size of the numbers.
///
/// Source: KIVI, jy-yuan/KIVI@876b4d2d08e3:quant/new_pack.py (clamp before rounding, real-valued minimum). There both are rounded to nearest.
/// That leaves numbers more than half a step out of reach where the spread is tiny, or small beside the numbers (in half, below 1e-6, or below
/// 2^-10 of them): then the scale is rounded up, and the minimum down where
/// that leaves the smaller scale; no such scale is 0.
template <int Bits, class Scale>
struct GroupQuantizer {
  static_assert(Bits >= 1 && Bits <= 8, "a code has 1 to 8 bits");
  static constexpr int largest_code = (1 << Bits) - 1;

  Scale scale{};
  Scale minimum{};

  GroupQuantizer() = default;
  /// Fits the group x[0], x[stride], ..., `count` numbers.
  GroupQuantizer(const float* x, std::size_t count, std::size_t stride) noexcept {
    float low = x[0];
    float high = x[0];
    for (std::size_t i = 1; i < count; ++i) {
      low = std::min(low, x[i * stride]);
      high = std::max(high, x[i * stride]);
    }
    fit(low, high);
  }
  /// Of a group whose smallest and largest number are known.
  GroupQuantizer(float low, float high) noexcept { fit(low, high); }

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

 private:
  void fit(float low, float high) noexcept {
    scale = Scale(std::min((high - low) / top, largest<Scale>));
    minimum = nearest(low);
    const auto step = static_cast<float>(scale);
    const auto start = static_cast<float>(minimum);
    if (!(start - low > 0.5F * step || high - start > (top + 0.5F) * step)) { return; }
    const float beyond = std::max(0.0F, (high - low) - top * largest<Scale>);  // one bit: both ends as far away
    const Scale below = at_most<Scale>(std::clamp(low + 0.5F * beyond, -largest<Scale>, largest<Scale>));
    const Scale from_nearest = wide_enough(std::max(2.0F * (start - low), (high - start) / top));
    const Scale from_below = wide_enough((high - static_cast<float>(below)) / top);
    const bool stays = beyond == 0.0F && static_cast<float>(from_nearest) <= static_cast<float>(from_below);
    minimum = stays ? minimum : below;
    scale = stays ? from_nearest : from_below;
  }
  static Scale nearest(float x) noexcept { return Scale(std::clamp(x, -largest<Scale>, largest<Scale>)); }
  static Scale wide_enough(float step) noexcept {
    return at_least<Scale>(std::clamp(step, static_cast<float>(smallest<Scale>()), largest<Scale>));
  }

  static constexpr auto top = static_cast<float>(largest_code);
};

}  // namespace kvcompress
