// include/kvcompress/kernels/pairs.hpp - products of bfloat16 matrices, two terms at a time.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kvcompress/core/soon_needed.hpp"
#include "kvcompress/kernels/exact.hpp"

/// Where hardware multiplies pairs of bfloat16 (AVX512_BF16) this takes half as many instructions as in float, and no conversions. Measured on
/// Zen 4 with GCC 12, 8 rows of rank 160 times 128 columns, hot: 1.42 us, in float (mix_rows of half) 3.07; interleaving the matrix once, 0.7.
/// Cold, from rows here and there, as ShadowKV multiplies them (shares of a profile, not timed apart): about 2.2 us if the next rows are asked for in
/// a burst before each product, 1.4 line by line within it. Asking for them into the first-level cache: slower. Asking for the values of the same
/// rows as well: no faster.
namespace kvcompress::inline KVCOMPRESS_ABI::kernels {

/// 32-bit words of `rank` rows of `dim` numbers by pairs.
constexpr std::size_t pair_words(std::size_t rank, std::size_t dim) noexcept { return (rank + 1) / 2 * padded(dim); }

/// Columns that lie together.
inline constexpr std::size_t panel = 2 * simd::native::lanes;

/// Rows 2k and 2k + 1 of `matrix` (rank, dim) side by side, the even row in the lower half of a word, zeros where there is none: for each
/// panel of columns, words (rank / 2, columns), so that they are read in one stream.
inline void interleave_pairs(const bfloat16* matrix, std::size_t rank, std::size_t dim, std::uint32_t* pairs) noexcept {
  for (std::size_t first = 0; first < dim; first += panel) {
    const std::size_t width = std::min(panel, padded(dim) - first);
    const std::size_t columns = std::min(panel, dim - first);
    for (std::size_t k = 0; k < rank; k += 2, pairs += width) {
      const bfloat16* even = matrix + k * dim + first;
      const bfloat16* odd = k + 1 < rank ? even + dim : nullptr;
      for (std::size_t c = 0; c < columns; ++c) { pairs[c] = even[c].bits | (odd != nullptr ? std::uint32_t{odd[c].bits} << 16U : 0U); }
      std::fill(pairs + columns, pairs + width, 0U);
    }
  }
}

namespace detail {

/// Rows x Vectors sums at once: one panel.
template <std::size_t Rows, std::size_t Vectors>
inline void multiply_block(const bfloat16* rows, std::size_t rank, const std::uint32_t* pairs, float* out, std::size_t out_stride,
                           SoonNeeded& soon) noexcept {
  namespace vec = simd::native;
  vec::f32 sums[Rows][Vectors];
#pragma GCC unroll 8
  for (std::size_t r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (std::size_t v = 0; v < Vectors; ++v) { sums[r][v] = vec::set(0.0F); }
  }
  const auto add = [&](std::size_t k, std::size_t bytes) {
    vec::i32 columns[Vectors];
#pragma GCC unroll 4
    for (std::size_t v = 0; v < Vectors; ++v) {
      columns[v] = vec::load_words(reinterpret_cast<const std::uint8_t*>(pairs + (k / 2 * Vectors + v) * vec::lanes));
    }
#pragma GCC unroll 8
    for (std::size_t r = 0; r < Rows; ++r) {
      std::int32_t pair = 0;
      std::memcpy(&pair, rows + r * rank + k, bytes);
      const vec::i32 both = vec::set(pair);
#pragma GCC unroll 4
      for (std::size_t v = 0; v < Vectors; ++v) { sums[r][v] = vec::add_pair_products(columns[v], both, sums[r][v]); }
    }
  };
  std::size_t k = 0;
  for (; k + 2 <= rank; k += 2) {
    soon.ask();
    add(k, 2 * sizeof(bfloat16));
  }
  if (k < rank) { add(k, sizeof(bfloat16)); }
#pragma GCC unroll 8
  for (std::size_t r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (std::size_t v = 0; v < Vectors; ++v) { vec::store(out + r * out_stride + v * vec::lanes, sums[r][v]); }
  }
}

template <std::size_t Rows>
inline void multiply_rows(const bfloat16* rows, std::size_t rank, const std::uint32_t* pairs, std::size_t width, float* out,
                          std::size_t out_stride, SoonNeeded& soon) noexcept {
  std::size_t c = 0;
  for (; c + panel <= width; c += panel) { multiply_block<Rows, 2>(rows, rank, pairs + c * ((rank + 1) / 2), out + c, out_stride, soon); }
  if (c < width) { multiply_block<Rows, 1>(rows, rank, pairs + c * ((rank + 1) / 2), out + c, out_stride, soon); }
}

/// Products of rows and queries in bfloat16.
struct ByPairs {
  using Row = bfloat16;
  using Query = bfloat16;
  static constexpr std::size_t numbers = 2 * simd::native::lanes;
  static simd::native::i32 load(const bfloat16* from) noexcept {
    return simd::native::load_words(reinterpret_cast<const std::uint8_t*>(from));
  }
  static simd::native::i32 load_first(const bfloat16* from, std::size_t count) noexcept {
    bfloat16 padded[numbers] = {};
    std::copy_n(from, count, padded);
    return load(padded);
  }
  static simd::native::i32 keep(simd::native::i32 x) noexcept { return x; }
  static simd::native::f32 add_products(simd::native::i32 query, simd::native::i32 row, simd::native::f32 sums) noexcept {
    return simd::native::add_pair_products(query, row, sums);
  }
};

}  // namespace detail

/// logits[q][r] = queries[q] . rows[r] for `count` rows of `dim` numbers, one behind the other. `ahead` (or null): as many rows that will be read
/// soon.
inline void dot_pairs(const bfloat16* rows, std::size_t count, std::size_t dim, const bfloat16* queries, std::size_t query_stride,
                      std::size_t query_count, float* logits, std::size_t logit_stride, const bfloat16* ahead = nullptr) noexcept {
  detail::in_query_blocks(query_count, [&]<std::size_t Queries>(std::size_t q) {
    detail::dot_rows_of<Queries, detail::ByPairs>(rows, dim, count, dim, queries + q * query_stride, query_stride,
                                                  logits + q * logit_stride, logit_stride, q == 0 ? ahead : nullptr);
  });
}

/// out[r] (padded(dim) numbers) = rows[r] (rank numbers, one row behind the other) times the matrix whose pairs these are. Asks for `soon`
/// meanwhile, a line per pair.
inline void multiply_pairs(const bfloat16* rows, std::size_t count, std::size_t rank, const std::uint32_t* pairs, std::size_t dim,
                           float* out, std::size_t out_stride, SoonNeeded soon = {}) noexcept {
  const std::size_t width = padded(dim);
  constexpr std::size_t at_once = detail::registers / 2;
  std::size_t r = 0;
  for (; r + at_once <= count; r += at_once) {
    detail::multiply_rows<at_once>(rows + r * rank, rank, pairs, width, out + r * out_stride, out_stride, soon);
  }
  for (; r < count; ++r) { detail::multiply_rows<1>(rows + r * rank, rank, pairs, width, out + r * out_stride, out_stride, soon); }
}

}  // namespace kvcompress::kernels
