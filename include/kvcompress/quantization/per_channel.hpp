// include/kvcompress/quantization/per_channel.hpp - KIVI's key codes: groups of consecutive tokens of one channel.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "kvcompress/core/views.hpp"
#include "kvcompress/kernels/codes.hpp"
#include "kvcompress/quantization/code_blocks.hpp"
#include "kvcompress/quantization/encode_rows.hpp"
#include "kvcompress/quantization/group_quantizer.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Key rows as codes of `Bits` bits, quantised per channel over `Group` consecutive rows (0: options.group of them), in blocks of 128 rows. Rows arrive in whole
/// groups and never move. Logits come from the codes: q . k = sum_c (q_c * scale_c) * code_c + q . minimum, the fold done once a group.
///
/// A block is [codes: strips of 16 rows][scales: (groups, dim)][minima: (groups, dim)].
/// Memory: Bits + 2 * 8 * sizeof(Scale) / group bits per number, channels padded to a multiple of Strip::step_multiple.
template <int Bits, std::size_t Group, class Scale>
class PerChannel : public CodeBlocks {
  static_assert(Group == 0 || (Group % 8 == 0 && 128 % Group == 0), "Group must be 8, 16, 32, 64 or 128, or 0");
  using Quantizer = GroupQuantizer<Bits, Scale>;
  using Strip = kernels::Strip<Bits>;

 public:
  using exact_type = Scale;
  static constexpr std::size_t row_multiple = Group == 0 ? 8 : Group;  ///< rows are encoded in multiples of it

  PerChannel(const auto& options, std::size_t dim, const Memory& memory)
      : CodeBlocks(block_bytes(dim, rows_at_once(options)), memory), dim_(dim), shift_(shift_of(rows_at_once(options))),
        accumulation_(options.accumulation) {}
  PerChannel(std::size_t dim, const Memory& memory) requires(Group != 0)
      : CodeBlocks(block_bytes(dim, Group), memory), dim_(dim), shift_(shift_of(Group)) {}

  /// The rows of a group: 8, 16, 32, 64 or 128.
  [[nodiscard]] static constexpr std::size_t rows_at_once(const auto& options) noexcept {
    if constexpr (Group == 0) {
      return options.group;
    } else {
      return Group;
    }
  }
  [[nodiscard]] std::size_t rows_at_once() const noexcept { return std::size_t{1} << shift_; }

  /// Encodes `count` rows (whole groups), `dim` floats each, one behind the other.
  void append(const float* rows, std::size_t count) {
    const std::size_t group = rows_at_once();
    for (; count > 0; count -= group, rows += group * dim_) {
      encode(rows, block_of_next(), this->rows() % block_rows);
      add_rows(group);
    }
  }
  /// Encodes a group of rows in the place of the group that starts at row `first`.
  void replace(std::size_t first, const float* rows) { encode(rows, block_to_write(first), first % block_rows); }
  void read(std::size_t row, float* out) const noexcept {
    for (std::size_t c = 0; c < dim_; ++c) { out[c] = Quantizer::decode(code(row, c), scale(row, c), minimum(row, c)); }
  }
  /// Codes, scale and minimum of one number, for tests and interchange.
  [[nodiscard]] std::uint8_t code(std::size_t row, std::size_t c) const noexcept {
    return Strip::get(strip(block_of(row), row % block_rows), dim_, row % Strip::lanes, c);
  }
  [[nodiscard]] Scale scale(std::size_t row, std::size_t c) const noexcept { return scales(block_of(row))[group_of(row) * dim_ + c]; }
  [[nodiscard]] Scale minimum(std::size_t row, std::size_t c) const noexcept { return minima(block_of(row))[group_of(row) * dim_ + c]; }

  void scores(RowRange range, const float* queries, std::size_t query_stride, std::size_t query_count, float* logits,
              std::size_t logit_stride, float* scratch) const noexcept {
    kernels::with_accumulation<Bits>(accumulation_, [&]<Accumulation Mode>() {
      kernels::CodeProducts<Bits, Mode> products(scratch, query_count, dim_);
      const std::size_t length = rows_at_once();
      const std::size_t first = range.first >> shift_ << shift_;
      products.take_keys(queries, query_stride, dim_, (range.last - first + length - 1) >> shift_,
                         [&](std::size_t g) { return scales(block_of(first + g * length)) + group_of(first + g * length) * dim_; });
      for (std::size_t group = first; group < range.last; group += length) {
        const std::byte* block = block_of(group);
        const std::byte* ahead = block_ahead(group, range, 1);
        const std::byte* later = block_ahead(group, range, 2);  // scales are looked through first, for all the rows of a call
        const std::size_t place = group_of(group) * dim_;
        if (later != nullptr) { kernels::prefetch(scales(later) + place, minima(later) + place, dim_); }
        products.fold_keys(scales(block) + place, minima(block) + place, dim_);
        const std::size_t end = std::min(group + length, range.last);
        for (std::size_t row = std::max(group, range.first); row < end;) {
          const std::size_t lane = row % Strip::lanes;
          const std::size_t count = std::min(end - row, Strip::lanes - lane);
          products.template strip<false>(strip(block, row % block_rows), dim_, 0, Strip::padded(dim_),
                                         ahead == nullptr ? nullptr : strip(ahead, row % block_rows), lane, lane + count,
                                         logits + (row - range.first), logit_stride);
          row += count;
        }
      }
    });
  }
  static constexpr std::size_t scratch_floats(std::size_t dim, std::size_t queries) noexcept {
    return kernels::CodeProducts<Bits, Accumulation::exact>::floats(queries, dim);
  }

  [[nodiscard]] static constexpr std::size_t bytes_for(std::size_t rows, std::size_t dim, const auto& options) noexcept {
    return bytes_in_blocks(rows, block_bytes(dim, rows_at_once(options)));
  }
  [[nodiscard]] static constexpr std::size_t most_bytes(std::size_t rows, std::size_t dim, const auto& options) noexcept {
    return most_bytes_in_blocks(rows, block_bytes(dim, rows_at_once(options)));
  }
  static void describe(auto&& fact) {
    fact("form", "codes per channel");
    fact("bits", Bits);
    if constexpr (Group != 0) { fact("group", Group); }
    fact("scales", number_name<Scale>);
  }
  static void persist(auto& self, auto& archive, std::size_t rows) {
    const std::size_t group = self.rows_at_once();
    archive.check(rows % group == 0, "its codes are not whole groups");
    persist_blocks(self, archive, rows, 2 * self.dim_ * sizeof(Scale) / group, [&](auto* block, std::size_t here) {
      auto* scales = block + code_bytes(self.dim_);
      auto* minima = scales + block_rows / group * self.dim_ * sizeof(Scale);
      archive.bytes(block, (here + Strip::lanes - 1) / Strip::lanes * Strip::bytes(self.dim_));
      archive.bytes(scales, here / group * self.dim_ * sizeof(Scale));
      archive.bytes(minima, here / group * self.dim_ * sizeof(Scale));
    });
  }
  void account(MemoryReport& report) const noexcept {
    account_blocks(report, rows() * Strip::bytes(dim_) / Strip::lanes, (rows() >> shift_) * 2 * dim_ * sizeof(Scale));
  }

 private:
  static constexpr std::size_t code_bytes(std::size_t dim) noexcept { return block_rows / Strip::lanes * Strip::bytes(dim); }
  static constexpr std::size_t block_bytes(std::size_t dim, std::size_t group) noexcept {
    return code_bytes(dim) + block_rows / group * 2 * dim * sizeof(Scale);
  }
  static constexpr unsigned shift_of(std::size_t group) noexcept { return static_cast<unsigned>(std::countr_zero(group)); }
  [[nodiscard]] std::size_t group_of(std::size_t row) const noexcept { return row % block_rows >> shift_; }

  [[nodiscard]] const std::uint8_t* strip(const std::byte* block, std::size_t place) const noexcept {
    return reinterpret_cast<const std::uint8_t*>(block) + place / Strip::lanes * Strip::bytes(dim_);
  }
  [[nodiscard]] const Scale* scales(const std::byte* block) const noexcept {
    return reinterpret_cast<const Scale*>(block + code_bytes(dim_));
  }
  [[nodiscard]] const Scale* minima(const std::byte* block) const noexcept { return scales(block) + (block_rows >> shift_) * dim_; }

  void encode(const float* rows, std::byte* block, std::size_t place) noexcept {
    auto* scale = reinterpret_cast<Scale*>(block + code_bytes(dim_)) + (place >> shift_) * dim_;
    Scale* minimum = scale + (block_rows >> shift_) * dim_;
    const std::size_t group = rows_at_once();
    quantization::fit_channels<Bits>(rows, group, dim_, scale, minimum);
    constexpr std::size_t at_once = 256;  // channels
    std::uint8_t codes[Strip::lanes * at_once];
    for (std::size_t row = 0; row < group; row += Strip::lanes) {
      const std::size_t count = std::min(group, Strip::lanes);
      const std::size_t lane = (place + row) % Strip::lanes;
      auto* to = reinterpret_cast<std::uint8_t*>(block) + (place + row) / Strip::lanes * Strip::bytes(dim_);
      for (std::size_t c = 0; c < dim_; c += at_once) {
        const std::size_t channels = std::min(dim_ - c, at_once);
        quantization::encode_channels<Bits>(rows + row * dim_ + c, count, channels, dim_, scale + c, minimum + c, codes, at_once);
        Strip::put_lanes(to, dim_, lane, lane + count, c, Strip::padded(channels), codes, at_once);
      }
    }
  }

  std::size_t dim_;
  unsigned shift_;  // of the rows of a group
  Accumulation accumulation_ = Accumulation::near_exact;
};

}  // namespace kvcompress
