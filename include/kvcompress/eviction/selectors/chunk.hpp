// include/kvcompress/eviction/selectors/chunk.hpp - chunks of neighbouring rows, and which rows stay: for selectors that choose by chunks.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

#include "kvcompress/eviction/row_set.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

namespace detail {

/// Rows [first, last) of the text order, some of which may be protected.
struct Chunk {
  std::size_t first;
  std::size_t last;
  double score;  // mean of its rows
  bool holds_protected;
  [[nodiscard]] std::size_t size() const noexcept { return last - first; }
  /// Those with protected rows first, then by their scores, then by age.
  static bool before(const Chunk& a, const Chunk& b) noexcept {
    if (a.holds_protected != b.holds_protected) { return a.holds_protected; }
    return a.score != b.score ? a.score > b.score : a.first < b.first;
  }
};
/// Live rows of a set in chunks of `length`, the last one shorter; leaves the rows in text order in set.order.
inline Vector<Chunk> chunks_of(RowSet& set, std::span<const float> scores, const Protected& protected_rows, std::size_t length) {
  set.sort_rows();
  const std::size_t rows = set.order.size();
  Vector<Chunk> chunks(Allocator<Chunk>(set.order.get_allocator()));
  for (std::size_t first = 0; first < rows; first += length) {
    const std::size_t last = std::min(first + length, rows);
    double sum = 0.0;
    for (std::size_t i = first; i < last; ++i) { sum += static_cast<double>(scores[set.order[i]]); }
    chunks.push_back(
        {first, last, sum / static_cast<double>(last - first), first < protected_rows.sinks || last + protected_rows.recent > rows});
  }
  return chunks;
}
/// Marks what stays; then drops the rest.
class Keeping {
 public:
  Keeping(RowSet& set, const Protected& protected_rows, std::size_t budget) : set_(set), left_(budget) {
    for (const Position row : set.order) { set.drop[row] = 1; }
    const std::size_t rows = set.order.size();
    keep(0, std::min(protected_rows.sinks, rows));
    keep(rows - std::min(protected_rows.recent, rows), rows);
  }
  [[nodiscard]] std::size_t left() const noexcept { return left_; }
  [[nodiscard]] bool stays(std::size_t i) const noexcept { return set_.drop[set_.order[i]] == 0; }
  [[nodiscard]] std::size_t missing(const Chunk& chunk) const noexcept {
    std::size_t count = 0;
    for (std::size_t i = chunk.first; i < chunk.last; ++i) { count += stays(i) ? 0U : 1U; }
    return count;
  }
  void keep(std::size_t first, std::size_t last) noexcept {
    for (std::size_t i = first; i < last; ++i) {
      left_ -= stays(i) ? 0U : std::min<std::size_t>(left_, 1);
      set_.drop[set_.order[i]] = 0;
    }
  }
  /// The best `count` rows of [first, last) that do not stay yet, if so many are left; ties go to the older row.
  void keep_best(std::size_t first, std::size_t last, std::size_t count, std::span<const float> scores) {
    Vector<Position> others(set_.order.get_allocator());
    for (std::size_t i = first; i < last; ++i) {
      if (!stays(i)) { others.push_back(static_cast<Position>(i)); }
    }
    const auto score = [&](Position i) { return scores[set_.order[i]]; };
    std::stable_sort(others.begin(), others.end(), [&](Position a, Position b) { return score(a) > score(b); });
    for (std::size_t i = 0; i < std::min({count, left_, others.size()}); ++i) { set_.drop[set_.order[others[i]]] = 0; }
    left_ -= std::min({count, left_, others.size()});
  }

 private:
  RowSet& set_;
  std::size_t left_;
};

}  // namespace detail

}  // namespace kvcompress
