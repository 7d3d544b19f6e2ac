// include/kvcompress/retrieval/best.hpp - the units with the largest scores, as ranges of rows.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

#include "kvcompress/core/memory.hpp"
#include "kvcompress/core/shape.hpp"
#include "kvcompress/core/views.hpp"

namespace kvcompress::detail {

/// Leaves in `units` the `count` with the largest scores (score(unit)), ascending; ties go to the lower unit. Cost: O(units).
inline void keep_best_units(Vector<Position>& units, std::size_t count, auto&& score) {
  if (units.size() <= count) { return; }
  const auto first_gone = units.begin() + static_cast<std::ptrdiff_t>(count);
  std::nth_element(units.begin(), first_gone, units.end(), [&](Position a, Position b) {  // a stays before b
    const float x = score(a);
    const float y = score(b);
    return x != y ? x > y : a < b;
  });
  units.resize(count);
  std::sort(units.begin(), units.end());
}

/// Appends the rows of ascending `units` of `size` rows each; neighbours become one range.
inline void append_units(std::span<const Position> units, std::size_t size, Vector<RowRange>& ranges) {
  for (const Position unit : units) {
    const std::size_t first = unit * size;
    if (!ranges.empty() && ranges.back().last == first) { ranges.back().last += size; }
    else { ranges.push_back({first, first + size}); }
  }
}

}  // namespace kvcompress::detail
