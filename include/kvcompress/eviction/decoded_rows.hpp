// include/kvcompress/eviction/decoded_rows.hpp - how scorers read the keys and values of a lane: block by block, or in text order.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

#include "kvcompress/eviction/row_set.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Calls visit(row, key, value) for every live row of a lane, in store order; both are valid during the call. Decodes each row once, through
/// scratch for 64 rows. Values in a slow tier are fetched, which may fail.
void for_each_row(const LaneView& lane, const RowTable& rows, const Moment& moment, auto&& visit) {
  constexpr std::size_t at_once = 64;
  const std::size_t key_width = lane.site.shape.key_width();
  const std::size_t value_width = lane.site.shape.value_width();
  Vector<float>& decoded = moment.scratch.rows;
  decoded.resize(std::max(decoded.size(), at_once * (key_width + value_width)));
  float* const keys = decoded.data();
  float* const values = keys + at_once * key_width;
  for (std::size_t first = 0; first < rows.rows(); first += at_once) {
    const RowRange some{first, std::min(first + at_once, rows.rows())};
    if (rows.live_in(some.first, some.last) == 0) { continue; }
    lane.keys(some, keys);
    lane.values(some, values);
    for (std::size_t r = first; r < some.last; ++r) {
      if (rows.alive(r)) { visit(r, keys + (r - first) * key_width, values + (r - first) * value_width); }
    }
  }
}
/// The same of the keys alone: visit(row, key).
void for_each_key(const LaneView& lane, const RowTable& rows, const Moment& moment, auto&& visit) {
  constexpr std::size_t at_once = 64;
  const std::size_t width = lane.site.shape.key_width();
  Vector<float>& keys = moment.scratch.rows;
  keys.resize(std::max(keys.size(), at_once * width));
  for (std::size_t first = 0; first < rows.rows(); first += at_once) {
    const RowRange some{first, std::min(first + at_once, rows.rows())};
    if (rows.live_in(some.first, some.last) == 0) { continue; }
    lane.keys(some, keys.data());
    for (std::size_t r = first; r < some.last; ++r) {
      if (rows.alive(r)) { visit(r, keys.data() + (r - first) * width); }
    }
  }
}
/// And of the values: visit(row, value).
void for_each_value(const LaneView& lane, const RowTable& rows, const Moment& moment, auto&& visit) {
  constexpr std::size_t at_once = 64;
  const std::size_t width = lane.site.shape.value_width();
  Vector<float>& values = moment.scratch.rows;
  values.resize(std::max(values.size(), at_once * width));
  for (std::size_t first = 0; first < rows.rows(); first += at_once) {
    const RowRange some{first, std::min(first + at_once, rows.rows())};
    if (rows.live_in(some.first, some.last) == 0) { continue; }
    lane.values(some, values.data());
    for (std::size_t r = first; r < some.last; ++r) {
      if (rows.alive(r)) { visit(r, values.data() + (r - first) * width); }
    }
  }
}

/// Live rows in text order. Cost: a sort, unless the store is in that order.
inline Vector<Position> rows_in_text_order(const RowTable& rows, const Moment& moment) {
  Vector<Position> order(Allocator<Position>(moment.scratch.rows.get_allocator()));
  order.reserve(rows.live());
  for (std::size_t r = 0; r < rows.rows(); ++r) {
    if (rows.alive(r)) { order.push_back(static_cast<Position>(r)); }
  }
  const auto older = [&](Position a, Position b) { return rows.position(a) < rows.position(b); };
  if (!std::is_sorted(order.begin(), order.end(), older)) { std::sort(order.begin(), order.end(), older); }
  return order;
}
/// Numbers for the length of a decision.
template <class T>
Vector<T> numbers_of(const Moment& moment, std::size_t count) {
  return Vector<T>(count, T{}, Allocator<T>(moment.scratch.rows.get_allocator()));
}

}  // namespace kvcompress
