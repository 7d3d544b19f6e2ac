// include/kvcompress/kernels/exact.hpp - dot products with, and weighted sums of, rows held in 16 or 32 bits.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <type_traits>

#include "kvcompress/simd/native.hpp"

/// Conventions of all kernels: queries and outputs are float matrices whose rows are `stride` apart and padded with zeros to a
/// multiple of the vector width; `logits` and `weights` hold one row per query. Nothing allocates, nothing fails.
///
/// Measured on Zen 4 with GCC 12 at 4 queries, head size 128, f16, cold, in ns per token and KV head; 28 as it is, reading alone 23:
/// - nothing prefetched: 47; into the first-level cache: 41; two blocks ahead: 28.
/// - a block's lines prefetched before its multiply-adds, not between them, and queries not kept in registers: 35.
/// - with one query, 16 rows at a time: 30, 8 rows: 27, 4 rows: 25. More rows are more streams than the hardware follows.
/// - horizontal sums as one tree of 16, by shuffles or by blends: 0.3 more; of the 11.1 that keys take from the second-level cache they are 2.3.
/// - with one query, from blocks that follow each other in memory, the hardware alone reads at 28 GB/s, and our requests, which it waits for,
///   at 19; but where the blocks are scattered, as decoding many heads leaves them, it falls to 9, and ours to 15.
/// - huge pages: 26, and reading alone 17. There, Clang 14: 33.
namespace kvcompress::inline KVCOMPRESS_ABI::kernels {

/// `dim` rounded up to whole vectors.
constexpr std::size_t padded(std::size_t dim) noexcept {
  return (dim + simd::native::lanes - 1) / simd::native::lanes * simd::native::lanes;
}

namespace detail {

/// Sums that a kernel keeps in registers.
inline constexpr std::size_t registers = simd::native::lanes == 16 ? 16 : 8;

/// Products of rows in T with queries in float, number by number.
template <class T>
struct InFloat {
  using Row = T;
  using Query = float;
  static constexpr std::size_t numbers = simd::native::lanes;  // of a row in a vector
  static simd::native::f32 load(const auto* from) noexcept { return simd::native::load(from); }
  static simd::native::f32 load_first(const auto* from, std::size_t count) noexcept { return simd::native::load_first(from, count); }
  static simd::native::f32 keep(simd::native::f32 x) noexcept { return simd::native::keep(x); }
  static simd::native::f32 add_products(simd::native::f32 query, simd::native::f32 row, simd::native::f32 sums) noexcept {
    return simd::native::fma(query, row, sums);
  }
};

/// Queries x Count dot products at once, so that their multiply-adds overlap. `last` is the last row that exists; `ahead` (or null): rows that
/// will be read soon.
template <std::size_t Queries, std::size_t Count, class Products>
inline void dot_block(const typename Products::Row* rows, std::size_t row_stride, std::size_t row, std::size_t last, std::size_t dim,
                      const typename Products::Query* queries, std::size_t query_stride, float* logits, std::size_t logit_stride,
                      const typename Products::Row* ahead) noexcept {
  namespace vec = simd::native;
  using T = typename Products::Row;
  vec::f32 sums[Queries][Count];
  const T* from[Count];
#pragma GCC unroll 16
  for (std::size_t r = 0; r < Count; ++r) { from[r] = rows + std::min(row + r, last) * row_stride; }
#pragma GCC unroll 4
  for (std::size_t q = 0; q < Queries; ++q) {
#pragma GCC unroll 16
    for (std::size_t r = 0; r < Count; ++r) { sums[q][r] = vec::set(0.0F); }
  }
  const std::size_t whole = dim / Products::numbers * Products::numbers;
  for (std::size_t c = 0; c < whole; c += Products::numbers) {
    if (ahead != nullptr) {
#pragma GCC unroll 16
      for (std::size_t i = 0; i < Count * Products::numbers; i += 64 / sizeof(T)) {
        __builtin_prefetch(ahead + row * dim + c * Count + i, 0, 2);
      }
    }
    decltype(Products::load(rows)) keys[Count];
#pragma GCC unroll 16
    for (std::size_t r = 0; r < Count; ++r) { keys[r] = Products::load(from[r] + c); }
#pragma GCC unroll 4
    for (std::size_t q = 0; q < Queries; ++q) {
      const auto query = Products::keep(Products::load(queries + q * query_stride + c));
#pragma GCC unroll 16
      for (std::size_t r = 0; r < Count; ++r) { sums[q][r] = Products::add_products(query, keys[r], sums[q][r]); }
    }
  }
  if (whole != dim) {
#pragma GCC unroll 16
    for (std::size_t r = 0; r < Count; ++r) {
      const auto key = Products::load_first(from[r] + whole, dim - whole);
#pragma GCC unroll 4
      for (std::size_t q = 0; q < Queries; ++q) {
        sums[q][r] = Products::add_products(Products::load_first(queries + q * query_stride + whole, dim - whole), key, sums[q][r]);
      }
    }
  }
  float results[Queries][Count];
#pragma GCC unroll 4
  for (std::size_t i = 0; i < Queries * Count; i += 4) {
    const auto sum = [&](std::size_t at) { return sums[at / Count][at % Count]; };
    vec::reduce_add(sum(i), sum(i + 1), sum(i + 2), sum(i + 3), &results[0][0] + i);
  }
  const std::size_t exist = std::min(Count, last + 1 - row);
  for (std::size_t q = 0; q < Queries; ++q) {
    if (exist == Count) {
      std::copy_n(results[q], Count, logits + q * logit_stride + row);
    } else {
      std::copy_n(results[q], exist, logits + q * logit_stride + row);
    }
  }
}

template <std::size_t Queries, class Products>
inline void dot_rows_of(const typename Products::Row* rows, std::size_t row_stride, std::size_t count, std::size_t dim,
                        const typename Products::Query* queries, std::size_t query_stride, float* logits, std::size_t logit_stride,
                        const typename Products::Row* ahead) noexcept {
  constexpr std::size_t at_once = std::min<std::size_t>(4, registers / Queries);
  for (std::size_t r = 0; r < count; r += at_once) {
    dot_block<Queries, at_once, Products>(rows, row_stride, r, count - 1, dim, queries, query_stride, logits, logit_stride, ahead);
  }
}

/// `Vectors` vectors of channels for `Queries` outputs, all rows.
template <std::size_t Queries, std::size_t Vectors, class T>
inline void mix_block(const T* rows, std::size_t count, std::size_t dim, std::size_t channel, const float* weights,
                      std::size_t weight_stride, float* out, std::size_t out_stride, const T* ahead) noexcept {
  namespace vec = simd::native;
  vec::f32 sums[Queries][Vectors];
#pragma GCC unroll 4
  for (std::size_t q = 0; q < Queries; ++q) {
#pragma GCC unroll 16
    for (std::size_t v = 0; v < Vectors; ++v) { sums[q][v] = vec::load(out + q * out_stride + channel + v * vec::lanes); }
  }
  const auto add = [&](std::size_t r, const vec::f32(&values)[Vectors]) {
#pragma GCC unroll 4
    for (std::size_t q = 0; q < Queries; ++q) {
      const vec::f32 weight = vec::set(weights[q * weight_stride + r]);
#pragma GCC unroll 16
      for (std::size_t v = 0; v < Vectors; ++v) { sums[q][v] = vec::fma(weight, values[v], sums[q][v]); }
    }
  };
  vec::f32 values[Vectors];
  if (channel + Vectors * vec::lanes <= dim) {
    for (std::size_t r = 0; r < count; ++r) {
      const T* from = rows + r * dim + channel;
      if (ahead != nullptr) {
        for (std::size_t c = 0; c < Vectors * vec::lanes; c += 64 / sizeof(T)) { __builtin_prefetch(ahead + (from - rows) + c, 0, 2); }
      }
#pragma GCC unroll 16
      for (std::size_t v = 0; v < Vectors; ++v) { values[v] = vec::load(from + v * vec::lanes); }
      add(r, values);
    }
  } else {
    for (std::size_t r = 0; r < count; ++r) {
#pragma GCC unroll 16
      for (std::size_t v = 0; v < Vectors; ++v) {
        const std::size_t at = channel + v * vec::lanes;
        values[v] = vec::load_first(rows + r * dim + at, dim - at);
      }
      add(r, values);
    }
  }
#pragma GCC unroll 4
  for (std::size_t q = 0; q < Queries; ++q) {
#pragma GCC unroll 16
    for (std::size_t v = 0; v < Vectors; ++v) { vec::store(out + q * out_stride + channel + v * vec::lanes, sums[q][v]); }
  }
}

template <std::size_t Queries, class T>
inline void mix_rows_of(const T* rows, std::size_t count, std::size_t dim, const float* weights, std::size_t weight_stride, float* out,
                        std::size_t out_stride, const T* ahead) noexcept {
  constexpr std::size_t lanes = simd::native::lanes;
  constexpr std::size_t vectors = registers / std::max<std::size_t>(Queries, 2);
  std::size_t channel = 0;
  for (; channel + vectors * lanes <= dim; channel += vectors * lanes) {
    mix_block<Queries, vectors>(rows, count, dim, channel, weights, weight_stride, out, out_stride, ahead);
  }
  for (; channel < dim; channel += lanes) {
    mix_block<Queries, 1>(rows, count, dim, channel, weights, weight_stride, out, out_stride, ahead);
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

/// logits[q][r] = queries[q] . rows[r] for `count` rows of `dim` numbers, `row_stride` apart. Queries need no padding here.
template <class T>
inline void dot_rows_apart(const T* rows, std::size_t row_stride, std::size_t count, std::size_t dim, const float* queries,
                           std::size_t query_stride, std::size_t query_count, float* logits, std::size_t logit_stride) noexcept {
  detail::in_query_blocks(query_count, [&]<std::size_t Queries>(std::size_t q) {
    detail::dot_rows_of<Queries, detail::InFloat<T>>(rows, row_stride, count, dim, queries + q * query_stride, query_stride,
                                                     logits + q * logit_stride, logit_stride, static_cast<const T*>(nullptr));
  });
}

/// The same for rows one behind the other. `ahead` (or null): as many rows that will be read soon.
template <class T>
inline void dot_rows(const T* rows, std::size_t count, std::size_t dim, const float* queries, std::size_t query_stride,
                     std::size_t query_count, float* logits, std::size_t logit_stride, const T* ahead = nullptr) noexcept {
  detail::in_query_blocks(query_count, [&]<std::size_t Queries>(std::size_t q) {
    detail::dot_rows_of<Queries, detail::InFloat<T>>(rows, dim, count, dim, queries + q * query_stride, query_stride,
                                                     logits + q * logit_stride, logit_stride, q == 0 ? ahead : nullptr);
  });
}

/// out[q] += sum over r of weights[q][r] * rows[r].
template <class T>
inline void mix_rows(const T* rows, std::size_t count, std::size_t dim, const float* weights, std::size_t weight_stride,
                     std::size_t query_count, float* out, std::size_t out_stride, const T* ahead = nullptr) noexcept {
  detail::in_query_blocks(query_count, [&]<std::size_t Queries>(std::size_t q) {
    detail::mix_rows_of<Queries>(rows, count, dim, weights + q * weight_stride, weight_stride, out + q * out_stride, out_stride,
                                 q == 0 ? ahead : nullptr);
  });
}

/// Whether every |x[i]| is at most `bound`; not if one is not a number.
inline bool all_within(const float* x, std::size_t count, float bound) noexcept {
  namespace vec = simd::native;
  constexpr std::size_t at_once = 4;  // chains that hide each other's latency
  vec::f32 tops[at_once];
  vec::f32 zeros[at_once];  // a NaN, which max may lose, stays here
#pragma GCC unroll 4
  for (std::size_t i = 0; i < at_once; ++i) { tops[i] = zeros[i] = vec::set(0.0F); }
  const auto see = [&](std::size_t chain, vec::f32 number) {
    tops[chain] = vec::max(tops[chain], vec::abs(number));
    zeros[chain] = vec::fma(number, vec::set(0.0F), zeros[chain]);
  };
  std::size_t i = 0;
  for (; i + at_once * vec::lanes <= count; i += at_once * vec::lanes) {
#pragma GCC unroll 4
    for (std::size_t v = 0; v < at_once; ++v) { see(v, vec::load(x + i + v * vec::lanes)); }
  }
  for (; i + vec::lanes <= count; i += vec::lanes) { see(0, vec::load(x + i)); }
  if (i < count) { see(0, vec::load_first(x + i, count - i)); }
  const vec::f32 top = vec::max(vec::max(tops[0], tops[1]), vec::max(tops[2], tops[3]));
  const vec::f32 zero = vec::add(vec::add(zeros[0], zeros[1]), vec::add(zeros[2], zeros[3]));
  return vec::reduce_max(top) <= bound && vec::reduce_add(zero) == 0.0F;
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
  if constexpr (std::is_same_v<T, float>) {
    std::copy_n(from, count, to);
    return;
  }
  constexpr std::size_t lanes = simd::native::lanes;
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) { simd::native::store(to + i, simd::native::load(from + i)); }
  for (; i < count; ++i) { to[i] = static_cast<float>(from[i]); }
}

}  // namespace kvcompress::kernels
