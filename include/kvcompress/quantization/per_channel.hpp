// include/kvcompress/quantization/per_channel.hpp - KIVI's key codes: groups of consecutive tokens of one channel.
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

/// Key rows as codes of `Bits` bits, quantised per channel over `Group` consecutive rows, in blocks of 128 rows. Rows arrive in whole
/// groups and never move. Logits come from the codes: q . k = sum_c (q_c * scale_c) * code_c + q . minimum, the fold done once a group.
///
/// A block is a row of groups; a group is [codes: (dim, Group), tokens packed][scales: dim][minima: dim].
/// Memory: Bits + 2 * 8 * sizeof(Scale) / Group bits per number.
template <int Bits, std::size_t Group, class Scale>
class PerChannel {
  static_assert(Group % kernels::unit == 0 && 128 % Group == 0, "Group must be 8, 16, 32, 64 or 128");
  using Quantizer = GroupQuantizer<Bits, Scale>;

 public:
  using exact_type = Scale;
  static constexpr std::size_t block_rows = 128;
  static constexpr std::size_t row_multiple = Group;  ///< rows are encoded this many at a time

  PerChannel(std::size_t dim, const Memory& memory) : dim_(dim), blocks_(block_rows / Group * group_bytes(dim), memory) {}

  [[nodiscard]] std::size_t rows() const noexcept { return rows_; }

  /// Encodes `count` rows (a multiple of Group), `dim` floats each, one behind the other.
  void append(const float* rows, std::size_t count) {
    for (; count > 0; count -= Group, rows += Group * dim_) {
      if (rows_ % block_rows == 0) { blocks_.grow(); }
      replace(rows_, rows);
      rows_ += Group;
    }
  }
  /// Encodes Group rows in the place of the group that starts at row `first`.
  void replace(std::size_t first, const float* rows) {
    encode(rows, blocks_.write(first / block_rows) + first % block_rows / Group * group_bytes(dim_));
  }
  void read(std::size_t row, float* out) const noexcept {
    const std::byte* group = group_of(row / Group);
    for (std::size_t c = 0; c < dim_; ++c) {
      out[c] = Quantizer::decode(kernels::code_at<Bits>(channel(group, c), row % Group), scales(group)[c], minima(group)[c]);
    }
  }
  /// Codes, scale and minimum of one number, for tests and interchange.
  [[nodiscard]] std::uint8_t code(std::size_t row, std::size_t c) const noexcept {
    return kernels::code_at<Bits>(channel(group_of(row / Group), c), row % Group);
  }
  [[nodiscard]] Scale scale(std::size_t row, std::size_t c) const noexcept { return scales(group_of(row / Group))[c]; }
  [[nodiscard]] Scale minimum(std::size_t row, std::size_t c) const noexcept { return minima(group_of(row / Group))[c]; }

  void scores(RowRange range, const float* queries, std::size_t query_stride, std::size_t query_count, float* logits,
              std::size_t logit_stride, float* scratch) const noexcept {
    float* folded = scratch;                             // (queries, dim)
    float* offsets = folded + query_count * dim_;        // (queries)
    float* edge = offsets + query_count;                 // (queries, 8), a unit of which the range holds a part
    for (std::size_t g = range.first / Group; g * Group < range.last; ++g) {
      const std::byte* group = group_of(g);
      for (std::size_t q = 0; q < query_count; ++q) {
        offsets[q] = kernels::fold(queries + q * query_stride, scales(group), minima(group), dim_, folded + q * dim_);
      }
      const std::size_t first = std::max(g * Group, range.first);
      kernels::dot_tokens<Bits>(channel(group, 0), channel_bytes, dim_, first - g * Group, std::min((g + 1) * Group, range.last) - first, folded, dim_,
                                offsets, query_count, logits + (first - range.first), logit_stride, edge);
    }
  }
  static constexpr std::size_t scratch_floats(std::size_t dim, std::size_t queries) noexcept {
    return queries * (dim + 1 + kernels::unit);
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
  [[nodiscard]] static constexpr std::size_t bytes_for(std::size_t rows, std::size_t dim) noexcept {
    return (rows + block_rows - 1) / block_rows * BlockList::bytes_per_block(block_rows / Group * group_bytes(dim));
  }
  void reserve(std::size_t rows) { blocks_.reserve((rows + block_rows - 1) / block_rows); }
  void unshare() { blocks_.unshare(); }
  void account(MemoryReport& report) const noexcept {
    blocks_.account(report);
    const std::size_t groups = rows_ / Group;
    report.codes += groups * code_bytes(dim_);
    report.scales += groups * 2 * dim_ * sizeof(Scale);
    report.spare += blocks_.used() * (blocks_.block_bytes() - sizeof(std::uint32_t)) - groups * group_bytes(dim_);
  }

 private:
  static constexpr std::size_t channel_bytes = Group / kernels::unit * Bits;
  static constexpr std::size_t code_bytes(std::size_t dim) noexcept { return (dim * channel_bytes + 3) / 4 * 4; }
  static constexpr std::size_t group_bytes(std::size_t dim) noexcept { return code_bytes(dim) + 2 * dim * sizeof(Scale); }

  [[nodiscard]] const std::byte* group_of(std::size_t group) const noexcept {
    constexpr std::size_t per_block = block_rows / Group;
    return blocks_.read(group / per_block) + group % per_block * group_bytes(dim_);
  }
  static const std::uint8_t* channel(const std::byte* group, std::size_t c) noexcept {
    return reinterpret_cast<const std::uint8_t*>(group) + c * channel_bytes;
  }
  [[nodiscard]] const Scale* scales(const std::byte* group) const noexcept {
    return reinterpret_cast<const Scale*>(group + code_bytes(dim_));
  }
  [[nodiscard]] const Scale* minima(const std::byte* group) const noexcept { return scales(group) + dim_; }

  void encode(const float* rows, std::byte* group) noexcept {
    auto* codes = reinterpret_cast<std::uint8_t*>(group);
    auto* scale = reinterpret_cast<Scale*>(group + code_bytes(dim_));
    for (std::size_t c = 0; c < dim_; ++c) {
      const Quantizer quantizer(rows + c, Group, dim_);
      scale[c] = quantizer.scale;
      scale[dim_ + c] = quantizer.minimum;
      for (std::size_t u = 0; u < Group / kernels::unit; ++u) {
        std::uint8_t eight[kernels::unit];
        for (std::size_t i = 0; i < kernels::unit; ++i) { eight[i] = quantizer.encode(rows[(u * kernels::unit + i) * dim_ + c]); }
        kernels::pack<Bits>(eight, codes + c * channel_bytes + u * Bits);
      }
    }
  }

  std::size_t dim_;
  std::size_t rows_ = 0;
  BlockList blocks_;
};

}  // namespace kvcompress
