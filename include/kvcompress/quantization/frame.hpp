// include/kvcompress/quantization/frame.hpp - the frame that the rows of a lane are held in: as they came, or rotated by a block Hadamard.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "kvcompress/kernels/hadamard.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Rows as they came.
struct Plain {
  static constexpr std::string_view name = "plain";
  static constexpr bool changes = false;

  explicit constexpr Plain(std::size_t /*dim*/) noexcept {}
};

/// Fixed signs of the channels of a block: bit i % 64 of the (i / 64)-th number of SplitMix64 from seed 37. Of the first thousand seeds it is the one
/// whose sums with rows of the Hadamard matrix are flattest: in blocks of 16 to 1024 no number of a rotated constant row is above 3.2 times its root mean square.
inline constexpr std::array<float, 1024> hadamard_signs = [] {
  std::array<float, 1024> signs{};
  std::uint64_t state = 37;
  for (std::size_t i = 0; i < signs.size(); i += 64) {
    state += 0x9E3779B97F4A7C15U;
    std::uint64_t bits = state;
    bits = (bits ^ (bits >> 30U)) * 0xBF58476D1CE4E5B9U;
    bits = (bits ^ (bits >> 27U)) * 0x94D049BB133111EBU;
    bits ^= bits >> 31U;
    for (std::size_t bit = 0; bit < 64; ++bit) { signs[i + bit] = (bits >> bit & 1U) != 0 ? -1.0F : 1.0F; }
  }
  return signs;
}();

/// Rows times H / b in blocks of b channels, H the Walsh-Hadamard matrix: one large channel is spread over all of its block, so that a row's numbers
/// are of one size and one scale serves them. b is the largest power of two that divides the width, up to 1024. Queries are multiplied by H, and
/// so are weighted sums of values, since H H / b = 1: no number of a row becomes larger than the largest one that came, so that what half holds, it
/// holds rotated, too. Numbers below 6e-5 b lose digits in half.
///
/// With `Signs`, channels are multiplied by hadamard_signs before H, sums after it: H alone makes one large number of a row whose numbers have one sign.
///
/// Cost: b log2 b additions a row, or a query, or an output.
template <bool Signs>
class HadamardFrame {
 public:
  static constexpr std::string_view name = Signs ? "signs, block hadamard" : "block hadamard";
  static constexpr bool changes = true;
  static constexpr std::size_t most_block = 1024;
  static_assert(hadamard_signs.size() >= most_block);

  explicit constexpr HadamardFrame(std::size_t dim) noexcept : HadamardFrame(dim, std::min(dim & (~dim + 1), most_block)) {}
  /// In blocks of `block` channels, a power of two that divides the width.
  constexpr HadamardFrame(std::size_t dim, std::size_t block) noexcept : dim_(dim), block_(block) {}

  [[nodiscard]] constexpr std::size_t block() const noexcept { return block_; }

  /// Calls put(first channel, numbers, count) for the pieces of a row as it is held.
  void row(const float* x, auto&& put) const noexcept {
    float piece[most_block];
    const float shrink = 1.0F / static_cast<float>(block_);
    for (std::size_t first = 0; first < dim_; first += block_) {
      for (std::size_t i = 0; i < block_; ++i) { piece[i] = x[first + i] * (Signs ? shrink * hadamard_signs[i] : shrink); }
      kernels::walsh_hadamard(piece, block_);
      put(first, static_cast<const float*>(piece), block_);
    }
  }
  /// Queries as held keys meet them: `count` of them, `stride` apart.
  void queries(float* x, std::size_t stride, std::size_t count) const noexcept {
    for_blocks(x, stride, count, [&](float* block) {
      give_signs(block);
      kernels::walsh_hadamard(block, block_);
    });
  }
  /// Sums of held values, or held rows, as they would be of rows as they came.
  void outputs(float* x, std::size_t stride, std::size_t count) const noexcept {
    for_blocks(x, stride, count, [&](float* block) {
      kernels::walsh_hadamard(block, block_);
      give_signs(block);
    });
  }

 private:
  void for_blocks(float* x, std::size_t stride, std::size_t count, auto&& visit) const noexcept {
    for (std::size_t q = 0; q < count; ++q) {
      for (std::size_t first = 0; first < dim_; first += block_) { visit(x + q * stride + first); }
    }
  }
  void give_signs(float* block) const noexcept {
    for (std::size_t i = 0; Signs && i < block_; ++i) { block[i] *= hadamard_signs[i]; }
  }

  std::size_t dim_;
  std::size_t block_;
};

using BlockHadamard = HadamardFrame<false>;
using SignedHadamard = HadamardFrame<true>;

}  // namespace kvcompress
