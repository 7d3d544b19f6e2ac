// include/kvcompress/cache/appending.hpp - rows that come: in order, at given positions, as a tree of drafts of which a path stays.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>

#include "kvcompress/cache.hpp"
#include "kvcompress/cache/open_rows.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

template <class P>
void KVCache<P>::append(std::size_t layer, const Rows& keys, const Rows& values, Position first_position) {
  check_owner("append", layer);
  detail::check_rows(shape_.of(layer), keys, values, first_position, at(layer).next, largest_key(layer), largest_value(layer), row_.data());
  append_at(layer, keys, values, detail::RowPlaces{first_position}, {});
}

template <class P>
void KVCache<P>::append(std::size_t layer, const Rows& keys, const Rows& values, std::span<const Position> positions) {
  check_owner("append", layer);
  const Layer& l = at(layer);
  detail::check_rows(shape_.of(layer), keys, values, l.next, l.next, largest_key(layer), largest_value(layer), row_.data());
  detail::check_places(positions, keys.tokens(), l.next, l.in_prompt);
  Vector<Position> ranks{Allocator<Position>(memory_)};  // of tokens among the positions, where several may share one
  if (detail::branching(positions)) {
    Vector<Position> sorted(positions.begin(), positions.end(), Allocator<Position>(memory_));
    std::sort(sorted.begin(), sorted.end(), [](Position a, Position b) { return a < b; });
    sorted.erase(std::unique(sorted.begin(), sorted.end()), sorted.end());
    for (const Position p : positions) {
      ranks.push_back(static_cast<Position>(std::lower_bound(sorted.begin(), sorted.end(), p) - sorted.begin()));
    }
  }
  append_at(layer, keys, values, detail::RowPlaces{positions.front(), positions}, ranks);
}

template <class P>
void KVCache<P>::append_at(std::size_t layer, const Rows& keys, const Rows& values, const detail::RowPlaces& places,
                           std::span<const Position> ranks) {
  check_waits("append", layer);
  check_branches("append", layer);
  const Position end = places.end(keys.tokens());
  const bool gaps = end - places.first != keys.tokens();  // then the table spells its positions out
  changes().commit_and(layer, keys.tokens(), gaps || !ranks.empty() ? no_position : places.first, [&](Layer& l) {
    for (std::size_t t = 0; t < keys.tokens(); ++t) {
      const Position position = places.at(t);
      for (std::size_t head = 0; head < l.lanes.size(); ++head) { append_row(l.lanes[head], keys, values, t, layer, head, position); }
      for (RowTable& table : l.tables) {
        ranks.empty() ? table.append(position) : table.append(position, static_cast<Position>(table.live() - t + ranks[t]));
      }
      l.note_appended(position, position + 1);
    }
    l.next = end;
    l.open += keys.tokens();
    l.branches = !ranks.empty();
  });
}

template <class P>
void KVCache<P>::keep_open(std::size_t layer, std::span<const std::size_t> rows) {
  check_owner("keep_open", layer);
  detail::OpenStep<P>::check(at(layer), layer, rows, options_.speculation);
  const detail::OpenStep<P> step{changes().own(layer)};
  step.make_room();
  step.keep(rows);
  marks_[layer].truncate(at(layer).committed);
}

template <class P>
void KVCache<P>::check_branches(const char* verb, std::size_t layer) const {
  require(!at(layer).branches, ErrorCode::phase, verb, "(layer = ", layer,
          ") while its open rows are a tree of drafts: keep_open(layer, rows) first, which says those that are accepted");
}

template <class P>
void KVCache<P>::append_row(Lane& lane, const Rows& keys, const Rows& values, std::size_t token, std::size_t layer, std::size_t head,
                            Position position) {
  const Shape& shape = shape_.of(layer);
  const float* key = keys.row(token, head, row_.data());
  const float* value = values.row(token, head, row_.data() + shape.key_width());
  if (shape.keys == KeyForm::unrotated) {
    if (key != row_.data()) { std::copy_n(key, shape.key_width(), row_.data()); }
    Rotation& rotation = workspace_.rotation_of(layer);
    rotation.turn_by(position);
    rotation.embed(row_.data());
    key = row_.data();
  }
  lane.keys.append(key);
  lane.values.append(value);
  lane.state.resize(lane.keys.rows());
  if constexpr (ObservesRows<Eviction>) {
    Eviction::observe_row(options_.eviction, lane.state, lane.keys.rows() - 1, std::span<const float>(key, shape.key_width()),
                          std::span<const float>(value, shape.value_width()));
  }
}

}  // namespace kvcompress
