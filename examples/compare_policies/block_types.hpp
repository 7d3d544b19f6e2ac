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
  [[nodiscard]] double bits_per_value() const { return bits + (has_minimum ? 1.0 : 0.5); }
};

/// Those of llama.cpp's --cache-type-k and --cache-type-v that round to codes of even steps.
inline constexpr std::array<BlockType, 5> block_types{
    {{"q8_0", 8, false}, {"q5_1", 5, true}, {"q5_0", 5, false}, {"q4_1", 4, true}, {"q4_0", 4, false}}};

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

inline void round_rows(const BlockType& type, std::span<float> numbers) {
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
