// include/kvcompress/kernels/packed.hpp - dot products with, and weighted sums of, integer codes; and their packing.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kvcompress/kernels/exact.hpp"
#include "kvcompress/simd/native.hpp"

/// Codes of `Bits` bits stand eight by eight in `Bits` bytes (a unit), little-endian. A code is met as the integer it is: the
/// callers fold scales into queries and probabilities, so that nothing here knows what a code stands for. This is the `exact`
/// accumulation: fp32 multiply-adds on the codes.
namespace kvcompress::kernels {

/// Codes in one unit.
inline constexpr std::size_t unit = 8;

/// Packs eight codes into `Bits` bytes.
template <int Bits>
inline void pack(const std::uint8_t* codes, std::uint8_t* to) noexcept {
  std::uint64_t word = 0;
  for (std::size_t i = 0; i < unit; ++i) { word |= static_cast<std::uint64_t>(codes[i]) << (Bits * i); }
  for (std::size_t i = 0; i < Bits; ++i) { to[i] = static_cast<std::uint8_t>(word >> (8 * i)); }
}
/// The code at `index` of a run of units that starts at `from`.
template <int Bits>
inline std::uint8_t code_at(const std::uint8_t* from, std::size_t index) noexcept {
  const std::uint8_t* at = from + index / unit * Bits;
  std::uint64_t word = 0;
  for (std::size_t i = 0; i < Bits; ++i) { word |= static_cast<std::uint64_t>(at[i]) << (8 * i); }
  return static_cast<std::uint8_t>(word >> (Bits * (index % unit)) & ((1U << Bits) - 1U));
}

/// folded[i] = x[i] * scale[i] for `count` numbers; returns the sum of x[i] * minimum[i]. What makes codes integers to the loops below.
template <class Scale>
inline float fold(const float* x, const Scale* scale, const Scale* minimum, std::size_t count, float* folded) noexcept {
  namespace vec = simd::native;
  vec::f32 sum = vec::set(0.0F);
  std::size_t i = 0;
  for (; i + vec::lanes <= count; i += vec::lanes) {
    const vec::f32 number = vec::load(x + i);
    vec::store(folded + i, vec::mul(number, vec::load(scale + i)));
    sum = vec::fma(number, vec::load(minimum + i), sum);
  }
  float rest = 0.0F;
  for (; i < count; ++i) {
    folded[i] = x[i] * static_cast<float>(scale[i]);
    rest += x[i] * static_cast<float>(minimum[i]);
  }
  return vec::reduce_add(sum) + rest;
}

/// `Units` times eight tokens, lanes = tokens: logits[q][i] = offsets[q] + sum over c of weights[q][c] * code(c, i), where the units of
/// channel c lie at codes + c * channel_stride. Two units share every broadcast weight.
template <int Bits, std::size_t Units>
inline void dot_units(const std::uint8_t* codes, std::size_t channel_stride, std::size_t dim, const float* weights,
                      std::size_t weight_stride, const float* offsets, std::size_t query_count, float* logits,
                      std::size_t logit_stride) noexcept {
  namespace vec = simd::native;
  detail::in_query_blocks(query_count, [&]<std::size_t Queries>(std::size_t first) {
    vec::f32 sums[Queries][Units];
    const float* weight = weights + first * weight_stride;
    for (std::size_t q = 0; q < Queries; ++q) {
      for (std::size_t u = 0; u < Units; ++u) { sums[q][u] = vec::set(offsets[first + q]); }
    }
    for (std::size_t c = 0; c < dim; ++c) {
      vec::f32 code[Units];
      for (std::size_t u = 0; u < Units; ++u) { code[u] = vec::unpack<Bits>(codes + c * channel_stride + u * Bits); }
      for (std::size_t q = 0; q < Queries; ++q) {
        const vec::f32 w = vec::set(weight[q * weight_stride + c]);
        for (std::size_t u = 0; u < Units; ++u) { sums[q][u] = vec::fma(w, code[u], sums[q][u]); }
      }
    }
    for (std::size_t q = 0; q < Queries; ++q) {
      for (std::size_t u = 0; u < Units; ++u) { vec::store(logits + (first + q) * logit_stride + u * unit, sums[q][u]); }
    }
  });
}

/// The same for `count` tokens from token `first` of the channels on, whole units or not. `edge`: (queries, unit) floats.
template <int Bits>
inline void dot_tokens(const std::uint8_t* codes, std::size_t channel_stride, std::size_t dim, std::size_t first, std::size_t count,
                       const float* weights, std::size_t weight_stride, const float* offsets, std::size_t query_count, float* logits,
                       std::size_t logit_stride, float* edge) noexcept {
  for (std::size_t token = first; token < first + count;) {
    const std::size_t place = token % unit;
    const std::size_t left = first + count - token;
    const std::uint8_t* at = codes + token / unit * Bits;
    float* out = logits + (token - first);
    if (place == 0 && left >= 2 * unit) {
      dot_units<Bits, 2>(at, channel_stride, dim, weights, weight_stride, offsets, query_count, out, logit_stride);
      token += 2 * unit;
      continue;
    }
    const std::size_t part = std::min(left, unit - place);
    dot_units<Bits, 1>(at, channel_stride, dim, weights, weight_stride, offsets, query_count, edge, unit);
    for (std::size_t q = 0; q < query_count; ++q) { std::copy_n(edge + q * unit + place, part, out + q * logit_stride); }
    token += part;
  }
}

/// `Units` times eight channels, lanes = channels: out[q][i] += offsets[q] + sum over r of weights[q][r] * code(r, i), where the units of
/// row r lie at codes + r * row_stride.
template <int Bits, std::size_t Units>
inline void mix_units(const std::uint8_t* codes, std::size_t row_stride, std::size_t count, const float* weights,
                      std::size_t weight_stride, const float* offsets, std::size_t query_count, float* out,
                      std::size_t out_stride) noexcept {
  namespace vec = simd::native;
  detail::in_query_blocks(query_count, [&]<std::size_t Queries>(std::size_t first) {
    vec::f32 sums[Queries][Units];
    const float* weight = weights + first * weight_stride;
    for (std::size_t q = 0; q < Queries; ++q) {
      const vec::f32 offset = vec::set(offsets[first + q]);
      for (std::size_t u = 0; u < Units; ++u) { sums[q][u] = vec::add(vec::load(out + (first + q) * out_stride + u * unit), offset); }
    }
    for (std::size_t r = 0; r < count; ++r) {
      vec::f32 code[Units];
      for (std::size_t u = 0; u < Units; ++u) { code[u] = vec::unpack<Bits>(codes + r * row_stride + u * Bits); }
      for (std::size_t q = 0; q < Queries; ++q) {
        const vec::f32 w = vec::set(weight[q * weight_stride + r]);
        for (std::size_t u = 0; u < Units; ++u) { sums[q][u] = vec::fma(w, code[u], sums[q][u]); }
      }
    }
    for (std::size_t q = 0; q < Queries; ++q) {
      for (std::size_t u = 0; u < Units; ++u) { vec::store(out + (first + q) * out_stride + u * unit, sums[q][u]); }
    }
  });
}

}  // namespace kvcompress::kernels
