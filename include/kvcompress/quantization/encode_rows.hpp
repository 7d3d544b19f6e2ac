// include/kvcompress/quantization/encode_rows.hpp - GroupQuantizer's codes for many numbers at a time: channels of keys, tokens of values.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

#include "kvcompress/quantization/group_quantizer.hpp"
#include "kvcompress/simd/native.hpp"

/// The same scales, minima and codes as GroupQuantizer, bit for bit: its order of operations, with a true division. Tried: multiplying by the
/// reciprocal of the scale moves codes that lie near a half.
namespace kvcompress::quantization {

namespace detail {

/// What encode divides by: a group without spread has code 0, whatever the number.
inline simd::native::f32 divisor(const float* scales, std::size_t count) noexcept {
  float safe[simd::native::lanes];
  for (std::size_t i = 0; i < simd::native::lanes; ++i) {
    safe[i] = i < count && scales[i] != 0.0F ? scales[i] : std::numeric_limits<float>::infinity();
  }
  return simd::native::load(safe);
}
template <int Bits>
inline simd::native::i32 encode(simd::native::f32 x, simd::native::f32 minimum, simd::native::f32 step) noexcept {
  namespace vec = simd::native;
  const vec::f32 code = vec::div(vec::sub(x, minimum), step);
  return vec::round(vec::min(vec::max(code, vec::set(0.0F)), vec::set(static_cast<float>((1 << Bits) - 1))));
}

}  // namespace detail

/// Fits every channel of x (rows, dim) over its rows: scales[c], minima[c].
template <int Bits, class Scale>
inline void fit_channels(const float* x, std::size_t rows, std::size_t dim, Scale* scales, Scale* minima) noexcept {
  namespace vec = simd::native;
  std::size_t c = 0;
  for (; c + vec::lanes <= dim; c += vec::lanes) {
    vec::f32 low = vec::load(x + c);
    vec::f32 high = low;
    for (std::size_t t = 1; t < rows; ++t) {
      const vec::f32 number = vec::load(x + t * dim + c);
      low = vec::min(low, number);
      high = vec::max(high, number);
    }
    const vec::f32 range = vec::div(vec::sub(high, low), vec::set(static_cast<float>((1 << Bits) - 1)));
    vec::store(scales + c, vec::min(range, vec::set(largest<Scale>)));
    vec::store(minima + c, low);
  }
  for (; c < dim; ++c) {
    const GroupQuantizer<Bits, Scale> quantizer(x + c, rows, dim);
    scales[c] = quantizer.scale;
    minima[c] = quantizer.minimum;
  }
}
/// codes[t * stride + c] of `rows` rows of `dim` channels, x_stride apart, by the channels' scales and minima; written up to a multiple of
/// four vectors.
template <int Bits, class Scale>
inline void encode_channels(const float* x, std::size_t rows, std::size_t dim, std::size_t x_stride, const Scale* scales, const Scale* minima,
                            std::uint8_t* codes, std::size_t stride) noexcept {
  namespace vec = simd::native;
  for (std::size_t first = 0; first < dim; first += 4 * vec::lanes) {
    vec::f32 minimum[4];
    vec::f32 step[4];
    std::size_t left[4];
#pragma GCC unroll 4
    for (std::size_t v = 0; v < 4; ++v) {
      const std::size_t c = first + v * vec::lanes;
      left[v] = c < dim ? (dim - c < vec::lanes ? dim - c : vec::lanes) : 0;
      float wide[vec::lanes];
      vec::store(wide, vec::load_first(scales + c, left[v]));
      step[v] = detail::divisor(wide, left[v]);
      minimum[v] = vec::load_first(minima + c, left[v]);
    }
    for (std::size_t t = 0; t < rows; ++t) {
      const float* row = x + t * x_stride + first;
      vec::i32 code[4];
#pragma GCC unroll 4
      for (std::size_t v = 0; v < 4; ++v) {
        const vec::f32 number = left[v] == vec::lanes ? vec::load(row + v * vec::lanes) : vec::load_first(row + v * vec::lanes, left[v]);
        code[v] = detail::encode<Bits>(number, minimum[v], step[v]);
      }
      vec::store_bytes(codes + t * stride + first, code[0], code[1], code[2], code[3]);
    }
  }
}

/// Fits `count` numbers that stand side by side.
template <int Bits, class Scale>
inline GroupQuantizer<Bits, Scale> fit_run(const float* x, std::size_t count) noexcept {
  namespace vec = simd::native;
  if (count < vec::lanes) { return {x, count, 1}; }
  vec::f32 low = vec::load(x);
  vec::f32 high = low;
  for (std::size_t i = vec::lanes; i < count; i += vec::lanes) {
    const vec::f32 number = vec::load(x + (i + vec::lanes <= count ? i : count - vec::lanes));  // some twice: no matter
    low = vec::min(low, number);
    high = vec::max(high, number);
  }
  return {vec::reduce_min(low), vec::reduce_max(high)};
}
/// codes[i] of `count` numbers of one group; codes is written up to a multiple of four vectors.
template <int Bits, class Scale>
inline void encode_run(const float* x, std::size_t count, const GroupQuantizer<Bits, Scale>& quantizer, std::uint8_t* codes) noexcept {
  namespace vec = simd::native;
  const auto scale = static_cast<float>(quantizer.scale);
  const vec::f32 step = vec::set(scale != 0.0F ? scale : std::numeric_limits<float>::infinity());
  const vec::f32 minimum = vec::set(static_cast<float>(quantizer.minimum));
  for (std::size_t i = 0; i < count; i += 4 * vec::lanes) {
    vec::i32 code[4];
#pragma GCC unroll 4
    for (std::size_t v = 0; v < 4; ++v) {
      const std::size_t at = i + v * vec::lanes;
      const std::size_t left = at < count ? (count - at < vec::lanes ? count - at : vec::lanes) : 0;
      code[v] = left == 0 ? vec::set(std::int32_t{0}) : detail::encode<Bits>(left == vec::lanes ? vec::load(x + at) : vec::load_first(x + at, left), minimum, step);
    }
    vec::store_bytes(codes + i, code[0], code[1], code[2], code[3]);
  }
}

}  // namespace kvcompress::quantization
