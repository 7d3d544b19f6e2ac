// include/kvcompress/low_rank/factor.hpp - rows held as a product: a basis row per token, shared by lanes, times the lane's coefficients.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "kvcompress/core/blocks.hpp"
#include "kvcompress/core/soon_needed.hpp"
#include "kvcompress/core/views.hpp"
#include "kvcompress/kernels/exact.hpp"
#include "kvcompress/kernels/pairs.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Row t of a lane is basis[t] * coefficients: (rows, rank) times (rank, dim), both in T. The basis lies in blocks of 128 rows that all lanes
/// of the factorisation hold together, each in a list of its own, so that each can drop dead blocks; the last holder frees them.
///
/// Memory: rows * rank * sizeof(T) for all lanes together, rank * dim * sizeof(T) per lane, 12 bytes per block and lane.
template <class T>
class Factor {
 public:
  static constexpr std::size_t block_rows = 128;

  Factor(std::size_t dim, const Memory& memory) : dim_(dim), basis_(0, memory), coefficients_(0, memory) {}

  [[nodiscard]] std::size_t rows() const noexcept { return rows_; }
  [[nodiscard]] std::size_t rank() const noexcept { return rank_; }
  [[nodiscard]] std::size_t dim() const noexcept { return dim_; }
  [[nodiscard]] const BlockList& basis() const noexcept { return basis_; }
  [[nodiscard]] const BlockList& coefficients() const noexcept { return coefficients_; }
  [[nodiscard]] const T* basis_row(std::size_t row) const noexcept {
    return reinterpret_cast<const T*>(basis_.read(row / block_rows)) + row % block_rows * rank_;
  }
  [[nodiscard]] const T* coefficient_rows() const noexcept { return reinterpret_cast<const T*>(coefficients_.read(0)); }

  static constexpr std::size_t basis_block_bytes(std::size_t rank) noexcept { return block_rows * rank * sizeof(T); }
  /// Replaces everything. Cannot fail.
  void adopt(std::size_t rows, std::size_t rank, BlockList&& basis, BlockList&& coefficients) noexcept {
    rows_ = rows;
    rank_ = rank;
    basis_ = std::move(basis);
    coefficients_ = std::move(coefficients);
  }
  /// Replaces the basis by a longer one of the same rank. Cannot fail.
  void adopt_basis(std::size_t rows, BlockList&& basis) noexcept {
    rows_ = rows;
    basis_ = std::move(basis);
  }

  /// What rebuild needs of `scratch` for up to `count` rows at once, in floats.
  [[nodiscard]] std::size_t rebuild_floats(std::size_t count) const noexcept {
    if constexpr (by_pairs) {
      return kernels::pair_words(rank_, dim_);
    } else {
      return count * kernels::padded(rank_);
    }
  }
  /// Must come before rebuild, once for any number of calls with that scratch.
  void prepare_rebuild(float* scratch) const noexcept {
    if constexpr (by_pairs) {
      if (rank_ > 0) { kernels::interleave_pairs(coefficient_rows(), rank_, dim_, reinterpret_cast<std::uint32_t*>(scratch)); }
    }
  }
  /// Multiplies out rows [first, first + count): out[r] (stride out_stride, padded). `scratch`: rebuild_floats(count). Asks for `soon`
  /// meanwhile if T is bfloat16.
  /// Cost: 2 * count * rank * dim operations.
  void rebuild(std::size_t first, std::size_t count, float* out, std::size_t out_stride, float* scratch,
               SoonNeeded soon = {}) const noexcept {
    if constexpr (by_pairs) {
      const auto* pairs = reinterpret_cast<const std::uint32_t*>(scratch);
      for (std::size_t done = 0; rank_ > 0 && done < count;) {
        const std::size_t now = std::min(count - done, block_rows - (first + done) % block_rows);
        kernels::multiply_pairs(basis_row(first + done), now, rank_, pairs, dim_, out + done * out_stride, out_stride, soon);
        done += now;
      }
      if (rank_ > 0) { return; }
    }
    const std::size_t stride = kernels::padded(rank_);
    for (std::size_t r = 0; r < count; ++r) {
      if (rank_ > 0) { kernels::widen(basis_row(first + r), scratch + r * stride, rank_); }
      std::fill_n(out + r * out_stride, kernels::padded(dim_), 0.0F);
    }
    if (rank_ > 0) { kernels::mix_rows(coefficient_rows(), rank_, dim_, scratch, stride, count, out, out_stride); }
  }
  /// Multiplies out one row, for inspection.
  void read(std::size_t row, float* out) const noexcept {
    std::fill_n(out, dim_, 0.0F);
    for (std::size_t k = 0; k < rank_; ++k) {
      const auto weight = static_cast<float>(basis_row(row)[k]);
      for (std::size_t c = 0; c < dim_; ++c) { out[c] += weight * static_cast<float>(coefficient_rows()[k * dim_ + c]); }
    }
  }
  /// out[q] += sum over r of weights[q][r - range.first] * row r, by way of the basis: no row is multiplied out. `scratch`: queries *
  /// padded(rank) floats. Cost: 2 * queries * rank * (rows + dim) operations.
  void accumulate(RowRange range, const float* weights, std::size_t weight_stride, std::size_t query_count, float* out,
                  std::size_t out_stride, float* scratch) const noexcept {
    if (rank_ == 0) { return; }
    const std::size_t stride = kernels::padded(rank_);
    std::fill_n(scratch, query_count * stride, 0.0F);
    for (std::size_t row = range.first; row < range.last;) {
      const std::size_t count = std::min(range.last - row, block_rows - row % block_rows);
      kernels::mix_rows(basis_row(row), count, rank_, weights + (row - range.first), weight_stride, query_count, scratch, stride);
      row += count;
    }
    kernels::mix_rows(coefficient_rows(), rank_, dim_, scratch, stride, query_count, out, out_stride);
  }

  /// Removes the whole block of rows that starts at row `first`.
  void erase_block(std::size_t first) noexcept {
    basis_.erase(first / block_rows, 1);
    rows_ -= block_rows;
  }

  /// `rows`: of the factor.
  static void persist(auto& self, auto& archive, std::size_t rows) {
    if (rows == 0) { return; }
    std::size_t rank = self.rank_;
    archive.count(rank, self.dim_ * sizeof(T));
    if constexpr (std::remove_reference_t<decltype(archive)>::reads) {
      self.adopt(rows, rank, BlockList(basis_block_bytes(rank), archive.memory()),
                 BlockList(rank * self.dim_ * sizeof(T), archive.memory()));
    }
    BlockList::persist(self.coefficients_, archive, 1, false,
                       [&](auto* block, std::size_t) { archive.bytes(block, rank * self.dim_ * sizeof(T)); });
    BlockList::persist(self.basis_, archive, (rows + block_rows - 1) / block_rows, true, [&](auto* block, std::size_t index) {
      archive.bytes(block, std::min(block_rows, rows - index * block_rows) * rank * sizeof(T));
    });
  }
  /// For a deep copy of all lanes: they share blocks with each other, and with nobody else. member(i) is the factor of lane i.
  static void unshare(std::size_t members, auto&& member) {
    const BlockList before(member(0).basis_);
    for (std::size_t m = 0; m < members; ++m) {
      Factor& factor = member(m);
      factor.coefficients_.unshare();
      if (m > 0 && factor.same_blocks(before)) {
        factor.basis_ = BlockList(member(0).basis_);
      } else {
        factor.basis_.unshare();
      }
    }
  }
  /// Adds the bytes of all lanes; a block that several of them hold counts once. shared(i): a fork holds all of lane i too.
  static void account(std::size_t members, auto&& member, auto&& shared, MemoryReport& report) noexcept {
    for (std::size_t m = 0; m < members; ++m) {
      const Factor& factor = member(m);
      report.add_held(shared(m), [&](MemoryReport& all) {
        factor.basis_.account_table(all);
        factor.coefficients_.account(all);
        all.factors += factor.coefficients_.used() * (factor.coefficients_.block_bytes() - sizeof(std::uint32_t));
      });
      for (std::size_t b = 0; b < factor.basis_.used(); ++b) {
        const std::byte* block = factor.basis_.read(b);
        std::size_t holders = 0;
        bool counted = false;
        bool held_by_fork = false;
        for (std::size_t other = 0; other < members; ++other) {
          if (!member(other).basis_.uses(block, b)) { continue; }
          ++holders;
          counted = counted || other < m;
          held_by_fork = held_by_fork || shared(other);
        }
        if (counted) { continue; }
        report.add_held(held_by_fork || factor.basis_.holders(b) > holders, [&](MemoryReport& all) {
          const std::size_t used = std::min(block_rows, factor.rows_ - b * block_rows) * factor.rank_ * sizeof(T);
          all.factors += used;
          all.indices += sizeof(std::uint32_t);
          all.spare += factor.basis_.block_bytes() - sizeof(std::uint32_t) - used;
        });
      }
    }
  }

 private:
  static constexpr bool by_pairs = std::is_same_v<T, bfloat16>;

  [[nodiscard]] bool same_blocks(const BlockList& other) const noexcept {
    bool same = basis_.used() == other.used();
    for (std::size_t b = 0; same && b < other.used(); ++b) { same = basis_.read(b) == other.read(b); }
    return same;
  }

  std::size_t dim_;
  std::size_t rows_ = 0;
  std::size_t rank_ = 0;
  BlockList basis_;         // blocks of (128, rank)
  BlockList coefficients_;  // one block: (rank, dim)
};

}  // namespace kvcompress
