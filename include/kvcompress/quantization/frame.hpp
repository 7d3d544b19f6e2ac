// include/kvcompress/quantization/frame.hpp - the frame that the rows of a lane are held in: as they came, or rotated by a block Hadamard.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <string_view>

#include "kvcompress/kernels/hadamard.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Rows as they came.
struct Plain {
  static constexpr std::string_view name = "plain";
  static constexpr bool changes = false;

  explicit constexpr Plain(std::size_t /*dim*/) noexcept {}
};

/// Rows times H / b in blocks of b channels, H the Walsh-Hadamard matrix: one large channel is spread over all of its block, so that a row's numbers
/// are of one size and one scale serves them. b is the largest power of two that divides the width, up to 1024. Queries are multiplied by H, and
/// so are weighted sums of values, since H H / b = 1: no number of a row becomes larger than the largest one that came, so that what half holds, it
/// holds rotated, too. Numbers below 6e-5 b lose digits in half.
///
/// Cost: b log2 b additions a row, or a query, or an output.
class BlockHadamard {
 public:
  static constexpr std::string_view name = "block hadamard";
  static constexpr bool changes = true;
  static constexpr std::size_t most_block = 1024;

  explicit constexpr BlockHadamard(std::size_t dim) noexcept : BlockHadamard(dim, std::min(dim & (~dim + 1), most_block)) {}
  /// In blocks of `block` channels, a power of two that divides the width.
  constexpr BlockHadamard(std::size_t dim, std::size_t block) noexcept : dim_(dim), block_(block) {}

  [[nodiscard]] constexpr std::size_t block() const noexcept { return block_; }

  /// Calls put(first channel, numbers, count) for the pieces of a row as it is held.
  void row(const float* x, auto&& put) const noexcept {
    float piece[most_block];
    const float shrink = 1.0F / static_cast<float>(block_);
    for (std::size_t first = 0; first < dim_; first += block_) {
      for (std::size_t i = 0; i < block_; ++i) { piece[i] = x[first + i] * shrink; }
      kernels::walsh_hadamard(piece, block_);
      put(first, static_cast<const float*>(piece), block_);
    }
  }
  /// Queries as held keys meet them; sums of held values, or held rows, as they would be of rows as they came: `count` of them, `stride` apart.
  void queries(float* x, std::size_t stride, std::size_t count) const noexcept {
    for (std::size_t q = 0; q < count; ++q) {
      for (std::size_t first = 0; first < dim_; first += block_) { kernels::walsh_hadamard(x + q * stride + first, block_); }
    }
  }
  void outputs(float* x, std::size_t stride, std::size_t count) const noexcept { queries(x, stride, count); }

 private:
  std::size_t dim_;
  std::size_t block_;
};

}  // namespace kvcompress
