// include/kvcompress/quantization/encode_rows.hpp - GroupQuantizer's codes for many numbers at a time: channels of keys, tokens of values.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "kvcompress/kernels/strip.hpp"
#include "kvcompress/quantization/group_quantizer.hpp"
#include "kvcompress/simd/native.hpp"

/// The same scales, minima and codes as GroupQuantizer, bit for bit: its order of operations, with a true division. Tried: multiplying by the
/// reciprocal of the scale moves codes that lie near a half.
namespace kvcompress::inline KVCOMPRESS_ABI::quantization {

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

/// Scales and minima of groups whose smallest and largest numbers are known.
template <int Bits, class Scale>
inline void store_fit(simd::native::f32 low, simd::native::f32 high, Scale* scales, Scale* minima) noexcept {
  namespace vec = simd::native;
  constexpr auto top = static_cast<float>((1 << Bits) - 1);
  const vec::f32 bound = vec::set(largest<Scale>);
  vec::store(scales, vec::min(vec::div(vec::sub(high, low), vec::set(top)), bound));
  vec::store(minima, vec::max(vec::min(low, bound), vec::set(-largest<Scale>)));
  // How far numbers lie out of reach: both products are exact, so this agrees with GroupQuantizer.
  const vec::f32 step = vec::load(scales);
  const vec::f32 start = vec::load(minima);
  const vec::f32 below = vec::sub(vec::sub(start, low), vec::mul(step, vec::set(0.5F)));
  const vec::f32 above = vec::sub(vec::sub(high, start), vec::mul(step, vec::set(top + 0.5F)));
  if (vec::reduce_max(vec::max(below, above)) > 0.0F) {
    float lows[vec::lanes];
    float highs[vec::lanes];
    vec::store(lows, low);
    vec::store(highs, high);
    for (std::size_t i = 0; i < vec::lanes; ++i) {
      const GroupQuantizer<Bits, Scale> fitted(lows[i], highs[i]);
      scales[i] = fitted.scale;
      minima[i] = fitted.minimum;
    }
  }
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
    detail::store_fit<Bits>(low, high, scales + c, minima + c);
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
inline void encode_channels(const float* x, std::size_t rows, std::size_t dim, std::size_t x_stride, const Scale* scales,
                            const Scale* minima, std::uint8_t* codes, std::size_t stride) noexcept {
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

/// Smallest and largest of `count` numbers that stand side by side.
struct Extent {
  float low;
  float high;
};
inline Extent extent(const float* x, std::size_t count) noexcept {
  namespace vec = simd::native;
  if (count < vec::lanes) {
    Extent result{x[0], x[0]};
    for (std::size_t i = 1; i < count; ++i) { result = {std::min(result.low, x[i]), std::max(result.high, x[i])}; }
    return result;
  }
  vec::f32 low = vec::load(x);
  vec::f32 high = low;
  for (std::size_t i = vec::lanes; i < count; i += vec::lanes) {
    const vec::f32 number = vec::load(x + (i + vec::lanes <= count ? i : count - vec::lanes));  // some twice: no matter
    low = vec::min(low, number);
    high = vec::max(high, number);
  }
  return {vec::reduce_min(low), vec::reduce_max(high)};
}
/// Fits `count` numbers that stand side by side.
template <int Bits, class Scale>
inline GroupQuantizer<Bits, Scale> fit_run(const float* x, std::size_t count) noexcept {
  const Extent whole = extent(x, count);
  return {whole.low, whole.high};
}
/// The same for `rows` rows, x_stride apart: scales[t], minima[t].
template <int Bits, class Scale>
inline void fit_runs(const float* x, std::size_t rows, std::size_t count, std::size_t x_stride, Scale* scales, Scale* minima) noexcept {
  namespace vec = simd::native;
  std::size_t t = 0;
  for (; t + vec::lanes <= rows; t += vec::lanes) {
    float low[vec::lanes];
    float high[vec::lanes];
    for (std::size_t i = 0; i < vec::lanes; ++i) {
      const Extent whole = extent(x + (t + i) * x_stride, count);
      low[i] = whole.low;
      high[i] = whole.high;
    }
    detail::store_fit<Bits>(vec::load(low), vec::load(high), scales + t, minima + t);
  }
  for (; t < rows; ++t) {
    const auto fitted = fit_run<Bits, Scale>(x + t * x_stride, count);
    scales[t] = fitted.scale;
    minima[t] = fitted.minimum;
  }
}
/// Codes of `count` numbers that stand side by side, by one scale and minimum. Writes whole vectors: up to 4 of codes[count] and behind.
template <int Bits, class Scale>
inline void encode_run(const float* x, std::size_t count, Scale scale, Scale minimum, std::uint8_t* codes) noexcept {
  namespace vec = simd::native;
  const auto step = static_cast<float>(scale);
  const vec::f32 divisor = vec::set(step != 0.0F ? step : std::numeric_limits<float>::infinity());
  const vec::f32 start = vec::set(static_cast<float>(minimum));
  for (std::size_t i = 0; i < count; i += 4 * vec::lanes) {
    vec::i32 code[4];
#pragma GCC unroll 4
    for (std::size_t v = 0; v < 4; ++v) {
      const std::size_t at = i + v * vec::lanes;
      const std::size_t left = at < count ? count - at : 0;
      const vec::f32 number = left >= vec::lanes ? vec::load(x + at) : vec::load_first(x + at, left);
      code[v] = detail::encode<Bits>(number, start, divisor);
    }
    vec::store_bytes(codes + i, code[0], code[1], code[2], code[3]);
  }
}
/// Puts codes of 16 numbers side by side into a strip, for a line's rows at a time: `rows` rows, x_stride apart, each with its own scale and
/// minimum, at the steps from `step` on. Both are multiples of Strip::step_multiple. One row at a time took three times as long.
template <int Bits, class Scale>
inline void encode_steps(const float* x, std::size_t rows, std::size_t x_stride, const Scale* scales, const Scale* minima,
                         std::uint8_t* strip, std::size_t steps, std::size_t step) noexcept {
  namespace vec = simd::native;
  using Strip = kernels::Strip<Bits>;
  constexpr std::size_t at_once = Strip::step_multiple;
  for (std::size_t first = 0; first < rows; first += at_once) {
    float divisors[at_once + vec::lanes];
    float lows[at_once + vec::lanes];
    for (std::size_t t = 0; t < at_once; t += vec::lanes) {
      const std::size_t left = std::min(vec::lanes, at_once - t);
      vec::store(divisors + t, vec::load_first(scales + first + t, left));
      vec::store(divisors + t, detail::divisor(divisors + t, left));
      vec::store(lows + t, vec::load_first(minima + first + t, left));
    }
    for (std::size_t lane = 0; lane < Strip::lanes; lane += vec::lanes) {
      vec::i32 codes[at_once];
#pragma GCC unroll 32
      for (std::size_t t = 0; t < at_once; ++t) {
        codes[t] = detail::encode<Bits>(vec::load(x + (first + t) * x_stride + lane), vec::set(lows[t]), vec::set(divisors[t]));
      }
      Strip::put_words(strip, steps, step + first, lane, codes);
    }
  }
}
/// What numbers of one token are encoded by: the scale and minimum of each channel's group, up to `Channels` channels.
template <std::size_t Channels>
class TokenScales {
 public:
  /// The channels [first, first + count) have that scale and minimum. Channels behind them may change.
  template <class Scale>
  void set(std::size_t first, std::size_t count, Scale step, Scale start) noexcept {
    namespace vec = simd::native;
    const auto scale = static_cast<float>(step);
    const vec::f32 divisor = vec::set(scale != 0.0F ? scale : std::numeric_limits<float>::infinity());
    const vec::f32 minimum = vec::set(static_cast<float>(start));
    for (std::size_t i = 0; i < count; i += vec::lanes) {
      vec::store(divisors_ + first + i, divisor);
      vec::store(minima_ + first + i, minimum);
    }
  }
  /// Puts the codes of x[0, count), the channels from `first` on, into their lanes at one step of a strip; of more than 16 the first 16.
  template <int Bits>
  void encode(const float* x, std::size_t count, std::size_t first, std::uint8_t* strip, std::size_t steps,
              std::size_t step) const noexcept {
    namespace vec = simd::native;
    for (std::size_t lane = 0; lane < std::min(count, kernels::Strip<Bits>::lanes); lane += vec::lanes) {
      const vec::f32 number = count - lane < vec::lanes ? vec::load_first(x + lane, count - lane) : vec::load(x + lane);
      const vec::i32 codes = detail::encode<Bits>(number, vec::load(minima_ + first + lane), vec::load(divisors_ + first + lane));
      kernels::Strip<Bits>::put_step(strip, steps, step, lane, codes);
    }
  }

 private:
  float divisors_[Channels + simd::native::lanes];
  float minima_[Channels + simd::native::lanes];
};

}  // namespace kvcompress::quantization
