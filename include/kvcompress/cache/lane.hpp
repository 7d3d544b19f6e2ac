// include/kvcompress/cache/lane.hpp - the lanes of one layer: their stores, tables and states, and the one remap of rows.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

#include "kvcompress/cache/observation.hpp"
#include "kvcompress/concepts.hpp"
#include "kvcompress/policies/combine.hpp"

namespace kvcompress::detail {

/// Buffers that a commit needs; they hold nothing between calls.
struct CommitScratch {
  explicit CommitScratch(const Memory& memory)
      : rows(Allocator<float>(memory)), order(Allocator<Position>(memory)), drop(Allocator<unsigned char>(memory)) {}

  void account(MemoryReport& report) const noexcept {
    report.add(&MemoryReport::scratch, rows);
    report.add(&MemoryReport::scratch, order);
    report.add(&MemoryReport::scratch, drop);
  }

  Vector<float> rows;
  Vector<Position> order;
  Vector<unsigned char> drop;
};

/// One KV head of one layer.
template <class P>
struct Lane {
  using Keys = typename Axes<P>::Storage::Keys;
  using Values = typename Axes<P>::Storage::Values;
  using State = typename Axes<P>::Eviction::State;

  Lane(const Shape& shape, const PolicyOptions<P>& options, const Memory& memory)
      : keys(options.storage, shape.key_width(), memory), values(options.storage, shape.value_width(), memory),
        state(Axes<P>::Eviction::state(options.eviction, shape, memory)), last(memory), pending(memory) {}

  Keys keys;
  Values values;
  State state;
  LastQueries last;
  Pending pending;
  Position observed_end = 0;  // observations of queries before this position can no longer be taken back

  /// Rows before this one are encoded in one store or the other and keep their place.
  [[nodiscard]] std::size_t settled() const noexcept { return std::max(keys.settled(), values.settled()); }

  void account(MemoryReport& report) const noexcept {
    keys.account(report);
    values.account(report);
    state.account(report);
    last.account(report);
    pending.account(report);
  }
};

/// All lanes of one layer. Lanes that decide together share one row table.
template <class P>
struct Layer {
  using Eviction = typename Axes<P>::Eviction;
  static constexpr bool per_lane = Eviction::scope == Scope::lane;

  Layer(const Shape& shape, const PolicyOptions<P>& options, const Memory& memory)
      : lanes(Allocator<Lane<P>>(memory)), tables(Allocator<RowTable>(memory)) {
    lanes.reserve(shape.kv_heads);
    for (std::size_t head = 0; head < shape.kv_heads; ++head) { lanes.emplace_back(shape, options, memory); }
    const std::size_t count = per_lane ? shape.kv_heads : 1;
    tables.reserve(count);
    for (std::size_t unit = 0; unit < count; ++unit) { tables.emplace_back(Eviction::renumbers(options.eviction), memory); }
  }

  [[nodiscard]] const RowTable& table(std::size_t head) const noexcept { return tables[per_lane ? head : 0]; }
  /// The lanes that table `unit` describes.
  [[nodiscard]] std::span<Lane<P>> unit(std::size_t index) noexcept {
    return per_lane ? std::span(&lanes[index], 1) : std::span(lanes.data(), lanes.size());
  }

  /// Removes the rows marked in `drop` from the lanes of a unit: positions, rows, states move in one operation. Exact rows close the gap
  /// (in order, or the last ones jump into the free places); encoded rows die in place, and go when a whole block of 128 is dead
  /// or when fewer than half of them are alive.
  void evict(std::size_t index, std::span<const unsigned char> drop, bool in_order, Vector<float>& scratch) {
    RowTable& table = tables[index];
    const auto members = unit(index);
    const std::size_t settled = members.front().settled();
    bool any = false;
    for (std::size_t row = 0; row < table.rows(); ++row) {
      if (drop[row] != 0 && table.alive(row)) {
        table.kill(row);
        any = true;
      }
    }
    if (!any) { return; }
    table.settle();
    in_order || settled > 0 ? close_gaps(table, members, settled) : fill_gaps(table, members);
    if constexpr (requires { members.front().keys.erase_block(std::size_t{}); }) {
      if (settled > 0) { tidy_encoded(table, members, scratch); }
    }
  }

  void account(MemoryReport& report) const noexcept {
    report.add(&MemoryReport::indices, lanes);
    report.add(&MemoryReport::indices, tables);
    for (const Lane<P>& lane : lanes) { lane.account(report); }
    for (const RowTable& table : tables) { table.account(report); }
  }

  Vector<Lane<P>> lanes;
  Vector<RowTable> tables;
  Position next = 0;              // position of the next token
  Position committed = 0;         // `next` at the last commit
  std::size_t open = 0;           // rows since the last commit
  bool in_prompt = true;          // until the first end_prompt
  std::size_t prompt_tokens = 0;  // tokens up to the last end_prompt
  std::size_t budget = 0;         // the eviction's budget in rows, known from the first end_prompt on

 private:
  static void move_row(RowTable& table, std::span<Lane<P>> members, std::size_t from, std::size_t to) {
    for (Lane<P>& lane : members) {
      lane.keys.move(from, to);
      lane.values.move(from, to);
      lane.state.move(from, to);
    }
    table.move(from, to);
  }
  static void cut(RowTable& table, std::span<Lane<P>> members, std::size_t rows) noexcept {
    for (Lane<P>& lane : members) {
      lane.keys.resize(rows);
      lane.values.resize(rows);
      lane.state.resize(rows);
    }
    table.resize(rows);
  }
  static void close_gaps(RowTable& table, std::span<Lane<P>> members, std::size_t first) {
    std::size_t kept = first;
    for (std::size_t row = first; row < table.rows(); ++row) {
      if (!table.alive(row)) { continue; }
      if (kept != row) { move_row(table, members, row, kept); }
      ++kept;
    }
    cut(table, members, kept);
  }
  static void fill_gaps(RowTable& table, std::span<Lane<P>> members) {
    std::size_t end = table.rows();
    for (std::size_t row = 0; row < end; ++row) {
      if (table.alive(row)) { continue; }
      while (end > row && !table.alive(end - 1)) { --end; }
      if (end > row) { move_row(table, members, --end, row); }
    }
    cut(table, members, std::min(end, table.rows()));
  }
  static void tidy_encoded(RowTable& table, std::span<Lane<P>> members, Vector<float>& scratch) {
    constexpr std::size_t block = Lane<P>::Keys::block_rows;
    static_assert(block == Lane<P>::Values::block_rows, "key and value stores of a policy use blocks of the same length");
    const std::size_t both = std::min(members.front().keys.settled(), members.front().values.settled());
    for (std::size_t end = both / block * block; end >= block; end -= block) {
      if (table.live_in(end - block, end) > 0) { continue; }
      for (Lane<P>& lane : members) {
        lane.keys.erase_block(end - block);
        lane.values.erase_block(end - block);
        lane.state.erase(end - block, block);
      }
      table.erase(end - block, block);
    }
    const std::size_t settled = members.front().settled();
    if (2 * table.live_in(0, settled) >= settled) { return; }
    for (Lane<P>& lane : members) {  // what could fail happens before anything moves
      lane.keys.unshare();
      lane.values.unshare();
    }
    std::size_t kept = 0;
    for (Lane<P>& lane : members) {
      lane.keys.compact(table, scratch);
      lane.values.compact(table, scratch);
      kept = 0;
      for (std::size_t row = 0; row < table.rows(); ++row) {
        if (table.alive(row)) { lane.state.move(row, kept++); }
      }
      lane.state.resize(kept);
    }
    kept = 0;
    for (std::size_t row = 0; row < table.rows(); ++row) {
      if (!table.alive(row)) { continue; }
      if (kept != row) { table.move(row, kept); }
      ++kept;
    }
    table.resize(kept);
  }
};

}  // namespace kvcompress::detail
