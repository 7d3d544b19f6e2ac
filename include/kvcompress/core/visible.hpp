// include/kvcompress/core/visible.hpp - which rows of a lane a query may see: the one rule for masks and for whoever chooses rows.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>

#include "kvcompress/core/row_table.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// What one query may see of a lane: live rows, none newer than `at`, none before `start`, and with a sliding window those less than `window`
/// behind it. Rows before `start` are told by their place in the text; distances are those that attention sees: in-cache ones where the
/// table renumbers. By default nothing is hidden.
struct Visible {
  Position start = 0;
  std::size_t window = 0;         ///< 0 means no window
  Position at = no_position - 1;  ///< the newest position it may see: its own place in the text, or a later one (see AttendOptions::until)
  Position slot = no_position - 1;  ///< its own in-cache position; its place in the text where the table does not renumber

  [[nodiscard]] bool sees(const RowTable& table, std::size_t row) const noexcept {
    const Position p = table.position(row);  // no_position, of dead rows, is newer than every query
    const bool near = std::size_t{table.slot(row)} + window > slot;
    return (p <= at) & (p >= start) & ((window == 0) | near);  // no branches: masks call it for every row
  }
  /// Whether it sees every live row that is not newer.
  [[nodiscard]] bool all() const noexcept { return start == 0 && (window == 0 || window > slot); }
  /// Whether it sees one of the rows [first, last).
  [[nodiscard]] bool any(const RowTable& table, std::size_t first, std::size_t last) const noexcept {
    if (in_text_order(table)) { return count(table, first, last) > 0; }
    while (first < last && !sees(table, first)) { ++first; }
    return first < last;
  }
  /// How many of the rows [first, last) it sees.
  [[nodiscard]] std::size_t count(const RowTable& table, std::size_t first, std::size_t last) const noexcept {
    if (in_text_order(table)) {
      const std::size_t begin = std::max(first, oldest());
      return std::max(begin, std::min(last, std::size_t{at} + 1)) - begin;
    }
    std::size_t seen = 0;
    for (std::size_t row = first; row < last; ++row) { seen += sees(table, row) ? 1U : 0U; }
    return seen;
  }
  /// The first of the rows [first, last) that it sees, or last.
  [[nodiscard]] std::size_t first_seen(const RowTable& table, std::size_t first, std::size_t last) const noexcept {
    if (in_text_order(table)) { return std::min(last, std::max(first, oldest())); }
    constexpr std::size_t at_once = 64;
    if (!table.renumbers()) {  // many rows at once, as vectors
      const Position* const positions = table.positions().data();
      const auto from = static_cast<Position>(oldest());
      for (; first + at_once <= last; first += at_once) {
        unsigned any = 0;
        for (std::size_t row = first; row < first + at_once; ++row) {
          const Position p = positions[row];
          any |= unsigned{p <= at} & unsigned{p >= from};
        }
        if (any != 0) { break; }
      }
    }
    while (first < last && !sees(table, first)) { ++first; }
    return first;
  }
  /// Row r is alive at position r, and so is its slot.
  static bool in_text_order(const RowTable& table) noexcept { return table.positions().empty(); }

 private:
  /// No row at an older position is seen, where slots are positions.
  [[nodiscard]] std::size_t oldest() const noexcept {
    return std::max<std::size_t>(start, window != 0 && window <= slot ? std::size_t{slot} + 1 - window : 0);
  }
};

}  // namespace kvcompress
