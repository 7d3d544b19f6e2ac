// include/kvcompress/cache/colder_rows.hpp - rows that get colder are moved before the other exact ones: one stable partition per commit.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <span>

#include "kvcompress/cache/layer.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

/// Of lanes that share a table; on copies of a layer, since it may fail half-way.
template <class P>
struct ColderRows {
  static bool any(const Layer<P>& l, CommitScratch<P>& scratch) noexcept {
    for (std::size_t unit = 0; l.decides() && unit < l.tables.size(); ++unit) {
      if (needs<P>(l.lanes[unit].state).colder && any(l.lanes[unit].settled(), l.drops(unit, scratch))) { return true; }
    }
    return false;
  }
  /// Puts the exact rows that are marked colder before the others, both in their order, and the marks with them. Returns how many there are.
  static std::size_t partition(Layer<P>& l, std::size_t unit, const Shape& shape, Rotation& rotation, CommitScratch<P>& scratch) {
    RowTable& table = l.tables[unit];
    const std::span<unsigned char> drop = l.drops(unit, scratch);
    const std::size_t first = l.lanes[unit].settled();
    if (!any(first, drop)) { return 0; }
    Vector<Position> order(scratch.order.get_allocator());
    Vector<unsigned char> marks(scratch.drop.get_allocator());
    order.reserve(table.rows() - first);
    marks.assign(drop.begin(), drop.end());
    const auto take = [&](bool colder) {
      for (std::size_t row = first; row < table.rows(); ++row) {
        if ((marks[row] == static_cast<unsigned char>(Fate::colder)) == colder) { order.push_back(static_cast<Position>(row)); }
      }
    };
    take(true);
    const std::size_t count = order.size();
    take(false);
    for (Lane<P>& lane : l.unit(unit)) { permute(lane, table, shape, rotation, first, order, scratch.rows); }
    for (std::size_t i = 0; i < order.size(); ++i) { drop[first + i] = marks[order[i]]; }
    table.permute(first, order);
    return count;
  }

 private:
  static bool any(std::size_t settled, std::span<const unsigned char> drop) noexcept {
    return settled < drop.size() && std::memchr(drop.data() + settled, static_cast<int>(Fate::colder), drop.size() - settled) != nullptr;
  }
  /// Cycle by cycle, with one row aside. `order` by value: what is in place is noted there.
  static void permute(Lane<P>& lane, const RowTable& table, const Shape& shape, Rotation& rotation, std::size_t first,
                      Vector<Position> order, Vector<float>& scratch) {
    const std::size_t rows = table.rows();
    const std::size_t aside = rows;
    scratch.resize(std::max(scratch.size(), shape.key_width() + shape.value_width()));
    float* const key = scratch.data();
    float* const value = key + shape.key_width();
    lane.make_writable(first, rows);
    lane.state.resize(rows + 1);
    for (std::size_t start = first; start < rows; ++start) {
      if (order[start - first] == start) { continue; }
      lane.read_key(start, table, rotation, key);
      lane.values.read(start, value);
      lane.state.move(start, aside);
      std::size_t to = start;
      for (std::size_t from = order[to - first]; from != start; from = order[to - first]) {
        lane.move(from, to);
        order[to - first] = static_cast<Position>(to);
        to = from;
      }
      order[to - first] = static_cast<Position>(to);
      lane.keys.write(to, key);
      lane.values.write(to, value);
      lane.state.move(aside, to);
      lane.index.move(to, to);
    }
    lane.state.resize(rows);
  }
};

}  // namespace kvcompress::detail
