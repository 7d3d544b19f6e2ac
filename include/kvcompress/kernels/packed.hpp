// include/kvcompress/kernels/packed.hpp - dot products with, and weighted sums of, integer codes; and their packing.
// SPDX-License-Identifier: MIT
#pragma once

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

/// Eight tokens, lanes = tokens: logits[q][i] = offsets[q] + sum over c of weights[q][c] * code(c, i), where the unit of channel c
/// lies at codes + c * channel_stride.
template <int Bits>
inline void dot_unit(const std::uint8_t* codes, std::size_t channel_stride, std::size_t dim, const float* weights,
                     std::size_t weight_stride, const float* offsets, std::size_t query_count, float* logits,
                     std::size_t logit_stride) noexcept {
  namespace vec = simd::native;
  detail::in_query_blocks(query_count, [&]<std::size_t Queries>(std::size_t first) {
    vec::f32 sums[Queries];
    const float* weight = weights + first * weight_stride;
    for (std::size_t q = 0; q < Queries; ++q) { sums[q] = vec::set(offsets[first + q]); }
    for (std::size_t c = 0; c < dim; ++c) {
      const vec::f32 code = vec::unpack<Bits>(codes + c * channel_stride);
      for (std::size_t q = 0; q < Queries; ++q) { sums[q] = vec::fma(vec::set(weight[q * weight_stride + c]), code, sums[q]); }
    }
    for (std::size_t q = 0; q < Queries; ++q) { vec::store(logits + (first + q) * logit_stride, sums[q]); }
  });
}

/// Eight channels, lanes = channels: out[q][i] += offsets[q] + sum over r of weights[q][r] * code(r, i), where the unit of row r
/// lies at codes + r * row_stride.
template <int Bits>
inline void mix_unit(const std::uint8_t* codes, std::size_t row_stride, std::size_t count, const float* weights,
                     std::size_t weight_stride, const float* offsets, std::size_t query_count, float* out,
                     std::size_t out_stride) noexcept {
  namespace vec = simd::native;
  detail::in_query_blocks(query_count, [&]<std::size_t Queries>(std::size_t first) {
    vec::f32 sums[Queries];
    const float* weight = weights + first * weight_stride;
    for (std::size_t q = 0; q < Queries; ++q) {
      sums[q] = vec::add(vec::load(out + (first + q) * out_stride), vec::set(offsets[first + q]));
    }
    for (std::size_t r = 0; r < count; ++r) {
      const vec::f32 code = vec::unpack<Bits>(codes + r * row_stride);
      for (std::size_t q = 0; q < Queries; ++q) { sums[q] = vec::fma(vec::set(weight[q * weight_stride + r]), code, sums[q]); }
    }
    for (std::size_t q = 0; q < Queries; ++q) { vec::store(out + (first + q) * out_stride, sums[q]); }
  });
}

}  // namespace kvcompress::kernels
