// include/kvcompress/quantization/code_blocks.hpp - encoded rows in blocks of 128: what all codecs do with blocks as such.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kvcompress/core/blocks.hpp"
#include "kvcompress/core/views.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// How many rows there are and the blocks that hold them: the part of the Codec contract that does not depend on what a block holds. A codec derives
/// from it and adds its own layout. Copies share blocks until one of them writes (see BlockList).
class CodeBlocks {
 public:
  static constexpr std::size_t block_rows = 128;

  [[nodiscard]] std::size_t rows() const noexcept { return rows_; }

  /// Afterwards `more` rows can be encoded without failing.
  void make_room(std::size_t more) {
    blocks_.make_room(blocks_of(rows_ + more) - blocks_.used());
    if (rows_ % block_rows != 0) { static_cast<void>(blocks_.write(blocks_.used() - 1)); }
  }
  void take_room(CodeBlocks& from) noexcept { blocks_.take_room(from.blocks_); }
  void hold() noexcept { blocks_.hold(); }
  void release() noexcept { blocks_.release(); }
  void hold_at_most(std::size_t rows) noexcept { blocks_.keep_exactly(blocks_of(rows)); }
  void reserve(std::size_t rows) { blocks_.reserve(blocks_of(rows)); }
  void unshare() { blocks_.unshare(); }

  /// The first `rows` rows stay.
  void resize(std::size_t rows) noexcept {
    rows_ = rows;
    blocks_.shrink(blocks_of(rows_));
  }
  /// Removes the whole block of rows that starts at row `first`.
  void erase_block(std::size_t first) noexcept {
    blocks_.erase(first / block_rows, 1);
    rows_ -= block_rows;
  }

 protected:
  CodeBlocks(std::size_t block_bytes, const Memory& memory) : blocks_(block_bytes, memory) {}

  static constexpr std::size_t blocks_of(std::size_t rows) noexcept { return (rows + block_rows - 1) / block_rows; }
  /// What `rows` rows take, and can take at most, in blocks of so many bytes.
  static constexpr std::size_t bytes_in_blocks(std::size_t rows, std::size_t block_bytes) noexcept {
    return blocks_of(rows) * BlockList::bytes_per_block(block_bytes);
  }
  static constexpr std::size_t most_bytes_in_blocks(std::size_t rows, std::size_t block_bytes) noexcept {
    return BlockList::most_bytes(blocks_of(rows), block_bytes);
  }

  [[nodiscard]] const std::byte* block_of(std::size_t row) const noexcept { return blocks_.read(row / block_rows); }
  [[nodiscard]] std::byte* block_to_write(std::size_t row) { return blocks_.write(row / block_rows); }
  /// The block to fetch while that of `row` is read: so many behind it, if the range runs on to it.
  [[nodiscard]] const std::byte* block_ahead(std::size_t row, RowRange range, std::size_t distance = 1) const noexcept {
    const std::size_t next = row / block_rows + distance;
    return next < blocks_.used() && range.size() >= block_rows ? blocks_.read(next) : nullptr;
  }
  /// The block that the next row goes to: a new one, of zeros, where the last is full.
  [[nodiscard]] std::byte* block_of_next() {
    if (rows_ % block_rows == 0) { blocks_.grow_zeroed(); }
    return block_to_write(rows_);
  }
  void add_rows(std::size_t count) noexcept { rows_ += count; }

  /// Saves or loads `rows` rows; content(block, rows in it) names what a block holds to the archive. `bytes_per_row`: at least so many are to come.
  static void persist_blocks(auto& self, auto& archive, std::size_t rows, std::size_t bytes_per_row, auto&& content) {
    if constexpr (std::remove_reference_t<decltype(archive)>::reads) {
      archive.expect(rows, bytes_per_row);
      self.rows_ = rows;
    }
    BlockList::persist(self.blocks_, archive, blocks_of(rows), false,
                       [&](auto* block, std::size_t index) { content(block, std::min(block_rows, rows - index * block_rows)); });
  }
  void account_blocks(MemoryReport& report, std::size_t codes, std::size_t numbers) const noexcept {
    blocks_.account(report);
    report.codes += codes;
    report.scales += numbers;
    report.spare += blocks_.used() * (blocks_.block_bytes() - sizeof(std::uint32_t)) - codes - numbers;
  }

 private:
  std::size_t rows_ = 0;
  BlockList blocks_;
};

}  // namespace kvcompress
