// include/kvcompress/core/row_scores.hpp - numbers that a policy keeps for every row: the ready-made State of score-based evictions.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <span>

#include "kvcompress/core/row_table.hpp"

namespace kvcompress {

/// `columns` float scores per row, 0 for a new row; they follow their rows when rows move.
class RowScores {
 public:
  RowScores(std::size_t columns, const Memory& memory) : columns_(columns), scores_(Allocator<float>(memory)) {}

  [[nodiscard]] std::size_t columns() const noexcept { return columns_; }
  [[nodiscard]] std::size_t rows() const noexcept { return scores_.size() / columns_; }
  /// Scores of one row, `columns()` numbers.
  [[nodiscard]] std::span<float> operator[](std::size_t row) noexcept { return {scores_.data() + row * columns_, columns_}; }
  [[nodiscard]] std::span<const float> operator[](std::size_t row) const noexcept {
    return {scores_.data() + row * columns_, columns_};
  }

  void reserve(std::size_t rows) {
    if (scores_.capacity() < rows * columns_) { scores_.reserve(std::max(rows * columns_, 2 * scores_.capacity())); }
  }
  void resize(std::size_t rows) { scores_.resize(rows * columns_); }
  void move(std::size_t from, std::size_t to) noexcept {
    for (std::size_t c = 0; c < columns_; ++c) { scores_[to * columns_ + c] = scores_[from * columns_ + c]; }
  }
  void erase(std::size_t first, std::size_t count) noexcept {
    const auto begin = scores_.begin() + static_cast<std::ptrdiff_t>(first * columns_);
    scores_.erase(begin, begin + static_cast<std::ptrdiff_t>(count * columns_));
  }
  void compact(std::size_t slack) { RowTable::compact_vector(scores_, slack * columns_); }
  [[nodiscard]] Allocator<float> allocator() const noexcept { return scores_.get_allocator(); }
  void account(MemoryReport& report) const noexcept { report.add(&MemoryReport::policy_state, scores_); }

 private:
  std::size_t columns_;
  Vector<float> scores_;  // (rows, columns)
};

}  // namespace kvcompress
