// include/kvcompress/retrieval/best.hpp - the units with the largest scores, as ranges of rows.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <span>

#include "kvcompress/core/memory.hpp"
#include "kvcompress/core/row_table.hpp"
#include "kvcompress/core/shape.hpp"
#include "kvcompress/core/views.hpp"
#include "kvcompress/core/visible.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

/// Removes units that are certainly not among the `count` with the largest scores[unit]: those below a border that a sample of the scores
/// suggests, if enough of them reach it. Cost: two passes. Best 127 of 8192 on Zen 4: about 20 us, without
/// this 81.
inline void drop_low_units(Vector<Position>& units, std::size_t count, const float* scores) {
  constexpr std::size_t samples = 512;
  const std::size_t rank = samples * count / units.size() * 3 / 2 + 16;  // the border had better be too low than too high
  if (units.size() < 4 * samples || rank >= samples) { return; }
  float sample[samples];
  for (std::size_t i = 0; i < samples; ++i) { sample[i] = scores[units[i * (units.size() / samples)]]; }
  std::nth_element(sample, sample + rank, sample + samples, [](float a, float b) { return a > b; });
  const float border = sample[rank];
  std::size_t above = 0;  // no branch on a score below: which units stay is not to be foreseen
  for (const Position unit : units) { above += scores[unit] >= border ? 1U : 0U; }
  if (above < count) { return; }
  std::size_t kept = 0;
  for (const Position unit : units) {
    units[kept] = unit;
    kept += scores[unit] >= border ? 1U : 0U;
  }
  units.resize(kept);
}

/// Leaves in `units` the `count` with the largest scores[unit], ascending; ties go to the lower unit. Cost: O(units).
inline void keep_best_units(Vector<Position>& units, std::size_t count, const float* scores) {
  if (units.size() <= count) { return; }
  drop_low_units(units, count, scores);
  const auto first_gone = units.begin() + static_cast<std::ptrdiff_t>(count);
  std::nth_element(units.begin(), first_gone, units.end(), [&](Position a, Position b) {  // a stays before b
    return scores[a] != scores[b] ? scores[a] > scores[b] : a < b;
  });
  units.resize(count);
  std::sort(units.begin(), units.end());
}

/// The units of [0, count) of which a query sees a row, to `units`: first_row(unit) is the first of `size`.
inline void visible_units(const RowTable& table, const Visible& visible, std::size_t count, std::size_t size, auto&& first_row,
                          Vector<Position>& units) {
  units.resize(count);
  std::iota(units.begin(), units.end(), Position{0});
  if (table.all_alive() && visible.all()) { return; }
  std::erase_if(units, [&](Position unit) { return !visible.any(table, first_row(unit), first_row(unit) + size); });
}

/// Whether a query sees at most `most` rows of `units`, each of which it sees a row of.
inline bool see_at_most(std::size_t most, std::span<const Position> units, const RowTable& table, const Visible& visible, std::size_t size,
                        auto&& first_row) {
  if (units.size() > most) { return false; }
  if (table.all_alive() && visible.all()) { return units.size() * size <= most; }
  std::size_t seen = 0;
  for (const Position unit : units) {
    const std::size_t first = first_row(unit);
    seen += visible.all() ? table.live_in(first, first + size) : visible.count(table, first, first + size);
    if (seen > most) { return false; }
  }
  return true;
}

/// Appends the rows of ascending `units` of `size` rows each; neighbours become one range.
inline void append_units(std::span<const Position> units, std::size_t size, Vector<RowRange>& ranges) {
  for (const Position unit : units) {
    const std::size_t first = unit * size;
    if (!ranges.empty() && ranges.back().last == first) {
      ranges.back().last += size;
    } else {
      ranges.push_back({first, first + size});
    }
  }
}

}  // namespace kvcompress::detail
