// include/kvcompress/core/row_scores.hpp - numbers that a policy keeps for every row: the ready-made State of score-based evictions.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

#include "kvcompress/core/row_table.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// `columns` scores per row, 0 for a new row; they follow their rows when rows move. Until the first prompt ends (compact) they are
/// held in double, since a prompt adds thousands of small numbers to some of them; afterwards in float.
class RowScores {
 public:
  RowScores(std::size_t columns, const Memory& memory)
      : columns_(columns), sums_(Allocator<double>(memory)), scores_(Allocator<float>(memory)) {}

  /// Bytes of one row after the prompt.
  [[nodiscard]] static constexpr std::size_t row_bytes(std::size_t columns) noexcept { return columns * sizeof(float); }
  [[nodiscard]] std::size_t columns() const noexcept { return columns_; }
  [[nodiscard]] std::size_t rows() const noexcept { return (summing_ ? sums_.size() : scores_.size()) / columns_; }
  [[nodiscard]] float get(std::size_t row, std::size_t column) const noexcept {
    return summing_ ? static_cast<float>(sums_[row * columns_ + column]) : scores_[row * columns_ + column];
  }
  void set(std::size_t row, std::size_t column, float score) noexcept {
    visit([&](auto& numbers) { numbers[row * columns_ + column] = score; });
  }
  /// Adds scores[r] to the score of row r in `column`, for the first scores.size() rows.
  void add(std::size_t column, std::span<const float> scores) noexcept {
    visit([&](auto& numbers) {
      for (std::size_t r = 0; r < scores.size(); ++r) { numbers[r * columns_ + column] += scores[r]; }
    });
  }
  /// The largest score of a row.
  [[nodiscard]] float largest(std::size_t row) const noexcept {
    float result = get(row, 0);
    for (std::size_t c = 1; c < columns_; ++c) { result = std::max(result, get(row, c)); }
    return result;
  }

  /// The largest score of every row: written to `out`, one per row, or where they lie already.
  [[nodiscard]] std::span<const float> largest_of_each(std::span<float> out) const noexcept {
    if (columns_ == 1 && !summing_) { return scores_; }
    for (std::size_t r = 0; r < out.size(); ++r) { out[r] = largest(r); }
    return out;
  }
  /// All scores become 0.
  void forget() noexcept {
    visit([](auto& numbers) { std::fill(numbers.begin(), numbers.end(), 0.0F); });
  }

  void reserve(std::size_t rows) {
    visit([&](auto& numbers) {
      if (numbers.capacity() < rows * columns_) { numbers.reserve(std::max(rows * columns_, 2 * numbers.capacity())); }
    });
  }
  void resize(std::size_t rows) {
    visit([&](auto& numbers) { numbers.resize(rows * columns_); });
  }
  void move(std::size_t from, std::size_t to) noexcept {
    visit([&](auto& numbers) { std::copy_n(numbers.begin() + at(from), columns_, numbers.begin() + at(to)); });
  }
  void erase(std::size_t first, std::size_t count) noexcept {
    visit([&](auto& numbers) { numbers.erase(numbers.begin() + at(first), numbers.begin() + at(first + count)); });
  }
  void compact(std::size_t slack) {
    if (summing_) {
      scores_.reserve(sums_.size() + slack * columns_);
      for (const double sum : sums_) { scores_.push_back(static_cast<float>(sum)); }
      sums_ = Vector<double>(sums_.get_allocator());
      summing_ = false;
    }
    RowTable::compact_vector(scores_, slack * columns_);
  }
  void account(MemoryReport& report) const noexcept {
    report.add(&MemoryReport::policy_state, sums_);
    report.add(&MemoryReport::policy_state, scores_);
  }
  static void persist(auto& self, auto& archive, std::size_t rows) {
    archive.number(self.summing_);
    archive.vector(self.sums_);
    archive.vector(self.scores_);
    const std::size_t numbers = rows * self.columns_;
    archive.check(self.sums_.size() == (self.summing_ ? numbers : 0) && self.scores_.size() == (self.summing_ ? 0 : numbers),
                  "the scores are not those of its rows");
  }

 private:
  [[nodiscard]] std::ptrdiff_t at(std::size_t row) const noexcept { return static_cast<std::ptrdiff_t>(row * columns_); }
  void visit(auto&& work) { summing_ ? work(sums_) : work(scores_); }

  std::size_t columns_;
  bool summing_ = true;
  Vector<double> sums_;   // (rows, columns) while a first prompt is open
  Vector<float> scores_;  // (rows, columns) afterwards
};

}  // namespace kvcompress
