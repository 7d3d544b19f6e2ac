// include/kvcompress/kernels/exact.hpp - dot products with, and weighted sums of, rows held in 16 or 32 bits.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>

#include "kvcompress/simd/native.hpp"

/// Conventions of all kernels: queries and outputs are float matrices whose rows are `stride` apart and padded with zeros to a
/// multiple of the vector width; `logits` and `weights` hold one row per query. Nothing allocates, nothing fails.
namespace kvcompress::kernels {

/// `dim` rounded up to whole vectors.
constexpr std::size_t padded(std::size_t dim) noexcept {
  return (dim + simd::native::lanes - 1) / simd::native::lanes * simd::native::lanes;
}

namespace detail {

/// Queries x Rows dot products at once, so that the multiply-adds of eight of them overlap. `last` is the last row that exists.
template <std::size_t Queries, std::size_t Count, class T>
inline void dot_block(const T* rows, std::size_t row, std::size_t last, std::size_t dim, const float* queries,
                      std::size_t query_stride, float* logits, std::size_t logit_stride) noexcept {
  namespace vec = simd::native;
  vec::f32 sums[Queries][Count];
  const T* from[Count];
  for (std::size_t r = 0; r < Count; ++r) { from[r] = rows + std::min(row + r, last) * dim; }
  for (std::size_t q = 0; q < Queries; ++q) {
    for (std::size_t r = 0; r < Count; ++r) { sums[q][r] = vec::set(0.0F); }
  }
  const std::size_t whole = dim / vec::lanes * vec::lanes;
  for (std::size_t c = 0; c < whole; c += vec::lanes) {
    vec::f32 keys[Count];
    for (std::size_t r = 0; r < Count; ++r) { keys[r] = vec::load(from[r] + c); }
    for (std::size_t q = 0; q < Queries; ++q) {
      const vec::f32 query = vec::load(queries + q * query_stride + c);
      for (std::size_t r = 0; r < Count; ++r) { sums[q][r] = vec::fma(query, keys[r], sums[q][r]); }
    }
  }
  if (whole != dim) {
    for (std::size_t r = 0; r < Count; ++r) {
      const vec::f32 key = vec::load_first(from[r] + whole, dim - whole);
      for (std::size_t q = 0; q < Queries; ++q) {
        sums[q][r] = vec::fma(vec::load(queries + q * query_stride + whole), key, sums[q][r]);
      }
    }
  }
  const std::size_t exist = std::min(Count, last + 1 - row);
  for (std::size_t q = 0; q < Queries; ++q) {
    for (std::size_t r = 0; r < exist; ++r) { logits[q * logit_stride + row + r] = vec::reduce_add(sums[q][r]); }
  }
}

template <std::size_t Queries, class T>
inline void dot_rows_of(const T* rows, std::size_t count, std::size_t dim, const float* queries, std::size_t query_stride,
                        float* logits, std::size_t logit_stride) noexcept {
  constexpr std::size_t at_once = 8 / Queries;
  for (std::size_t r = 0; r < count; r += at_once) {
    dot_block<Queries, at_once>(rows, r, count - 1, dim, queries, query_stride, logits, logit_stride);
  }
}

/// Two vectors of channels for `Queries` outputs, all rows.
template <std::size_t Queries, std::size_t Vectors, class T>
inline void mix_block(const T* rows, std::size_t count, std::size_t dim, std::size_t channel, const float* weights,
                      std::size_t weight_stride, float* out, std::size_t out_stride) noexcept {
  namespace vec = simd::native;
  vec::f32 sums[Queries][Vectors];
  for (std::size_t q = 0; q < Queries; ++q) {
    for (std::size_t v = 0; v < Vectors; ++v) { sums[q][v] = vec::load(out + q * out_stride + channel + v * vec::lanes); }
  }
  const bool whole = channel + Vectors * vec::lanes <= dim;
  for (std::size_t r = 0; r < count; ++r) {
    vec::f32 values[Vectors];
    for (std::size_t v = 0; v < Vectors; ++v) {
      const T* from = rows + r * dim + channel + v * vec::lanes;
      values[v] = whole ? vec::load(from) : vec::load_first(from, dim - channel - v * vec::lanes);
    }
    for (std::size_t q = 0; q < Queries; ++q) {
      const vec::f32 weight = vec::set(weights[q * weight_stride + r]);
      for (std::size_t v = 0; v < Vectors; ++v) { sums[q][v] = vec::fma(weight, values[v], sums[q][v]); }
    }
  }
  for (std::size_t q = 0; q < Queries; ++q) {
    for (std::size_t v = 0; v < Vectors; ++v) { vec::store(out + q * out_stride + channel + v * vec::lanes, sums[q][v]); }
  }
}

template <std::size_t Queries, class T>
inline void mix_rows_of(const T* rows, std::size_t count, std::size_t dim, const float* weights, std::size_t weight_stride,
                        float* out, std::size_t out_stride) noexcept {
  constexpr std::size_t lanes = simd::native::lanes;
  std::size_t channel = 0;
  for (; channel + 2 * lanes <= dim; channel += 2 * lanes) {
    mix_block<Queries, 2>(rows, count, dim, channel, weights, weight_stride, out, out_stride);
  }
  for (; channel < dim; channel += lanes) {
    mix_block<Queries, 1>(rows, count, dim, channel, weights, weight_stride, out, out_stride);
  }
}

/// Calls `kernel` with the largest block of queries (4, 2, 1) that fits, until all are served.
template <class Kernel>
inline void in_query_blocks(std::size_t queries, Kernel&& kernel) noexcept {
  std::size_t q = 0;
  for (; q + 4 <= queries; q += 4) { kernel.template operator()<4>(q); }
  for (; q + 2 <= queries; q += 2) { kernel.template operator()<2>(q); }
  for (; q < queries; ++q) { kernel.template operator()<1>(q); }
}

}  // namespace detail

/// logits[q][r] = queries[q] . rows[r] for `count` rows of `dim` numbers, one behind the other.
template <class T>
inline void dot_rows(const T* rows, std::size_t count, std::size_t dim, const float* queries, std::size_t query_stride,
                     std::size_t query_count, float* logits, std::size_t logit_stride) noexcept {
  detail::in_query_blocks(query_count, [&]<std::size_t Queries>(std::size_t q) {
    detail::dot_rows_of<Queries>(rows, count, dim, queries + q * query_stride, query_stride, logits + q * logit_stride, logit_stride);
  });
}

/// out[q] += sum over r of weights[q][r] * rows[r].
template <class T>
inline void mix_rows(const T* rows, std::size_t count, std::size_t dim, const float* weights, std::size_t weight_stride,
                     std::size_t query_count, float* out, std::size_t out_stride) noexcept {
  detail::in_query_blocks(query_count, [&]<std::size_t Queries>(std::size_t q) {
    detail::mix_rows_of<Queries>(rows, count, dim, weights + q * weight_stride, weight_stride, out + q * out_stride, out_stride);
  });
}

/// Rounds `count` floats to T.
template <class T>
inline void convert(const float* from, T* to, std::size_t count) noexcept {
  constexpr std::size_t lanes = simd::native::lanes;
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) { simd::native::store(to + i, simd::native::load(from + i)); }
  for (; i < count; ++i) { to[i] = T(from[i]); }
}

/// Widens `count` numbers to float.
template <class T>
inline void widen(const T* from, float* to, std::size_t count) noexcept {
  constexpr std::size_t lanes = simd::native::lanes;
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) { simd::native::store(to + i, simd::native::load(from + i)); }
  for (; i < count; ++i) { to[i] = static_cast<float>(from[i]); }
}

}  // namespace kvcompress::kernels
