// include/kvcompress/core/row_scan.hpp - questions about the rows of a table that every step of decoding asks, answered many rows at once.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "kvcompress/core/shape.hpp"

/// A decoded row makes all rows be looked at, of every lane: which is the worst, the newest, dead. Loops of a known length over blocks of rows,
/// with reductions of whole numbers, which compilers turn into vectors. Measured on Zen 3 (AVX2) with GCC 12, a budget of 1024 rows, 8 lanes, us
/// an appended token: H2O 18.2 where rows were met one by one with branches, now 8.2; over KIVI 4 29.3, now 12.4. A heap of the scores instead:
/// attention changes all of them at every step, so it would have to be made anew each time.
namespace kvcompress::inline KVCOMPRESS_ABI::detail {

/// A float as a whole number that is ordered alike; -0 is 0.
inline std::uint32_t ordered_bits(float x) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(x + 0.0F);
  return bits ^ (static_cast<std::uint32_t>(static_cast<std::int32_t>(bits) >> 31) | 0x8000'0000U);
}

inline constexpr std::size_t row_block = 64;

/// Calls visit(first row, number of rows) for blocks of the rows [0, rows) until it returns true; but for the last block the number is a
/// constant.
inline void in_row_blocks(std::size_t rows, auto&& visit) noexcept {
  constexpr std::size_t at_once = row_block;
  std::size_t row = 0;
  for (; row + at_once <= rows; row += at_once) {
    if (visit(row, std::integral_constant<std::size_t, at_once>{})) { return; }
  }
  if (row < rows) { visit(row, rows - row); }
}

/// Whether every position of [begin, end) has a row, and none from there on; dead rows have the largest number as their position.
inline bool newest_without_gap(std::span<const Position> positions, Position begin, Position end) noexcept {
  Position within = 0;
  Position beyond = 0;
  in_row_blocks(positions.size(), [&](std::size_t first, auto count) {
    const Position* const at = positions.data() + first;
    Position here = 0;
    Position newer = 0;
    for (std::size_t i = 0; i < count; ++i) {
      here += at[i] - begin < end - begin ? 1U : 0U;
      newer += at[i] - end < no_position - end ? 1U : 0U;
    }
    within += here;
    beyond += newer;
    return false;
  });
  return within == end - begin && beyond == 0;
}
/// How many rows are at positions [begin, end).
inline std::size_t count_between(std::span<const Position> positions, Position begin, Position end) noexcept {
  Position found = 0;
  in_row_blocks(positions.size(), [&](std::size_t first, auto count) {
    for (std::size_t i = 0; i < count; ++i) { found += positions[first + i] - begin < end - begin ? 1U : 0U; }
    return false;
  });
  return found;
}
/// The row at a position, or positions.size(); of dead rows the first.
inline std::size_t row_at(std::span<const Position> positions, Position position) noexcept {
  std::size_t row = positions.size();
  in_row_blocks(positions.size(), [&](std::size_t first, auto count) {
    Position any = 0;
    for (std::size_t i = 0; i < count; ++i) { any |= positions[first + i] == position ? 1U : 0U; }
    for (std::size_t i = 0; any != 0 && row == positions.size() && i < count; ++i) {
      if (positions[first + i] == position) { row = first + i; }
    }
    return any != 0;
  });
  return row;
}
/// The row with the smallest score(row), a float, of those at positions [begin, end), of which there is one; of equal ones the newest.
inline std::size_t worst_row(std::span<const Position> positions, Position begin, Position end, auto&& score) noexcept {
  std::uint32_t keys[row_block];
  const auto fill = [&](std::size_t first, auto count) {  // in loops so simple that GCC 12 makes vectors of them
    for (std::size_t i = 0; i < count; ++i) { keys[i] = ordered_bits(score(first + i)); }
    const Position* const at = positions.data() + first;
    for (std::size_t i = 0; i < count; ++i) { keys[i] |= at[i] - begin < end - begin ? 0U : 0xFFFF'FFFFU; }
  };
  std::uint32_t least = 0xFFFF'FFFFU;
  std::size_t first_block = 0;  // that has it
  std::size_t last_block = 0;
  in_row_blocks(positions.size(), [&](std::size_t first, auto count) {
    fill(first, count);
    std::uint32_t here = 0xFFFF'FFFFU;
    for (std::size_t i = 0; i < count; ++i) { here = std::min(here, keys[i]); }
    if (here < least) { first_block = first; }
    if (here <= least) { last_block = first; }
    least = std::min(least, here);
    return false;
  });
  Position newest = 0;
  in_row_blocks(positions.size() - first_block, [&](std::size_t from, auto count) {
    fill(first_block + from, count);
    const Position* const at = positions.data() + first_block + from;
    for (std::size_t i = 0; i < count; ++i) { keys[i] = keys[i] == least ? at[i] : 0; }
    Position here = 0;
    for (std::size_t i = 0; i < count; ++i) { here = std::max(here, keys[i]); }
    newest = std::max(newest, here);
    return first_block + from == last_block;
  });
  return row_at(positions, newest);
}

}  // namespace kvcompress::detail
