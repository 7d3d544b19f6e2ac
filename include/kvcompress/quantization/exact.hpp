// include/kvcompress/quantization/exact.hpp - rows kept as they are, in 32 or 16 bits: a store for keys or values.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

#include "kvcompress/concepts.hpp"
#include "kvcompress/core/blocks.hpp"
#include "kvcompress/core/row_table.hpp"
#include "kvcompress/core/soon_needed.hpp"
#include "kvcompress/core/views.hpp"
#include "kvcompress/kernels/exact.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Rows of `dim` numbers of type T (float, half, bfloat16), row-major, in blocks of `BlockRows`. Rows can leave at both ends and move
/// freely.
///
/// Memory: rows * dim * sizeof(T), the unused rest of the outer blocks, 12 bytes per block.
template <class T, std::size_t BlockRows = 32>
class Exact {
 public:
  using exact_type = T;

  Exact(const auto& /*options*/, const Site& /*site*/, std::size_t dim, const Memory& memory) : Exact(dim, memory) {}
  Exact(std::size_t dim, const Memory& memory) : dim_(dim), blocks_(block_rows * dim * sizeof(T), memory) {}

  [[nodiscard]] std::size_t rows() const noexcept { return rows_; }
  /// Rows before this one are encoded and stay where they are; here none.
  [[nodiscard]] static constexpr std::size_t settled() noexcept { return 0; }

  /// Room for `more` rows, writable without cloning, so that the next `more` appends cannot fail.
  void make_room(std::size_t more) {
    const std::size_t needed = (front_ + rows_ + more + block_rows - 1) / block_rows;
    if (needed > blocks_.used()) { blocks_.make_room(needed - blocks_.used()); }
    if ((front_ + rows_) % block_rows != 0) { static_cast<void>(blocks_.write(blocks_.used() - 1)); }
  }
  void append(const float* row) {
    if (front_ + rows_ == blocks_.used() * block_rows) { blocks_.grow(); }
    ++rows_;
    kernels::convert(row, writable(rows_ - 1), dim_);
  }
  /// A row that comes in pieces: pieces(put) calls put(first channel, numbers, count) for each.
  void append_pieces(auto&& pieces) {
    if (front_ + rows_ == blocks_.used() * block_rows) { blocks_.grow(); }
    ++rows_;
    T* to = writable(rows_ - 1);
    pieces([to](std::size_t first, const float* numbers, std::size_t count) { kernels::convert(numbers, to + first, count); });
  }
  /// Afterwards the rows [first, last) can be overwritten, and the one behind those before them appended, without failing.
  void make_writable(std::size_t first, std::size_t last) {
    for (std::size_t place = (front_ + first) / block_rows; first < last && place <= (front_ + last - 1) / block_rows; ++place) {
      static_cast<void>(blocks_.write(place));
    }
  }
  void take_room(Exact& from) noexcept { blocks_.take_room(from.blocks_); }
  /// See BlockList: between these two, room that was made stays.
  void hold() noexcept { blocks_.hold(); }
  void release() noexcept { blocks_.release(); }
  /// Row `from` overwrites row `to`.
  void move(std::size_t from, std::size_t to) {
    T* target = writable(to);  // first: it may clone the block that `from` lies in
    std::copy_n(at(from), dim_, target);
  }
  /// Row `row` becomes `x`, as near as T can hold it.
  void prepare_to_write(std::size_t row) { make_writable(row, row + 1); }
  void write(std::size_t row, const float* x) noexcept {
    write_pieces(row, [&](auto&& put) { put(0, x, dim_); });
  }
  void write_pieces(std::size_t row, auto&& pieces) noexcept {
    T* to = writable(row);
    pieces([to](std::size_t first, const float* x, std::size_t count) {
      for (std::size_t c = 0; c < count; ++c) { to[first + c] = T(std::clamp(x[c], -largest<T>, largest<T>)); }
    });
  }
  void resize(std::size_t rows) noexcept {
    rows_ = rows;
    blocks_.shrink((front_ + rows_ + block_rows - 1) / block_rows);
    if (rows_ == 0) { clear_front(); }
  }
  void pop_front(std::size_t count) noexcept {
    front_ += count;
    rows_ -= count;
    blocks_.erase(0, front_ / block_rows);
    front_ %= block_rows;
    if (rows_ == 0) { clear_front(); }
  }
  /// Removes the rows of whole blocks; only in a store from whose front no row has been popped.
  void erase(std::size_t first, std::size_t count) noexcept {
    blocks_.erase(first / block_rows, count / block_rows);
    rows_ -= count;
  }
  /// For rows whose other half is encoded, so that dead ones lie among them: removes these. The second cannot fail after the first.
  static void prepare_to_compact(std::span<Exact* const> members, const RowTable& /*table*/, Vector<float>& /*scratch*/) {
    for (Exact* member : members) { member->unshare(); }
  }
  static void compact(std::span<Exact* const> members, const RowTable& table, Vector<float>& /*scratch*/) {
    for (Exact* member : members) { member->compact(table, 0, nullptr, 0); }
  }
  /// Removes the dead rows of `table`, keeping the order of the others, and puts `count` rows, `dim` floats each, before them. Row r of this
  /// store is row `first` + r of the table. Cannot fail after unshare() and make_room(count).
  void compact(const RowTable& table, std::size_t first, const float* rows, std::size_t count) {
    std::size_t kept = 0;
    for (std::size_t r = 0; r < rows_; ++r) {
      if (!table.alive(first + r)) { continue; }
      if (kept != r) { move(r, kept); }
      ++kept;
    }
    while (front_ + kept + count > blocks_.used() * block_rows) { blocks_.grow(); }
    for (std::size_t r = kept; count > 0 && r > 0; --r) { move(r - 1, r - 1 + count); }
    for (std::size_t r = 0; r < count; ++r) {  // what codes stand for may lie a step beyond what T can hold
      T* to = writable(r);
      for (std::size_t c = 0; c < dim_; ++c) { to[c] = T(std::clamp(rows[r * dim_ + c], -largest<T>, largest<T>)); }
    }
    resize(kept + count);  // last: it gives up blocks
  }

  void read(std::size_t row, float* out) const noexcept { kernels::widen(at(row), out, dim_); }

  /// logits[q][r - range.first] = queries[q] . row r. Needs no scratch.
  void scores(RowRange range, const float* queries, std::size_t query_stride, std::size_t query_count, float* logits,
              std::size_t logit_stride, float* /*scratch*/) const noexcept {
    for_runs(range, [&](const T* run, const T* ahead, std::size_t offset, std::size_t count) {
      kernels::dot_rows(run, count, dim_, queries, query_stride, query_count, logits + offset, logit_stride, ahead);
    });
  }
  /// out[q] += sum over r of weights[q][r - range.first] * row r. Needs no scratch.
  void accumulate(RowRange range, const float* weights, std::size_t weight_stride, std::size_t query_count, float* out,
                  std::size_t out_stride, float* /*scratch*/) const noexcept {
    for_runs(range, [&](const T* run, const T* ahead, std::size_t offset, std::size_t count) {
      kernels::mix_rows(run, count, dim_, weights + offset, weight_stride, query_count, out, out_stride, ahead);
    });
  }
  /// Asks for the first lines of row `row` and those behind it, after which the hardware follows.
  void fetch(std::size_t row) const noexcept { fetch_soon(at(row), 8 * 64); }
  static constexpr std::size_t scratch_floats(std::size_t /*dim*/, std::size_t /*queries*/) noexcept { return 0; }

  /// Bytes of the blocks that hold `rows` rows.
  [[nodiscard]] static constexpr std::size_t bytes_for(std::size_t rows, std::size_t dim, const auto& /*options*/) noexcept {
    return (rows + block_rows - 1) / block_rows * BlockList::bytes_per_block(block_rows * dim * sizeof(T));
  }
  [[nodiscard]] static constexpr std::size_t most_bytes(const MostRows& rows, std::size_t dim, const auto& /*options*/, const Shape&,
                                                        std::size_t /*at_hand*/) noexcept {
    return BlockList::most_bytes(blocks_of(rows.all() + 1), block_rows * dim * sizeof(T));
  }
  /// The same for rows that leave at the front, and spare blocks.
  [[nodiscard]] static constexpr std::size_t most_bytes_of_recent(std::size_t rows, std::size_t dim, std::size_t spare = 0) noexcept {
    return BlockList::most_bytes(blocks_across(rows) + spare, block_rows * dim * sizeof(T));
  }
  /// Under a budget in bytes: memory for a lane of `rows` rows and the next one stays, and no more.
  void hold_at_most(std::size_t rows) noexcept { blocks_.keep_exactly(blocks_of(rows + 1)); }
  void hold_recent_at_most(std::size_t rows) noexcept { blocks_.keep_exactly(blocks_across(rows)); }
  void reserve(std::size_t rows) { blocks_.reserve(blocks_across(rows)); }
  /// Memory of up to `rows` rows stays here when rows leave.
  void keep(std::size_t rows) noexcept { blocks_.keep(blocks_across(rows)); }
  void unshare() { blocks_.unshare(); }
  /// Clones what will be written first, if a copy holds it too.
  void own_recent() {
    if ((front_ + rows_) % block_rows != 0) { static_cast<void>(blocks_.write(blocks_.used() - 1)); }
  }
  static void describe(auto&& fact) {
    fact("form", "exact");
    fact("numbers", number_name<T>);
  }
  static void persist(auto& self, auto& archive, std::size_t rows) {
    archive.number(self.front_);
    archive.check(self.front_ < block_rows && (rows > 0 || self.front_ == 0), "the first row lies in no block");
    if constexpr (std::remove_reference_t<decltype(archive)>::reads) {
      archive.expect(rows, self.dim_ * sizeof(T));
      self.rows_ = rows;
    }
    const std::size_t end = self.front_ + rows;
    BlockList::persist(self.blocks_, archive, rows == 0 ? 0 : (end + block_rows - 1) / block_rows, false,
                       [&](auto* block, std::size_t index) {
      const std::size_t first = index == 0 ? self.front_ : 0;
      const std::size_t last = std::min(block_rows, end - index * block_rows);
      archive.bytes(block + first * self.dim_ * sizeof(T), (last - first) * self.dim_ * sizeof(T));
    });
  }
  void account(MemoryReport& report) const noexcept {
    blocks_.account(report);
    report.exact_rows += rows_ * dim_ * sizeof(T);
    report.spare += blocks_.used() * (blocks_.block_bytes() - sizeof(std::uint32_t)) - rows_ * dim_ * sizeof(T);
  }

 private:
  static constexpr std::size_t block_rows = BlockRows;

  static constexpr std::size_t blocks_of(std::size_t rows) noexcept { return (rows + block_rows - 1) / block_rows; }
  /// Blocks that `rows` rows can touch, wherever the first one lies.
  static constexpr std::size_t blocks_across(std::size_t rows) noexcept { return rows == 0 ? 0 : (rows + block_rows - 2) / block_rows + 1; }
  [[nodiscard]] const T* at(std::size_t row) const noexcept {
    const std::size_t place = front_ + row;
    return reinterpret_cast<const T*>(blocks_.read(place / block_rows)) + place % block_rows * dim_;
  }
  [[nodiscard]] T* writable(std::size_t row) {
    const std::size_t place = front_ + row;
    return reinterpret_cast<T*>(blocks_.write(place / block_rows)) + place % block_rows * dim_;
  }
  void clear_front() noexcept {
    front_ = 0;
    blocks_.shrink(0);
  }
  /// Calls run(first row, rows to fetch meanwhile or null, offset in the range, rows) for every stretch that lies in one block. What is
  /// fetched is the same place of the next block, if that is whole and the range is long enough to run on to it.
  template <class Run>
  void for_runs(RowRange range, Run&& run) const noexcept {
    for (std::size_t row = range.first; row < range.last;) {
      const std::size_t count = std::min(range.last - row, block_rows - (front_ + row) % block_rows);
      const bool more =
          range.size() >= 4 * block_rows && count == block_rows && front_ + row + 2 * block_rows <= blocks_.used() * block_rows;
      run(at(row), more ? at(row + block_rows) : nullptr, row - range.first, count);
      row += count;
    }
  }

  std::size_t dim_;
  std::size_t front_ = 0;  // rows of the first block that have left
  std::size_t rows_ = 0;
  BlockList blocks_;
};

}  // namespace kvcompress
