// include/kvcompress/cache/leaving_rows.hpp - how rows leave lanes that share a table: gaps are closed, dead blocks removed, live rows encoded anew.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

#include "kvcompress/cache/commit_scratch.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

/// Calls work(stores) for each member of a scope, or for all of them where they encode together.
template <class S>
void for_members(std::span<S* const> members, auto&& work) {
  if (facts_of(*members.front()).scope != Scope::lane) { return work(members); }
  for (std::size_t i = 0; i < members.size(); ++i) { work(members.subspan(i, 1)); }
}

/// Changes of lanes that keep the same rows, and of their table: all of them together, row by row.
template <class P>
struct LeavingRows {
  using Keys = typename Lane<P>::Keys;
  using Values = typename Lane<P>::Values;

  static void move_row(RowTable& table, std::span<Lane<P>> members, std::size_t from, std::size_t to) {
    for (Lane<P>& lane : members) { lane.move(from, to); }
    table.move(from, to);
  }
  static void cut(RowTable& table, std::span<Lane<P>> members, std::size_t rows) noexcept {
    for (Lane<P>& lane : members) { lane.resize(rows); }
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
    for (std::size_t row = table.next_dead(0); row < end; row = table.next_dead(row + 1)) {
      while (end > row && !table.alive(end - 1)) { --end; }
      if (end > row) { move_row(table, members, --end, row); }
    }
    cut(table, members, std::min(end, table.rows()));
  }
  static void erase_dead_blocks(RowTable& table, std::span<Lane<P>> members) {
    const Lane<P>& first = members.front();
    const std::size_t both = std::min(first.keys.settled(), first.value_store().settled());
    RowRange gone{};  // dead blocks side by side, whose rows leave together
    for (std::size_t end = both; end > 0;) {
      const RowRange block = first.keys.block_at(end - 1);
      end = block.first;
      const RowRange same = first.value_store().block_at(block.first);
      const bool whole = block.last <= both && same.first == block.first && same.last == block.last;
      if (!whole || table.any_alive(block.first, block.last)) {
        erase_rows(table, members, gone);
        gone = {};
        continue;
      }
      for (Lane<P>& lane : members) {
        lane.keys.erase_block(block.first);
        lane.values.erase_block(block.first);
      }
      gone = {block.first, gone.size() == 0 ? block.last : gone.last};
    }
    erase_rows(table, members, gone);
  }
  static void erase_rows(RowTable& table, std::span<Lane<P>> members, RowRange gone) noexcept {
    if (gone.size() == 0) { return; }
    for (Lane<P>& lane : members) {
      lane.state.erase(gone.first, gone.size());
      lane.index.erase(gone.first, gone.size());
    }
    table.erase(gone.first, gone.size());
  }
  /// Whether the stores of a lane, which both must, can encode live rows anew.
  static bool compacts(const Lane<P>& lane) noexcept { return facts_of(lane.keys).compacts && facts_of(lane.values).compacts; }
  /// Calls work(stores) for the key stores, then the value stores of these lanes, those that encode together at once.
  static void for_stores(std::span<Lane<P>> members, CommitScratch<P>& scratch, auto&& work) {
    scratch.keys.clear();
    scratch.values.clear();
    for (Lane<P>& lane : members) {
      scratch.keys.push_back(&lane.keys);
      scratch.values.push_back(&lane.values);
    }
    for_members(std::span<Keys* const>(scratch.keys.data(), scratch.keys.size()), work);
    for_members(std::span<Values* const>(scratch.values.data(), scratch.values.size()), work);
  }
  static void prepare_to_compact(const RowTable& table, std::span<Lane<P>> members, CommitScratch<P>& scratch) {
    for_stores(members, scratch, [&]<class S>(std::span<S* const> stores) {
      if constexpr (Compacts<S>) { S::prepare_to_compact(stores, table, scratch.rows); }
    });
  }
  /// Encodes the live rows anew, without the dead ones.
  static void rebuild(RowTable& table, std::span<Lane<P>> members, CommitScratch<P>& scratch) {
    prepare_to_compact(table, members, scratch);  // what could fail happens before anything moves
    for_stores(members, scratch, [&]<class S>(std::span<S* const> stores) {
      if constexpr (Compacts<S>) { S::compact(stores, table, scratch.rows); }
    });
    std::size_t kept = 0;
    for (std::size_t row = 0; row < table.rows(); ++row) {
      if (!table.alive(row)) { continue; }
      if (kept != row) {
        for (Lane<P>& lane : members) {
          lane.state.move(row, kept);
          lane.index.move(row, kept);
        }
        table.move(row, kept);
      }
      ++kept;
    }
    table.resize(kept);
    for (Lane<P>& lane : members) {
      lane.state.resize(kept);
      lane.index.resize(kept);
    }
  }
};

}  // namespace kvcompress::detail
