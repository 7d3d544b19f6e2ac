// include/kvcompress/eviction/selection.hpp - what an eviction decides from, and where it writes its decision.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <type_traits>

#include "kvcompress/core/drop_worst.hpp"
#include "kvcompress/core/memory.hpp"
#include "kvcompress/core/row_table.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// What an eviction decides from, and where it writes its decision. Padding is gone already (see KVCache::end_prompt).
struct Selection {
  const RowTable& rows;                                     ///< positions, which rows are alive
  bool end_of_prompt;                                       ///< this commit closes a prompt
  std::size_t prompt_tokens;                                ///< tokens up to the end of the last prompt, this one included
  std::size_t budget;                                       ///< Options::budget in rows; 0 if the eviction has none
  Vector<Position>& order;                                  ///< scratch for sorting, any size
  std::span<unsigned char> drop;                            ///< one flag per row, 0 at entry; set to 1 to evict a live row
  std::size_t most_decoded = static_cast<std::size_t>(-1);  ///< decoded rows that a budget in bytes has room for

  /// Position of the k-th oldest live row, k from 0. Cost: O(rows).
  [[nodiscard]] Position oldest(std::size_t k) {
    gather();
    const auto nth = order.begin() + static_cast<std::ptrdiff_t>(k);
    std::nth_element(order.begin(), nth, order.end());
    return *nth;
  }
  /// Position of the k-th newest live row, k from 0. Cost: O(rows), fast while the newest k + 1 positions have no gap.
  [[nodiscard]] Position newest(std::size_t k) {
    const std::span<const Position> positions = rows.positions();
    if (positions.empty()) { return static_cast<Position>(rows.rows() - 1 - k); }
    Position end = 0;
    for (const Position p : positions) { end = std::max(end, p + 1); }  // no_position becomes 0
    if (end > k) {
      const Position last = end - 1;
      const Position guess = last - static_cast<Position>(k);
      Position newer = 0;
      for (const Position p : positions) { newer += p - guess <= last - guess ? 1U : 0U; }
      if (newer == k + 1) { return guess; }
    }
    gather();
    const auto nth = order.begin() + static_cast<std::ptrdiff_t>(k);
    std::nth_element(order.begin(), nth, order.end(), [](Position a, Position b) { return a > b; });
    return *nth;
  }
  /// Evicts down to `budget` rows: the newest `recent` stay (1 to budget) and, of the others, those with the largest score(row); ties
  /// go to the older row. Cost: O(rows).
  void keep_best(std::size_t rows_to_keep, std::size_t recent, auto&& score) {
    if (rows.live() <= rows_to_keep) { return; }
    const Position first_recent = newest(recent - 1);
    if (rows.live() == rows_to_keep + 1 && !rows.positions().empty()) {  // every step of decoding
      drop[worst_before(first_recent, score)] = 1;
      return;
    }
    if constexpr (std::is_same_v<decltype(score(std::size_t{0})), float>) {
      return detail::drop_worst(rows, rows.live() - rows_to_keep, first_recent, score, order, drop);
    }
    order.clear();
    for (std::size_t r = 0; r < rows.rows(); ++r) {
      if (rows.alive(r) && rows.position(r) < first_recent) { order.push_back(static_cast<Position>(r)); }
    }
    const auto goes_before = [&](Position a, Position b) {
      const auto x = score(a);
      const auto y = score(b);
      return x != y ? x < y : rows.position(a) > rows.position(b);
    };
    const auto last_gone = order.begin() + static_cast<std::ptrdiff_t>(rows.live() - rows_to_keep - 1);
    std::nth_element(order.begin(), last_gone, order.end(), goes_before);
    for (auto row = order.begin(); row <= last_gone; ++row) { drop[*row] = 1; }
  }
  /// Live rows in ascending position, in `order`. Cost: a sort.
  void sort_rows() {
    order.clear();
    for (std::size_t r = 0; r < rows.rows(); ++r) {
      if (rows.alive(r)) { order.push_back(static_cast<Position>(r)); }
    }
    const auto older = [&](Position a, Position b) { return rows.position(a) < rows.position(b); };
    if (!std::is_sorted(order.begin(), order.end(), older)) { std::sort(order.begin(), order.end(), older); }
  }

 private:
  /// The row with the smallest score among those before a position; of equal ones the newest.
  [[nodiscard]] std::size_t worst_before(Position first_recent, auto&& score) const {
    const std::span<const Position> positions = rows.positions();
    const std::size_t none = positions.size();
    std::size_t worst = none;
    auto least = score(std::size_t{0});
    for (std::size_t r = 0; r < positions.size(); ++r) {
      const auto own = score(r);
      if ((own > least && worst != none) || positions[r] >= first_recent) { continue; }  // no_position, of dead rows, is the largest
      if (own == least && worst != none && positions[r] < positions[worst]) { continue; }
      least = own;
      worst = r;
    }
    return worst;
  }
  void gather() {
    order.clear();
    for (std::size_t r = 0; r < rows.rows(); ++r) {
      if (rows.alive(r)) { order.push_back(rows.position(r)); }
    }
  }
};

}  // namespace kvcompress
