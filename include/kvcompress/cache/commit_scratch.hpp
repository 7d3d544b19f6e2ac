// include/kvcompress/cache/commit_scratch.hpp - what a commit needs for a while: flags of rows, room to sort, lists of what decides together.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <span>

#include "kvcompress/cache/lane.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

template <class P>
struct Layer;

/// A copy of what an eviction has seen in one lane.
template <class P>
struct SeenByLane {
  typename Lane<P>::State state;
  Pending pending;
  bool kept;
  Position observed_end;
};

/// Buffers that a commit needs; they hold nothing between calls.
template <class P>
struct CommitScratch {
  explicit CommitScratch(const Memory& memory)
      : rows(Allocator<float>(memory)), order(Allocator<Position>(memory)), cold(Allocator<std::size_t>(memory)),
        drop(Allocator<unsigned char>(memory)), decision(memory), writes(memory), views(Allocator<LaneView>(memory)),
        sets(Allocator<RowSet>(memory)), seen(Allocator<typename Lane<P>::State>(memory)), keys(Allocator<typename Lane<P>::Keys*>(memory)),
        values(Allocator<typename Lane<P>::Values*>(memory)), reads(Allocator<Reads>(memory)), layers(Allocator<Layer<P>*>(memory)),
        before(Allocator<SeenByLane<P>>(memory)) {}

  /// One flag per row of all units, all 0; room for the rows of the longest of them in `order`.
  void start(std::size_t all_rows, std::size_t longest) {
    const auto grow = [](auto& vector, std::size_t size) {
      if (vector.capacity() < size) { vector.reserve(std::max(size, 2 * vector.capacity())); }
    };
    grow(drop, all_rows);
    grow(order, longest);
    drop.assign(all_rows, 0);
  }
  /// For layers of so many units and lanes.
  void reserve(std::size_t units, std::size_t lanes, std::size_t row_count) {
    views.reserve(lanes);
    drop.reserve(units * row_count);
    order.reserve(row_count);
    sets.reserve(units);
    if constexpr (!std::is_same_v<typename Lane<P>::State, NoState>) { decision.reserve(units, units * row_count); }
  }
  /// Room to name all stores of `lanes` lanes.
  void reserve_members(std::size_t lanes) {
    keys.reserve(lanes);
    values.reserve(lanes);
    reads.reserve(lanes);
  }
  /// A prompt's scratch is long; decoding needs little of it, or what was reserved.
  void shrink(std::size_t reserved) noexcept {
    if (reserved > 0) { return; }
    Vector<SeenByLane<P>>(before.get_allocator()).swap(before);
    if (rows.capacity() > std::size_t{128} * 256) { Vector<float>(rows.get_allocator()).swap(rows); }
    if (order.capacity() > 64) { Vector<Position>(order.get_allocator()).swap(order); }
    if (drop.capacity() > 64) { Vector<unsigned char>(drop.get_allocator()).swap(drop); }
    decision.shrink();
    writes.shrink();
  }
  void account(MemoryReport& report) const noexcept {
    report.add(&MemoryReport::scratch, rows);
    report.add(&MemoryReport::scratch, order);
    report.add(&MemoryReport::scratch, cold);
    report.add(&MemoryReport::scratch, drop);
    decision.account(report);
    writes.account(report);
    report.add(&MemoryReport::scratch, views);
    report.add(&MemoryReport::scratch, sets);
    MemoryReport states;
    for (const auto& state : seen) { state.account(states); }
    report.scratch += states.total() + seen.capacity() * sizeof(seen[0]);
    MemoryReport copies;
    for (const SeenByLane<P>& lane : before) {
      lane.state.account(copies);
      lane.pending.account(copies);
    }
    report.scratch += copies.total();
    report.add(&MemoryReport::scratch, before);
    report.add(&MemoryReport::scratch, keys);
    report.add(&MemoryReport::scratch, values);
    report.add(&MemoryReport::scratch, reads);
    report.add(&MemoryReport::scratch, layers);
  }

  Vector<float> rows;
  Vector<Position> order;
  Vector<std::size_t> cold;    // (units) rows before these are cold, where some got colder
  Vector<unsigned char> drop;  // (rows of all units of a layer)
  DecisionScratch decision;
  const Tokens* tokens = nullptr;  // the cache's
  Writes writes;                   // of what is decided
  Vector<LaneView> views;          // lanes that are decided over
  Vector<RowSet> sets;
  Vector<typename Lane<P>::State> seen;  // (lanes) states before the observations that a commit counts
  bool counted = false;                  // it has, and may have to take that back
  Vector<typename Lane<P>::Keys*> keys;  // members that encode together
  Vector<typename Lane<P>::Values*> values;
  Vector<Reads> reads;           // what their retrieval says
  Vector<Layer<P>*> layers;      // that commit together
  Vector<SeenByLane<P>> before;  // (lanes) before a call of observe that may fail
};

/// The first row from `row` on that is marked in `drop`, or drop.size().
inline std::size_t next_marked(std::span<const unsigned char> drop, std::size_t row) noexcept {
  const void* found = row < drop.size() ? std::memchr(drop.data() + row, 1, drop.size() - row) : nullptr;
  return found == nullptr ? drop.size() : static_cast<std::size_t>(static_cast<const unsigned char*>(found) - drop.data());
}

}  // namespace kvcompress::detail
