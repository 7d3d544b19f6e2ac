// include/kvcompress/cache/write_rows.hpp - rows that are overwritten in place.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

#include "kvcompress/cache.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

namespace detail {

/// Raises an Error unless rows of a lane can be written whose eviction needs this, and whose stores do that.
inline void check_writes_in_place(std::string_view eviction, const Needs& needs, const StoreFacts& keys, const StoreFacts& values) {
  require(!keeps_what_it_saw(needs), ErrorCode::option, "write with ", eviction,
          ", which judges rows by what they were: truncate or remove them and append others");
  require(keys.writes && values.writes && std::max(keys.scope, values.scope) == Scope::lane && !values.in_keys, ErrorCode::option,
          "write: the storage encodes lanes together or holds rows in a form that cannot be written");
}

}  // namespace detail

template <class P>
void KVCache<P>::write(std::size_t layer, std::span<const Position> positions, const Rows& keys, const Rows& values) {
  check_owner("write", layer);
  const Shape& shape = shape_.of(layer);
  const std::size_t tokens = positions.size();
  detail::check_equal("write: keys.tokens()", keys.tokens(), "positions.size()", tokens);
  detail::check_equal("write: values.tokens()", values.tokens(), "positions.size()", tokens);
  detail::check_equal("write: keys.heads()", keys.heads(), "shape.kv_heads", shape.kv_heads);
  detail::check_equal("write: values.heads()", values.heads(), "shape.kv_heads", shape.kv_heads);
  detail::check_equal("write: keys.dim()", keys.dim(), "the key width", shape.key_width());
  detail::check_equal("write: values.dim()", values.dim(), "the value width", shape.value_width());
  if (tokens == 0) { return; }
  require(!keys.empty() && !values.empty(), ErrorCode::input, "write: keys or values is null");
  detail::check_extent("write: keys", keys);
  detail::check_extent("write: values", values);
  detail::check_finite("write: keys", keys, largest_key(layer) / detail::key_growth(shape), 0, shape.kv_heads, row_.data());
  detail::check_finite("write: values", values, largest_value(layer), 0, shape.kv_heads, row_.data());
  check_waits("write", layer);
  check_branches("write", layer);
  Vector<std::size_t> rows(Allocator<std::size_t>{memory_});  // (heads, tokens)
  for (std::size_t head = 0; head < shape.kv_heads; ++head) {
    const Lane& lane = at(layer).lanes[head];
    detail::check_writes_in_place(detail::eviction_name<P>(options_, site(layer, head)), detail::needs<P>(lane.state),
                                  detail::facts_of(lane.keys), detail::facts_of(lane.values));
    const RowTable& table = at(layer).table(head);
    const std::size_t first = std::max(lane.first_writable(), lane.index_end());
    for (std::size_t t = 0; t < tokens; ++t) {
      std::size_t row = table.rows();
      while (row > 0 && (table.position(row - 1) != positions[t] || positions[t] == no_position)) { --row; }
      require(row > 0, ErrorCode::position, "write: positions[", t, "] is ", positions[t], ", must be that of a row of layer ", layer,
              ", KV head ", head);
      require(row > first, ErrorCode::position, "write: positions[", t, "] is ", positions[t], ", must be that of an exact row: in layer ",
              layer, ", KV head ", head, ", the first ", first, " rows are encoded or indexed");
      rows.push_back(row - 1);
    }
  }
  if constexpr (detail::WritesRows<Keys> && detail::WritesRows<Values>) {
    Layer& l = changes().own(layer);
    for (std::size_t i = 0; i < rows.size(); ++i) {  // what may fail comes first
      l.lanes[i / tokens].keys.prepare_to_write(rows[i]);
      l.lanes[i / tokens].values.prepare_to_write(rows[i]);
    }
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const std::size_t head = i / tokens;
      const RowTable& table = l.table(head);
      float* const key = row_.data();
      keys.load(i % tokens, head, key);
      Rotation& rotation = workspace_.rotation_of(layer);
      if (shape.keys == KeyForm::unrotated) {
        rotation.turn_by(table.position(rows[i]));
        rotation.embed(key);
      }
      if (table.turned(rows[i]) != table.position(rows[i])) {  // the row was shifted: its key stays at the angle it had
        rotation.turn_by(std::int64_t{table.turned(rows[i])} - std::int64_t{table.position(rows[i])});
        rotation.apply(key);
      }
      l.lanes[head].keys.write(rows[i], key);
      l.lanes[head].values.write(rows[i], values.row(i % tokens, head, row_.data() + shape.key_width()));
    }
  }
}

}  // namespace kvcompress
