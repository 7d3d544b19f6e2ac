// include/kvcompress/quantization/per_token.hpp - KIVI's value codes: groups of consecutive channels of one token.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kvcompress/core/blocks.hpp"
#include "kvcompress/core/views.hpp"
#include "kvcompress/kernels/packed.hpp"
#include "kvcompress/quantization/group_quantizer.hpp"

namespace kvcompress {

/// Value rows as codes of `Bits` bits, quantised per token over `Group` consecutive channels (a shorter last group where Group does
/// not divide the head size), in blocks of 128 rows. Weighted sums come from the codes: sum_t p_t v_t = sum_t (p_t * scale_t) *
/// code_t + sum_t p_t * minimum_t. A row is independent of all others, so rows move without loss.
///
/// A block is [codes: (128, dim), channels packed][scales: (groups, 128)][minima: (groups, 128)].
/// Memory: Bits + 2 * 8 * sizeof(Scale) / Group bits per number, channels padded to a multiple of 8.
template <int Bits, std::size_t Group, class Scale>
class PerToken {
  static_assert(Group % kernels::unit == 0, "Group must be a multiple of 8 channels");
  using Quantizer = GroupQuantizer<Bits, Scale>;

 public:
  using exact_type = Scale;
  static constexpr std::size_t block_rows = 128;
  static constexpr std::size_t row_multiple = 1;  ///< rows are encoded this many at a time

  PerToken(std::size_t dim, const Memory& memory) : dim_(dim), blocks_(block_bytes(dim), memory) {}

  [[nodiscard]] std::size_t rows() const noexcept { return rows_; }

  /// Encodes `count` rows, `dim` floats each, one behind the other.
  void append(const float* rows, std::size_t count) {
    for (; count > 0; --count, rows += dim_) {
      if (rows_ % block_rows == 0) { blocks_.grow(); }
      encode(rows, blocks_.write(rows_ / block_rows), rows_ % block_rows);
      ++rows_;
    }
  }
  void read(std::size_t row, float* out) const noexcept {
    for (std::size_t c = 0; c < dim_; ++c) { out[c] = Quantizer::decode(code(row, c), scale(row, c), minimum(row, c)); }
  }
  /// Codes, scale and minimum of one number, for tests and interchange.
  [[nodiscard]] std::uint8_t code(std::size_t row, std::size_t c) const noexcept {
    return kernels::code_at<Bits>(codes(block_of(row)) + row % block_rows * row_bytes(dim_), c);
  }
  [[nodiscard]] Scale scale(std::size_t row, std::size_t c) const noexcept {
    return scales(block_of(row))[c / Group * block_rows + row % block_rows];
  }
  [[nodiscard]] Scale minimum(std::size_t row, std::size_t c) const noexcept {
    return minima(block_of(row))[c / Group * block_rows + row % block_rows];
  }

  /// Row `from` overwrites row `to`, code by code.
  void move(std::size_t from, std::size_t to) {
    std::byte* target = blocks_.write(to / block_rows);
    const std::byte* source = block_of(from);
    const std::size_t f = from % block_rows;
    const std::size_t t = to % block_rows;
    std::memmove(target + t * row_bytes(dim_), source + f * row_bytes(dim_), row_bytes(dim_));
    auto* numbers = reinterpret_cast<Scale*>(target + block_rows * row_bytes(dim_));
    for (std::size_t g = 0; g < 2 * groups(dim_); ++g) { numbers[g * block_rows + t] = scales(source)[g * block_rows + f]; }
  }
  void resize(std::size_t rows) noexcept {
    rows_ = rows;
    blocks_.shrink((rows_ + block_rows - 1) / block_rows);
  }
  /// Removes the whole block of rows that starts at row `first`.
  void erase_block(std::size_t first) noexcept {
    blocks_.erase(first / block_rows, 1);
    rows_ -= block_rows;
  }

  void accumulate(RowRange range, const float* weights, std::size_t weight_stride, std::size_t query_count, float* out,
                  std::size_t out_stride, float* scratch) const noexcept {
    float* folded = scratch;                               // (queries, 128)
    float* offsets = folded + query_count * block_rows;    // (queries)
    for (std::size_t row = range.first; row < range.last;) {
      const std::byte* block = block_of(row);
      const std::size_t first = row % block_rows;
      const std::size_t count = std::min(range.last - row, block_rows - first);
      const float* weight = weights + (row - range.first);
      for (std::size_t g = 0; g < groups(dim_); ++g) {
        const std::size_t place = g * block_rows + first;
        for (std::size_t q = 0; q < query_count; ++q) {
          offsets[q] = kernels::fold(weight + q * weight_stride, scales(block) + place, minima(block) + place, count, folded + q * block_rows);
        }
        const std::size_t end = std::min((g + 1) * Group, dim_);
        const std::uint8_t* first_codes = codes(block) + first * row_bytes(dim_);
        std::size_t c = g * Group;
        for (; c + 2 * kernels::unit <= end; c += 2 * kernels::unit) {
          kernels::mix_units<Bits, 2>(first_codes + c / kernels::unit * Bits, row_bytes(dim_), count, folded, block_rows, offsets, query_count,
                                      out + c, out_stride);
        }
        for (; c < end; c += kernels::unit) {
          kernels::mix_units<Bits, 1>(first_codes + c / kernels::unit * Bits, row_bytes(dim_), count, folded, block_rows, offsets, query_count,
                                      out + c, out_stride);
        }
      }
      row += count;
    }
  }
  static constexpr std::size_t scratch_floats(std::size_t /*dim*/, std::size_t queries) noexcept {
    return queries * (block_rows + 1);
  }

  [[nodiscard]] static constexpr std::size_t bytes_for(std::size_t rows, std::size_t dim) noexcept {
    return (rows + block_rows - 1) / block_rows * BlockList::bytes_per_block(block_bytes(dim));
  }
  void reserve(std::size_t rows) { blocks_.reserve((rows + block_rows - 1) / block_rows); }
  void unshare() { blocks_.unshare(); }
  void account(MemoryReport& report) const noexcept {
    blocks_.account(report);
    const std::size_t numbers = 2 * groups(dim_) * sizeof(Scale);
    report.codes += rows_ * row_bytes(dim_);
    report.scales += rows_ * numbers;
    report.spare += blocks_.used() * (blocks_.block_bytes() - sizeof(std::uint32_t)) - rows_ * (row_bytes(dim_) + numbers);
  }

 private:
  static constexpr std::size_t groups(std::size_t dim) noexcept { return (dim + Group - 1) / Group; }
  static constexpr std::size_t row_bytes(std::size_t dim) noexcept { return (dim + kernels::unit - 1) / kernels::unit * Bits; }
  static constexpr std::size_t block_bytes(std::size_t dim) noexcept {
    return block_rows * (row_bytes(dim) + 2 * groups(dim) * sizeof(Scale));
  }

  [[nodiscard]] const std::byte* block_of(std::size_t row) const noexcept { return blocks_.read(row / block_rows); }
  static const std::uint8_t* codes(const std::byte* block) noexcept { return reinterpret_cast<const std::uint8_t*>(block); }
  [[nodiscard]] const Scale* scales(const std::byte* block) const noexcept {
    return reinterpret_cast<const Scale*>(block + block_rows * row_bytes(dim_));
  }
  [[nodiscard]] const Scale* minima(const std::byte* block) const noexcept { return scales(block) + groups(dim_) * block_rows; }

  void encode(const float* row, std::byte* block, std::size_t place) noexcept {
    auto* packed = reinterpret_cast<std::uint8_t*>(block) + place * row_bytes(dim_);
    auto* scale = reinterpret_cast<Scale*>(block + block_rows * row_bytes(dim_));
    for (std::size_t g = 0; g < groups(dim_); ++g) {
      const std::size_t end = std::min((g + 1) * Group, dim_);
      const Quantizer quantizer(row + g * Group, end - g * Group, 1);
      scale[g * block_rows + place] = quantizer.scale;
      scale[(groups(dim_) + g) * block_rows + place] = quantizer.minimum;
      for (std::size_t c = g * Group; c < end; c += kernels::unit) {
        std::uint8_t eight[kernels::unit] = {};
        for (std::size_t i = 0; i < std::min(kernels::unit, end - c); ++i) { eight[i] = quantizer.encode(row[c + i]); }
        kernels::pack<Bits>(eight, packed + c / kernels::unit * Bits);
      }
    }
  }

  std::size_t dim_;
  std::size_t rows_ = 0;
  BlockList blocks_;
};

}  // namespace kvcompress
