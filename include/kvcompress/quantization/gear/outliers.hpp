// include/kvcompress/quantization/gear/outliers.hpp - which entries GEAR keeps exact, and how they stand beside the codes.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>

#include "kvcompress/core/half.hpp"
#include "kvcompress/kernels/softmax.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::gear {

/// Outliers on each side of a vector: floor(sparsity * length / 2), and all of it from sparsity 1 on.
inline std::size_t outliers_per_side(double sparsity, std::size_t length) noexcept {
  return sparsity >= 1.0 ? length : static_cast<std::size_t>(sparsity * static_cast<double>(length) / 2.0);
}
/// How many those are on both sides, at most.
inline std::size_t most_outliers(std::size_t per_side, std::size_t length) noexcept {
  return 2 * per_side > length ? length : 2 * per_side;
}

/// std::nth_element, with a comparator of this namespace: plain pointers and the default one would make an instance that the linker shares
/// between translation units of different instruction sets (see core/abi.hpp).
inline void put_in_place(float* begin, float* nth, float* end) noexcept {
  std::nth_element(begin, nth, end, [](float a, float b) { return a < b; });
}

/// Writes to `indices`, ascending, those of `count` numbers among which the `per_side` smallest and largest certainly are, ties included: those
/// beyond borders, or all. Returns how many those are. `room` is for `count` numbers.
///
/// The numbers lie in so many columns that the per_side-th largest of the columns' maxima is a border: as many numbers are at least as large,
/// and hardly more. Measured on Zen 3 with GCC 12, 10 a side of 1024 numbers, with choose_outliers: 4.6 us with borders from a sample, now 2.7.
inline std::size_t likely_outliers(const float* x, std::size_t count, std::size_t per_side, float* room, std::uint32_t* indices) noexcept {
  namespace vec = simd::native;
  constexpr std::size_t at_once = 16;
  const std::size_t columns = (4 * per_side + at_once - 1) / at_once * at_once;
  if (4 * columns > count) {
    std::iota(indices, indices + count, 0U);
    return count;
  }
  float* const lows = room;
  float* const highs = room + columns;
  std::copy_n(x, columns, lows);
  std::copy_n(x, columns, highs);
  for (std::size_t first = columns; first < count; first += columns) {
    const std::size_t here = std::min(columns, count - first);
    for (std::size_t i = 0; i < here; ++i) {
      const float number = x[first + i];
      lows[i] = number < lows[i] ? number : lows[i];
      highs[i] = number > highs[i] ? number : highs[i];
    }
  }
  put_in_place(lows, lows + (per_side - 1), lows + columns);
  put_in_place(highs, highs + (columns - per_side), highs + columns);
  const float low = lows[per_side - 1];
  const float high = highs[columns - per_side];
  std::size_t found = 0;
  for (std::size_t first = 0; first < count; first += at_once) {
    const std::size_t here = std::min(at_once, count - first);
    if (here == at_once) {
      vec::f32 beyond = vec::set(kernels::minus_infinity);  // the largest distance; most blocks have none
      for (std::size_t i = 0; i < at_once; i += vec::lanes) {
        const vec::f32 number = vec::load(x + first + i);
        beyond = vec::max(beyond, vec::max(vec::sub(vec::set(low), number), vec::sub(number, vec::set(high))));
      }
      if (vec::reduce_max(beyond) < 0.0F) { continue; }
    }
    for (std::size_t i = first; i < first + here; ++i) {
      indices[found] = static_cast<std::uint32_t>(i);
      found += x[i] <= low || x[i] >= high ? 1U : 0U;
    }
  }
  return found;
}

/// Writes the indices of the `per_side` largest and smallest of `count` numbers to `chosen`, ascending, and returns how many those are; among
/// equal numbers the lower index is chosen. All of them if that is more than there are. `sorted` and `chosen` have room for `count` numbers.
inline std::size_t choose_outliers(const float* x, std::size_t count, std::size_t per_side, float* sorted, std::uint32_t* chosen) noexcept {
  if (per_side == 0) { return 0; }
  if (2 * per_side > count) {
    std::iota(chosen, chosen + count, 0U);
    return count;
  }
  const std::size_t likely = likely_outliers(x, count, per_side, sorted, chosen);
  std::transform(chosen, chosen + likely, sorted, [&](std::uint32_t i) { return x[i]; });
  float* const end = sorted + likely;
  float* const large = end - per_side;
  put_in_place(sorted, sorted + (per_side - 1), end);
  put_in_place(sorted + per_side, large, end);
  const float low = sorted[per_side - 1];
  const float high = *large;
  auto lows = std::count(sorted, sorted + per_side, low);  // so many of those equal to the bound are chosen
  auto highs = std::count(large, end, high);
  std::size_t found = 0;
  for (std::size_t c = 0; c < likely; ++c) {
    const float number = x[chosen[c]];
    const bool smallest = number < low || (number == low && lows-- > 0);
    const bool largest = number > high || (number == high && highs-- > 0);
    if (smallest || largest) { chosen[found++] = chosen[c]; }
  }
  return found;
}

/// An entry that is kept exact.
struct Place {
  std::uint32_t row;
  std::uint32_t channel;
};

/// Outliers of a segment by row, then channel; in tiles of 128 rows, so that a byte tells the row. An entry is `delta`, the number less what
/// its code stands for: one multiply-add each in scores and weighted sums.
template <class Scale>
struct Outliers {
  static constexpr std::size_t tile_rows = 128;

  const std::uint32_t* ends;      // (tiles), of the entries up to each tile's end
  const Scale* deltas;            // (entries)
  const std::uint8_t* rows;       // (entries), in the tile
  const std::uint8_t* channels8;  // (entries), null if channels do not fit a byte
  const std::uint16_t* channels16;

  static constexpr std::size_t tiles(std::size_t rows) noexcept { return (rows + tile_rows - 1) / tile_rows; }
  static constexpr std::size_t channel_bytes(std::size_t dim) noexcept { return dim <= 256 ? 1 : 2; }

  /// Whether all of `count` outliers lie in (rows, dim), each tile's in their place.
  [[nodiscard]] bool lie_in(std::size_t total_rows, std::size_t dim, std::size_t count) const noexcept {
    bool inside = ends[tiles(total_rows) - 1] == count;
    for (std::size_t tile = 0, i = 0; inside && tile < tiles(total_rows); ++tile) {
      inside = ends[tile] >= i && ends[tile] <= count;
      for (; inside && i < ends[tile]; ++i) {
        const std::size_t channel = channels8 != nullptr ? channels8[i] : channels16[i];
        inside = tile * tile_rows + rows[i] < total_rows && rows[i] < tile_rows && channel < dim;
      }
    }
    return inside;
  }
  /// Calls piece(first row of the tile, entries, their rows in the tile, their channels, how many) for those in rows [first, last), tile by tile.
  template <class Piece>
  void for_tiles(std::size_t first, std::size_t last, Piece&& piece) const noexcept {
    for (std::size_t tile = first / tile_rows; tile * tile_rows < last; ++tile) {
      const std::size_t row = tile * tile_rows;
      const std::uint8_t* begin = rows + (tile == 0 ? 0 : ends[tile - 1]);
      const std::uint8_t* end = rows + ends[tile];
      if (row < first) { begin = std::lower_bound(begin, end, first - row); }
      if (last < row + tile_rows) { end = std::lower_bound(begin, end, last - row); }
      const auto at = static_cast<std::size_t>(begin - rows);
      const auto count = static_cast<std::size_t>(end - begin);
      if (channels8 != nullptr) {
        piece(row, deltas + at, begin, channels8 + at, count);
      } else {
        piece(row, deltas + at, begin, channels16 + at, count);
      }
    }
  }
};

}  // namespace kvcompress::gear
