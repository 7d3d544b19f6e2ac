// examples/llama/matmul.hpp - weights times activations: one kernel for a token and for a prompt.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include "tensor.hpp"
#include "thread_pool.hpp"

namespace llama {

/// out[r, t] = row r . x[t] for a tile of rows and tokens, every pair with one accumulator in the same order
/// of columns: so a number does not depend on the tile it was computed in, nor on how many tokens or threads
/// there are.
///
/// rows: (Rows, columns) encoded, `row_bytes` apart; x: (Tokens, columns); out: strides `out_row`,
/// `out_token`.
template <class Codec, std::size_t Rows, std::size_t Tokens>
inline void tile(const std::byte* rows, std::size_t row_bytes, const float* x, std::size_t columns, float* out, std::size_t out_row,
                 std::size_t out_token) noexcept {
  static_assert(Rows <= 4 && Tokens <= 4, "the unroll pragmas below name four");
  vec::f32x8 total[Rows][Tokens];
#pragma GCC unroll 4
  for (std::size_t r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (std::size_t t = 0; t < Tokens; ++t) { total[r][t] = vec::set(0.0F); }
  }
  const std::size_t blocks = columns / block_columns;
  for (std::size_t b = 0; b < blocks; ++b) {
    const std::byte* block[Rows];
    float scale[Rows];
#pragma GCC unroll 4
    for (std::size_t r = 0; r < Rows; ++r) {
      block[r] = rows + r * row_bytes + b * Codec::block_bytes;
      scale[r] = Codec::scale(block[r]);
    }
    const auto step = [&]<std::size_t Part>() {
      vec::f32x8 active[Tokens];
#pragma GCC unroll 4
      for (std::size_t t = 0; t < Tokens; ++t) { active[t] = vec::load(x + t * columns + b * block_columns + 8 * Part); }
#pragma GCC unroll 4
      for (std::size_t r = 0; r < Rows; ++r) {
        const vec::f32x8 weight = Codec::template load<Part>(block[r], scale[r]);
#pragma GCC unroll 4
        for (std::size_t t = 0; t < Tokens; ++t) { total[r][t] = vec::fma(weight, active[t], total[r][t]); }
      }
    };
    step.template operator()<0>();
    step.template operator()<1>();
    step.template operator()<2>();
    step.template operator()<3>();
  }
#pragma GCC unroll 4
  for (std::size_t r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (std::size_t t = 0; t < Tokens; ++t) {
      float result = vec::sum(total[r][t]);
      for (std::size_t i = blocks * block_columns; i < columns; ++i) { result += Codec::at(rows + r * row_bytes, i) * x[t * columns + i]; }
      out[r * out_row + t * out_token] = result;
    }
  }
}

/// The same for any number of rows.
template <class Codec, std::size_t Tokens>
inline void tile_rows(const std::byte* rows, std::size_t row_bytes, std::size_t count, const float* x, std::size_t columns, float* out,
                      std::size_t out_row, std::size_t out_token) noexcept {
  std::size_t r = 0;
  for (; r + 4 <= count; r += 4) {
    tile<Codec, 4, Tokens>(rows + r * row_bytes, row_bytes, x, columns, out + r * out_row, out_row, out_token);
  }
  for (; r < count; ++r) { tile<Codec, 1, Tokens>(rows + r * row_bytes, row_bytes, x, columns, out + r * out_row, out_row, out_token); }
}

/// Rows that one thread takes at a time; for a prompt they are decoded once and stay in the first-level
/// cache.
inline constexpr std::size_t row_block = 16;

/// out[t, r] = w[r] . x[t] for rows [first, last), which are at most `row_block`. A single token is multiplied as the rows are read,
/// where the format has a codec; else rows are decoded first. scratch: (row_block, columns)
inline void multiply_rows(const Tensor& w, std::size_t first, std::size_t last, const float* x, std::size_t tokens, float* out,
                          float* scratch) noexcept {
  if (tokens == 1 && info_of(w.format).decode == nullptr) {
    with_codec(w.format, [&](auto codec) {
      tile_rows<decltype(codec), 1>(w.row(first), w.row_bytes(), last - first, x, w.columns, out + first, 1, w.rows);
    });
    return;
  }
  // Four rows at a time for one token: they are used once, and so stay in the first or second-level cache.
  const std::size_t step = tokens == 1 ? 4 : row_block;
  const auto* rows = reinterpret_cast<const std::byte*>(scratch);
  const std::size_t bytes = w.columns * sizeof(float);
  for (; first < last; first += step) {
    const std::size_t count = std::min(step, last - first);
    for (std::size_t r = 0; r < count; ++r) { decode_row(w, first + r, scratch + r * w.columns); }
    std::size_t t = 0;
    for (; t + vec::tile_tokens <= tokens; t += vec::tile_tokens) {
      tile_rows<F32, vec::tile_tokens>(rows, bytes, count, x + t * w.columns, w.columns, out + t * w.rows + first, 1, w.rows);
    }
    for (; t < tokens; ++t) { tile_rows<F32, 1>(rows, bytes, count, x + t * w.columns, w.columns, out + t * w.rows + first, 1, w.rows); }
  }
}

/// One product of a group that shares its activations.
struct Product {
  const Tensor* weights;  // (rows, columns)
  float* out;             // (tokens, rows)
};

/// out = x weights^T for every product: q, k and v in one go, so the threads meet once. x: (tokens, columns)
inline void multiply(std::span<const Product> products, const float* x, std::size_t tokens, ThreadPool& pool) {
  std::size_t blocks = 0;
  for (const Product& product : products) { blocks += (product.weights->rows + row_block - 1) / row_block; }
  pool.parallel_for(blocks, [&](std::size_t first, std::size_t last) {
    const bool decodes = std::any_of(products.begin(), products.end(),
                                     [&](const Product& p) { return tokens > 1 || info_of(p.weights->format).decode != nullptr; });
    std::vector<float> scratch(decodes ? row_block * products.front().weights->columns : 0);
    std::size_t start = 0;  // the first block of this product
    for (const Product& product : products) {
      const Tensor& w = *product.weights;
      const std::size_t end = start + (w.rows + row_block - 1) / row_block;
      for (std::size_t block = std::max(first, start); block < std::min(last, end); ++block) {
        const std::size_t row = (block - start) * row_block;
        const std::size_t row_end = std::min(row + row_block, w.rows);
        multiply_rows(w, row, row_end, x, tokens, product.out, scratch.data());
      }
      start = end;
    }
  });
}

inline void multiply(const Tensor& weights, const float* x, std::size_t tokens, float* out, ThreadPool& pool) {
  const Product product{&weights, out};
  multiply({&product, 1}, x, tokens, pool);
}

}  // namespace llama
