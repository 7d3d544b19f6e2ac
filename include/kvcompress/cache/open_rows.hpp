// include/kvcompress/cache/open_rows.hpp - which rows of an open step stay: those of the accepted drafts.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

#include "kvcompress/cache/layer.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

/// The open rows of a layer, which are exact and alive at the end of every lane, at the same positions in all of them. They are counted from
/// the first one since the last commit.
template <class P>
struct OpenStep {
  Layer<P>& layer;

  static Position position(const Layer<P>& layer, std::size_t open_row) noexcept {
    const RowTable& table = layer.tables.front();
    return table.position(table.rows() - layer.open + open_row);
  }
  /// Raises an Error unless these rows can stay and the others go.
  static void check(const Layer<P>& layer, std::size_t number, std::span<const std::size_t> kept, std::size_t speculation) {
    require(!layer.in_prompt, ErrorCode::phase, "keep_open(layer = ", number,
            ") while its prompt is open: truncate forgets its newest rows");
    require(layer.open > 0, ErrorCode::phase, "keep_open(layer = ", number, ") before append: no rows since the last commit");
    Position gone = no_position;
    std::size_t next = 0;
    for (std::size_t i = 0; i <= kept.size(); ++i) {
      const std::size_t row = i < kept.size() ? kept[i] : layer.open;
      require(i == kept.size() || (row < layer.open && row >= next), ErrorCode::input, "keep_open: rows[", i, "] is ", row,
              ", must be at least ", next, ", and less than the ", layer.open, " rows since the last commit");
      require(i == 0 || i == kept.size() || position(layer, row) > position(layer, kept[i - 1]), ErrorCode::position, "keep_open: rows[", i,
              "] is at position ", row < layer.open ? position(layer, row) : 0,
              ", must be above that of the row before it: they are a path");
      for (; next < row; ++next) { gone = std::min(gone, position(layer, next)); }
      ++next;
    }
    for (const Lane<P>& lane : layer.lanes) {
      require(gone >= lane.observed_end && gone >= lane.last.revocable_from(), ErrorCode::phase, "keep_open: position ", gone,
              " goes, must be at least ", std::max(lane.observed_end, lane.last.revocable_from()),
              ": observed queries before it are counted already (Options::speculation is ", speculation, ")");
    }
  }
  /// Afterwards keep cannot fail; the layer belongs to one cache.
  void make_room() const {
    for (RowTable& table : layer.tables) { table.reserve(table.rows()); }
    for (std::size_t head = 0; head < layer.lanes.size(); ++head) {
      const std::size_t rows = layer.table(head).rows();
      layer.lanes[head].make_writable(rows - layer.open, rows);
    }
  }
  /// Only these rows stay, ascending.
  void keep(std::span<const std::size_t> kept) const noexcept {
    bool in_order = true;
    Position next = layer.committed;
    for (std::size_t i = 0, row = 0; row < layer.open; ++row) {
      const Position at = position(layer, row);
      if (i == kept.size() || kept[i] != row) {
        layer.note_appended(at + 1, at);
        continue;
      }
      in_order = in_order && (i == 0 || at >= next);
      next = std::max(next, at + 1);
      ++i;
    }
    for (Lane<P>& lane : layer.lanes) {
      lane.last.keep([&](Position p) {
        return p < layer.committed || std::any_of(kept.begin(), kept.end(), [&](std::size_t row) { return position(layer, row) == p; });
      });
    }
    for (std::size_t unit = 0; unit < layer.tables.size(); ++unit) {
      RowTable& table = layer.tables[unit];
      const std::size_t first = table.rows() - layer.open;
      for (Lane<P>& lane : layer.unit(unit)) {
        for (std::size_t i = 0; i < kept.size(); ++i) {
          if (kept[i] != i) { lane.move(first + kept[i], first + i); }
        }
        lane.resize(first + kept.size());
        lane.pending.keep(first, kept);
        if constexpr (may_remember<P>) { lane.memos.truncate(layer.committed); }
        lane.shown.truncate(next, layer.prompt_tokens == 0);
      }
      table.keep(first, kept, in_order);
    }
    layer.open = kept.size();
    layer.next = next;
    layer.branches = !in_order;
  }
};

/// Whether positions neither ascend one by one nor with gaps: a tree of drafts, or rows out of order.
inline bool branching(std::span<const Position> positions) noexcept {
  for (std::size_t i = 1; i < positions.size(); ++i) {
    if (positions[i] <= positions[i - 1]) { return true; }
  }
  return false;
}

/// The position of each row of an append: consecutive ones, or given ones.
struct RowPlaces {
  Position first = 0;
  std::span<const Position> given{};
  [[nodiscard]] Position at(std::size_t token) const noexcept {
    return given.empty() ? first + static_cast<Position>(token) : given[token];
  }
  [[nodiscard]] Position end(std::size_t tokens) const noexcept {
    Position end = given.empty() ? first + static_cast<Position>(tokens) : 0;
    for (const Position p : given) { end = std::max(end, p + 1); }
    return end;
  }
};

}  // namespace kvcompress::detail
