// examples/compare_policies/block_types.hpp - the types that llama.cpp offers for its KV cache, as what they do to 32 numbers.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

#include "compare_policies/recording.hpp"
#include "kvcompress/core/half.hpp"

namespace comparison {

/// A type of ggml for blocks of 32 numbers: a scale in f16, a minimum too or none, a code of some bits each.
struct BlockType {
  std::string_view name;
  int bits = 8;
  bool has_minimum = false;
  std::size_t turned = 0;  // numbers that a Hadamard matrix turns before they are rounded, and back afterwards; 0: none
  [[nodiscard]] double bits_per_value() const { return bits + (has_minimum ? 1.0 : 0.5); }
};

/// Those of llama.cpp's --cache-type-k and --cache-type-v that round to codes of even steps.
inline constexpr std::array<BlockType, 5> block_types{
    {{"q8_0", 8, false, 0}, {"q5_1", 5, true, 0}, {"q5_0", 5, false, 0}, {"q4_1", 4, true, 0}, {"q4_0", 4, false, 0}}};

inline float as_half(float x) { return static_cast<float>(kvcompress::half(x)); }

/// Rounds a block as ggml's reference code does: q8_0 by the largest magnitude, q4_0 and q5_0 so that the number of largest magnitude is the
/// lowest code, q4_1 and q5_1 from the least number to the largest.
inline void round_block(const BlockType& type, std::span<float> block) {
  const auto [least, most] = std::minmax_element(block.begin(), block.end());
  const float low = *least;
  const float high = *most;
  const float outermost = std::abs(low) > std::abs(high) ? low : high;
  const float codes = std::ldexp(1.0F, type.bits);
  const float lowest = type.bits == 8 ? -127.0F : type.has_minimum ? 0.0F : -codes / 2.0F;
  const float highest = type.bits == 8 ? 127.0F : lowest + codes - 1.0F;
  const float step = type.has_minimum ? (high - low) / (codes - 1.0F) : type.bits == 8 ? std::abs(outermost) / 127.0F : outermost / lowest;
  const float offset = type.has_minimum ? low : 0.0F;
  for (float& x : block) {
    const float code = step == 0.0F ? 0.0F : std::clamp(std::round((x - offset) / step), lowest, highest);
    x = code * as_half(step) + as_half(offset);
  }
}

/// How many numbers of a head one Hadamard matrix turns: the largest power of two that divides it.
inline std::size_t turned_width(std::size_t head_dim) { return head_dim & (~head_dim + 1); }

/// Turns each `width` numbers, a power of two, by the Hadamard matrix that is its own inverse.
inline void turn(std::span<float> numbers, std::size_t width) {
  const float scale = 1.0F / std::sqrt(static_cast<float>(width));
  for (std::size_t from = 0; from + width <= numbers.size(); from += width) {
    for (std::size_t half = 1; half < width; half *= 2) {
      for (std::size_t i = from; i < from + width; ++i) {
        if (((i - from) & half) != 0) { continue; }
        const float a = numbers[i];
        const float b = numbers[i + half];
        numbers[i] = a + b;
        numbers[i + half] = a - b;
      }
    }
    for (std::size_t i = from; i < from + width; ++i) { numbers[i] *= scale; }
  }
}

inline void round_rows(const BlockType& type, std::span<float> numbers) {
  if (type.turned != 0) {
    BlockType plain = type;
    plain.turned = 0;
    turn(numbers, type.turned);
    round_rows(plain, numbers);
    turn(numbers, type.turned);
    return;
  }
  for (std::size_t i = 0; i + 32 <= numbers.size(); i += 32) { round_block(type, numbers.subspan(i, 32)); }
}

/// A prompt's rows as llama.cpp would hold them.
inline std::vector<LayerRows> rounded(const BlockType& type, std::vector<LayerRows> layers) {
  for (LayerRows& layer : layers) {
    round_rows(type, layer.keys);
    round_rows(type, layer.values);
  }
  return layers;
}

}  // namespace comparison
