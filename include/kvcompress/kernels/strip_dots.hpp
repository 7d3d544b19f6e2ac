// include/kvcompress/kernels/strip_dots.hpp - products of strips of codes with weights, in the three modes of accumulation.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kvcompress/core/accumulation.hpp"
#include "kvcompress/kernels/strip.hpp"
#include "kvcompress/simd/native.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::kernels {

/// Steps that weights, and all that they are made of, are padded to, with zeros.
inline constexpr std::size_t step_padding = 64;
constexpr std::size_t padded_steps(std::size_t steps) noexcept { return (steps + step_padding - 1) / step_padding * step_padding; }

/// Integer weights: 16 bits for near_exact, 8 for fast.
template <Accumulation Mode>
using Weight = std::conditional_t<Mode == Accumulation::near_exact, std::int16_t, std::int8_t>;
/// The largest of them, such that sums over `steps` steps of the largest codes fit 31 bits. A backend may add up the fields of a byte where they lie,
/// before it shifts them into place: the topmost ones of 4 bits count 15 * 16, and are half of the steps.
template <Accumulation Mode, int Bits>
constexpr float largest_weight(std::size_t steps) noexcept {
  constexpr std::int32_t whole = Mode == Accumulation::near_exact ? 32767 : 127;
  constexpr std::int64_t code = Bits == 8 ? 255 : Bits == 7 ? 127 : Bits >= 4 ? 120 : Bits >= 2 ? 48 : 16;
  const auto most = 0x7FFF'FFFF / (code * static_cast<std::int64_t>(std::max<std::size_t>(steps, 1)));
  return static_cast<float>(std::min<std::int64_t>(whole, most));
}

template <int Bits>
inline constexpr float centre_of = static_cast<float>((1 << Bits) - 1) / 2.0F;

/// The weights of a block of queries, in one buffer of `floats(...)` numbers.
template <Accumulation Mode>
struct Weights {
  float* offsets;          // (queries), in units
  float* exact;            // (queries, stride)
  Weight<Mode>* integers;  // (queries, stride), in the same place
  std::size_t stride;

  Weights(float* buffer, std::size_t queries, std::size_t steps) noexcept
      : offsets(buffer), exact(buffer + row(queries)), integers(reinterpret_cast<Weight<Mode>*>(exact)), stride(padded_steps(steps)) {}
  static constexpr std::size_t floats(std::size_t queries, std::size_t steps) noexcept {
    return row(queries) + queries * padded_steps(steps);
  }
  static constexpr std::size_t row(std::size_t queries) noexcept { return (queries + 15) / 16 * 16; }

  /// Weights of `Queries` queries from q on: x (queries, stride) times scale * factor, rounded in the order that lane_dots wants. Offsets: x
  /// times (minimum + centre * scale) * factor, less what the rounded weights take off with the centre. `scale`, `minimum`: (stride).
  template <bool Scaled, std::size_t Queries, class Scale>
  void fold(std::size_t q, const float* x, const Scale* scale, const Scale* minimum, float factor, float centre) noexcept {
    namespace vec = simd::native;
    constexpr std::size_t at_once = 4;
    vec::f32 parts[4] = {vec::set(0.0F), vec::set(0.0F), vec::set(0.0F), vec::set(0.0F)};
    vec::i32 sums[Queries];
#pragma GCC unroll 4
    for (std::size_t i = 0; i < Queries; ++i) { sums[i] = vec::set(std::int32_t{0}); }
    for (std::size_t step = 0; step < stride; step += at_once * vec::lanes) {
      vec::f32 scales[at_once];
      vec::f32 shifts[at_once];
#pragma GCC unroll 4
      for (std::size_t v = 0; v < at_once; ++v) {
        scales[v] = vec::load(scale + step + v * vec::lanes);
        shifts[v] = vec::load(minimum + step + v * vec::lanes);
        if constexpr (Mode != Accumulation::exact) { shifts[v] = vec::fma(vec::set(centre), scales[v], shifts[v]); }
        if constexpr (Scaled) {
          scales[v] = vec::mul(scales[v], vec::set(factor));
          shifts[v] = vec::mul(shifts[v], vec::set(factor));
        }
      }
#pragma GCC unroll 4
      for (std::size_t i = 0; i < Queries; ++i) {
        const float* from = x + (q + i) * stride + step;
        vec::f32 numbers[at_once];
#pragma GCC unroll 4
        for (std::size_t v = 0; v < at_once; ++v) {
          numbers[v] = vec::load(from + v * vec::lanes);
          parts[i] = vec::fma(numbers[v], shifts[v], parts[i]);
        }
        const std::size_t at = (q + i) * stride + step;
        if constexpr (Mode != Accumulation::exact) {
          sums[i] = vec::store_products(integers + at, numbers, scales, sums[i]);
        } else {
#pragma GCC unroll 4
          for (std::size_t v = 0; v < at_once; ++v) { vec::store(exact + at + v * vec::lanes, vec::mul(numbers[v], scales[v])); }
        }
      }
    }
    if constexpr (Mode != Accumulation::exact) {
#pragma GCC unroll 4
      for (std::size_t i = 0; i < Queries; ++i) { parts[i] = vec::fma(vec::to_float(sums[i]), vec::set(-centre), parts[i]); }
    }
    float all[4];  // a query's sum must not depend on how many are summed beside it
    vec::reduce_add(parts[0], parts[1], parts[2], parts[3], all);
    std::copy_n(all, Queries, offsets + q);
  }
};

namespace detail {

/// Adds `Queries` rows of fp32 weights times the codes of a plane, whose lowest bit counts 2^Shift.
template <int Width, int Shift, std::size_t Queries>
inline void dot_plane_exact(const std::uint8_t* lines, std::size_t count, const float* weights, std::size_t stride,
                            float (*sums)[16]) noexcept {
  namespace vec = simd::native;
  constexpr int mask = (1 << Width) - 1;
  for (std::size_t lane = 0; lane < 16; lane += vec::lanes) {
    vec::f32 total[Queries];
#pragma GCC unroll 4
    for (std::size_t q = 0; q < Queries; ++q) { total[q] = vec::load(sums[q] + lane); }
    for (std::size_t line = 0; line < count; ++line) {
      const vec::i32 words = vec::load_words(lines + 64 * line + 4 * lane);
#pragma GCC unroll 4
      for (int step = 0; step < 32 / Width; ++step) {
        const vec::i32 field = vec::bit_and(vec::shift_right(words, 8 * (step % 4) + Width * (step / 4)), vec::set(mask));
        const vec::f32 code = vec::mul(vec::to_float(field), vec::set(static_cast<float>(1 << Shift)));
        const std::size_t at = line * (32 / Width) + static_cast<std::size_t>(step);
#pragma GCC unroll 4
        for (std::size_t q = 0; q < Queries; ++q) { total[q] = vec::fma(vec::set(weights[q * stride + at]), code, total[q]); }
      }
    }
#pragma GCC unroll 4
    for (std::size_t q = 0; q < Queries; ++q) { vec::store(sums[q] + lane, total[q]); }
  }
}

}  // namespace detail

/// Sums of code * weight over the steps of a strip, for `Queries` queries and 16 lanes.
template <std::size_t Queries, Accumulation Mode>
struct LaneSums {
  using Number = std::conditional_t<Mode == Accumulation::exact, float, std::int32_t>;

  alignas(64) Number sums[Queries][16];

  [[nodiscard]] simd::native::f32 at(std::size_t query, std::size_t lane) const noexcept {
    namespace vec = simd::native;
    if constexpr (Mode == Accumulation::exact) {
      return vec::load(sums[query] + lane);
    } else {
      return vec::to_float(vec::load(sums[query] + lane));
    }
  }
};

/// Sums over the steps [first, first + count) of a strip, for the queries from q on; the weights' step 0 is `first`. `first` and `count` are
/// multiples of Strip::step_multiple. `ahead` (null: nothing) is a strip that will be read soon.
template <int Bits, std::size_t Queries, Accumulation Mode>
inline void strip_dots(const std::uint8_t* strip, std::size_t steps, std::size_t first, std::size_t count, const Weights<Mode>& weights,
                       std::size_t q, const std::uint8_t* ahead, LaneSums<Queries, Mode>& result) noexcept {
  namespace vec = simd::native;
  if constexpr (Mode == Accumulation::exact) {
    for (std::size_t i = 0; i < Queries; ++i) { std::fill_n(result.sums[i], 16, 0.0F); }
    Strip<Bits>::for_planes(strip, steps, [&]<int Width, int Shift>(const std::uint8_t* lines) {
      detail::dot_plane_exact<Width, Shift, Queries>(lines + first * Width * 2, count * Width / 32, weights.exact + q * weights.stride,
                                                     weights.stride, result.sums);
    });
  } else {
    Strip<Bits>::for_planes(strip, steps, [&]<int Width, int Shift>(const std::uint8_t* lines) {
      const std::uint8_t* from = lines + first * Width * 2;
      const std::uint8_t* next = ahead == nullptr ? from : ahead + (from - strip);
      const Weight<Mode>* integers = weights.integers + q * weights.stride;
      if constexpr (Shift == 0) {
        vec::lane_dots<Width, Queries>(from, count * Width / 32, integers, weights.stride, next, result.sums);
      } else {
        alignas(64) std::int32_t part[Queries][16];
        vec::lane_dots<Width, Queries>(from, count * Width / 32, integers, weights.stride, next, part);
        for (std::size_t w = 0; w < Queries; ++w) {
          for (std::size_t lane = 0; lane < 16; lane += vec::lanes) {
            vec::store(result.sums[w] + lane,
                       vec::add(vec::load(result.sums[w] + lane), vec::shift_left(vec::load(part[w] + lane), Shift)));
          }
        }
      }
    });
  }
}

}  // namespace kvcompress::kernels
