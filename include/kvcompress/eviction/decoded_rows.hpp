// include/kvcompress/eviction/decoded_rows.hpp - how scorers read the keys and values of a lane: block by block, or in text order.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

#include "kvcompress/eviction/row_set.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

namespace detail {

/// Sum of products, in eight partial sums.
inline float dot_of(const float* a, const float* b, std::size_t count) noexcept {
  float parts[8] = {};
  std::size_t c = 0;
  for (; c + 8 <= count; c += 8) {
    for (std::size_t i = 0; i < 8; ++i) { parts[i] += a[c + i] * b[c + i]; }
  }
  for (; c < count; ++c) { parts[0] += a[c] * b[c]; }
  return ((parts[0] + parts[1]) + (parts[2] + parts[3])) + ((parts[4] + parts[5]) + (parts[6] + parts[7]));
}

/// Calls visit(row, key, value) for every live row, in store order; null for what is not asked for.
template <bool Keys, bool Values>
void for_each_decoded(const LaneView& lane, const RowTable& rows, const Moment& moment, auto&& visit) {
  constexpr std::size_t at_once = 64;
  const std::size_t key_width = Keys ? lane.site.shape.key_width() : 0;
  const std::size_t value_width = Values ? lane.site.shape.value_width() : 0;
  Vector<float>& decoded = moment.scratch.rows;
  decoded.resize(std::max(decoded.size(), at_once * (key_width + value_width)));
  float* const keys = decoded.data();
  float* const values = keys + at_once * key_width;
  for (std::size_t first = 0; first < rows.rows(); first += at_once) {
    const RowRange some{first, std::min(first + at_once, rows.rows())};
    if (rows.live_in(some.first, some.last) == 0) { continue; }
    if (Keys) { lane.keys(some, keys); }
    if (Values) { lane.values(some, values); }
    for (std::size_t r = first; r < some.last; ++r) {
      if (rows.alive(r)) { visit(r, keys + (r - first) * key_width, values + (r - first) * value_width); }
    }
  }
}

}  // namespace detail

/// Calls visit(row, key, value) for every live row of a lane, in store order; both are valid during the call. Decodes each row once, through
/// scratch.rows. Values in a slow tier are fetched, which may fail.
void for_each_row(const LaneView& lane, const RowTable& rows, const Moment& moment, auto&& visit) {
  detail::for_each_decoded<true, true>(lane, rows, moment, visit);
}
/// The same of the keys alone: visit(row, key).
void for_each_key(const LaneView& lane, const RowTable& rows, const Moment& moment, auto&& visit) {
  detail::for_each_decoded<true, false>(lane, rows, moment, [&](std::size_t row, const float* key, const float*) { visit(row, key); });
}
/// And of the values: visit(row, value).
void for_each_value(const LaneView& lane, const RowTable& rows, const Moment& moment, auto&& visit) {
  detail::for_each_decoded<false, true>(lane, rows, moment, [&](std::size_t row, const float*, const float* value) { visit(row, value); });
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
