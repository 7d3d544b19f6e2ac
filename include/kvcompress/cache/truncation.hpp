// include/kvcompress/cache/truncation.hpp - how far back a layer can forget its newest rows as if they had never come.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>

#include "kvcompress/cache/layer.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

/// The position from which on all rows can be forgotten; the last commit's where nothing older can. Rows that are exact still can, unless an
/// eviction has decided since. Their commits may have encoded older rows, which stay so.
template <class P>
Position least_kept(const Layer<P>& layer) noexcept {
  const auto remembers = [](const Lane<P>& lane) { return keeps_what_it_saw(needs<P>(lane.state)); };
  const bool gone = layer.window > 0 && layer.committed >= layer.window;  // rows that queries before the commit saw
  if (layer.waiting || gone || std::any_of(layer.lanes.begin(), layer.lanes.end(), remembers)) { return layer.committed; }
  Position least = 0;
  for (std::size_t head = 0; head < layer.lanes.size(); ++head) {
    const RowTable& table = layer.table(head);
    std::size_t row = layer.lanes[head].settled();
    while (row > 0 && !table.alive(row - 1)) { --row; }
    if (row > 0) { least = std::max(least, table.position(row - 1) + 1); }
  }
  return std::min(least, layer.committed);
}

/// Raises an Error if the rows at positions >= position cannot be forgotten exactly.
template <class P>
void check_truncate(const Layer<P>& layer, Position position, std::size_t number, std::size_t speculation) {
  if (position >= layer.next) { return; }
  if (position < layer.committed) {
    const Position least = least_kept(layer);
    require(least < layer.committed, ErrorCode::position, "truncate: position is ", position,
            ", must be at least the position of the last commit, ", layer.committed, " in layer ", number);
    require(position >= least, ErrorCode::position, "truncate: position is ", position, ", must be at least ", least, " in layer ", number,
            ": older rows are encoded");
  }
  for (const Lane<P>& lane : layer.lanes) {
    require(position >= lane.observed_end, ErrorCode::phase, "truncate: position is ", position, ", must be at least ", lane.observed_end,
            ": observed queries before it are counted already (Options::speculation is ", speculation, ")");
    const Position least = lane.last.revocable_from();
    require(position >= least, ErrorCode::phase, "truncate: position is ", position, ", must be above ", least - 1,
            ": the queries before the observation window are gone");
  }
}

}  // namespace kvcompress::detail
