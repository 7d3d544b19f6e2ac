// include/kvcompress/core/drop_worst.hpp - marks the rows with the smallest scores, in time that grows with the rows alone.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "kvcompress/core/row_scan.hpp"
#include "kvcompress/core/row_table.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

/// Sets drop[row] for the `count` rows, at least 1, with the smallest score(row), a float, among those at positions [first, end); of equal
/// ones the newest. Sorts the scores as whole numbers, one behind the other, and not rows by their scores: those of a million rows lie in
/// no cache.
inline void drop_worst(const RowTable& rows, std::size_t count, Position first, Position end, auto&& score, Vector<Position>& order,
                       std::span<unsigned char> drop) {
  const auto key = [&](std::size_t row) { return ordered_bits(score(row)); };
  const auto may_go = [&](std::size_t row) { return rows.position(row) >= first && rows.position(row) < end; };
  order.clear();
  for (std::size_t r = 0; r < rows.rows(); ++r) {
    if (may_go(r)) { order.push_back(key(r)); }
  }
  const auto last = order.begin() + static_cast<std::ptrdiff_t>(count - 1);
  std::nth_element(order.begin(), last, order.end());
  const std::uint32_t border = *last;
  order.clear();
  for (std::size_t r = 0; r < rows.rows(); ++r) {
    if (!may_go(r)) { continue; }
    const std::uint32_t own = key(r);
    if (own < border) {
      drop[r] = 1;
      --count;
    } else if (own == border) {
      order.push_back(rows.position(r));
    }
  }
  const auto oldest = order.begin() + static_cast<std::ptrdiff_t>(count - 1);
  std::nth_element(order.begin(), oldest, order.end(), [](Position a, Position b) { return a > b; });
  const Position first_gone = *oldest;
  for (std::size_t r = 0; r < rows.rows(); ++r) {
    if (may_go(r) && rows.position(r) >= first_gone && key(r) == border) { drop[r] = 1; }
  }
}

}  // namespace kvcompress::detail
