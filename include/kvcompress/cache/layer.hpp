// include/kvcompress/cache/layer.hpp - the lanes of one layer, their phase, and the one remap of rows.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <type_traits>

#include "kvcompress/cache/commit_scratch.hpp"
#include "kvcompress/cache/leaving_rows.hpp"
#include "kvcompress/cache/rows_of_budget.hpp"
#include "kvcompress/cache/scatter.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

/// All lanes of one layer. Lanes that decide or encode together share one row table.
template <class P>
struct Layer {
  using Eviction = typename Axes<P>::Eviction;
  using Keys = typename Lane<P>::Keys;
  using Values = typename Lane<P>::Values;
  using Storage = typename Axes<P>::Storage;
  using Leaving = LeavingRows<P>;
  static constexpr bool may_compact = Compacts<Keys> && Compacts<Values> && (Settles<Keys> || Settles<Values>);
  /// How many row tables a layer has: one, or one per lane.
  static std::size_t tables_of(const PolicyOptions<P>& options, const Shape& shape, std::size_t layer) noexcept {
    const bool apart = storage_scope_at<Storage>(options.storage, shape, layer) == Scope::lane &&
                       (agreement<P>(options, shape, layer) == Scope::lane || !held_alike<Storage>(options.storage, shape, layer));
    return apart ? shape.of(layer).kv_heads : 1;
  }

  /// `most`: rows of a lane under a budget in bytes; all 0 without one.
  Layer(const Shape& shape, std::size_t layer, const PolicyOptions<P>& options, const MostRows& most, const Memory& memory)
      : lanes(Allocator<Lane<P>>(memory)), tables(Allocator<RowTable>(memory)), budgets(Allocator<std::size_t>(memory)) {
    if (!shape.owns(layer)) { return; }  // it reads the rows of another
    const std::size_t heads = shape.of(layer).kv_heads;
    window = shape.widest_window(layer);
    readers = shape.readers(layer);
    lanes.reserve(heads);
    for (std::size_t head = 0; head < heads; ++head) {
      const Site site{layer, head, shape};
      lanes.emplace_back(site, options, memory);
      const StoreFacts& keys = facts_of(lanes.back().keys);
      const StoreFacts& values = facts_of(lanes.back().values);
      encodes = encodes || keys.encodes || values.encodes;
      evicts = evicts || lanes.back().decides();
      indexes = indexes || retrieves<P>(lanes.back().index);
      notes_queries = notes_queries || lanes.back().notes_queries();
      largest_key = std::min(largest_key, keys.largest);
      largest_value = std::min(largest_value, values.largest);
      const MostRows rows = most.live > 0 ? rows_of_budget<P>(options, site, rows_past_none<P>(options, site, most.live)) : MostRows{};
      if (lanes.back().decides() || window > 0) { lanes.back().keep_memory(rows); }
      if (most.live == 0) { continue; }
      most_dead = head == 0 ? rows.dead : std::max(most_dead, rows.dead);
      most_decoded = rows.decoded;
      most_queries = 1 + options.speculation;
    }
    largest_key = std::min(largest_key, largest_indexed_key<P>(options, shape, layer));
    const std::size_t count = tables_of(options, shape, layer);
    tables.reserve(count);
    for (std::size_t unit = 0; unit < count; ++unit) { tables.emplace_back(renumbers<P>(options, {layer, unit, shape}), memory); }
    budgets.resize(count);
  }

  [[nodiscard]] const RowTable& table(std::size_t head) const noexcept { return tables[tables.size() == 1 ? 0 : head]; }
  [[nodiscard]] RowTable& table_of(std::size_t head) noexcept { return tables[tables.size() == 1 ? 0 : head]; }
  /// The lanes that table `unit` describes.
  [[nodiscard]] std::span<Lane<P>> unit(std::size_t index) noexcept {
    return tables.size() == 1 ? std::span(lanes.data(), lanes.size()) : std::span(&lanes[index], 1);
  }

  /// Whether some lane evicts.
  [[nodiscard]] bool decides() const noexcept {
    if constexpr (may<P>.decides == Decides::never) { return false; }
    return evicts;
  }

  /// Whether rows may leave: some lane evicts, or they do past a window.
  [[nodiscard]] bool loses() const noexcept {
    if constexpr (!may_lose<P>) { return false; }
    return evicts || window > 0;
  }
  [[nodiscard]] bool loses(const Lane<P>& lane) const noexcept { return lane.decides() || window > 0; }
  /// Whether some lane decides over all layers at once when a prompt ends.
  [[nodiscard]] bool decides_with_model() const noexcept {
    if constexpr (!may<P>.model) { return false; }
    return std::any_of(lanes.begin(), lanes.end(), [](const Lane<P>& lane) { return needs<P>(lane.state).model; });
  }

  /// The part of the flags of all rows that is a unit's.
  [[nodiscard]] std::span<unsigned char> drops(std::size_t index, CommitScratch<P>& scratch) const noexcept {
    std::size_t first = 0;
    for (std::size_t before = 0; before < index; ++before) { first += tables[before].rows(); }
    return {scratch.drop.data() + first, tables[index].rows()};
  }
  /// Whether a lane's row is marked.
  [[nodiscard]] bool goes(std::size_t head, std::size_t row, CommitScratch<P>& scratch) const noexcept {
    return drops(tables.size() == 1 ? 0 : head, scratch)[row] == static_cast<unsigned char>(Fate::drop);
  }
  /// Clears the flags of all rows.
  void start(CommitScratch<P>& scratch) const {
    std::size_t rows = 0;
    std::size_t longest = 0;
    for (const RowTable& table : tables) {
      rows += table.rows();
      longest = std::max(longest, table.rows());
    }
    scratch.start(rows, longest);
  }

  /// Marks the rows at positions [first, last), in all lanes or those that evict; returns whether there are any.
  bool mark(Position first, Position last, bool all_lanes, CommitScratch<P>& scratch) const {
    start(scratch);
    bool any = false;
    for (std::size_t unit_index = 0; unit_index < tables.size(); ++unit_index) {
      if (!all_lanes && !lanes[unit_index].decides()) { continue; }
      const std::span<unsigned char> drop = drops(unit_index, scratch);
      for (std::size_t row = 0; row < drop.size(); ++row) {
        const Position p = tables[unit_index].position(row);
        drop[row] = p >= first && p < last && p != no_position ? 1 : 0;
        any = any || drop[row] != 0;
      }
    }
    return any;
  }

  /// Removes the rows marked in `drop` from the lanes of a unit.
  void evict(std::size_t index, std::span<const unsigned char> drop, CommitScratch<P>& scratch, bool in_order) {
    if (next_marked(drop, 0) == drop.size() && tables[index].all_alive()) { return; }
    tables[index].prepare_to_kill(scratch.order);
    kill(index, drop, scratch);
    remove_dead(index, scratch, in_order);
  }
  /// What the stores may need beside the room for the rows they have, or that only copies of them can evict.
  struct EvictionRoom {
    bool made;
    std::size_t more = 0;  // encoded rows that may become exact again
  };
  /// Afterwards evict(..., false) cannot fail, nor can the append of `rows` rows to the table. Not made where stores would have to encode
  /// rows anew aside.
  [[nodiscard]] EvictionRoom make_room_to_evict(std::size_t index, std::span<const unsigned char> drop, std::size_t rows,
                                                CommitScratch<P>& scratch) {
    RowTable& table = tables[index];
    if (next_marked(drop, 0) == drop.size() && table.all_alive()) { return {true}; }
    const auto members = unit(index);
    const std::size_t settled = members.front().settled();
    EvictionRoom needed{true};
    if constexpr (may_compact) {
      std::size_t gone = table.rows() - table.live();  // only encoded rows stay where they died
      for (std::size_t row = next_marked(drop, 0); row < settled; row = next_marked(drop, row + 1)) { ++gone; }
      if (Leaving::compacts(members.front()) && 2 * gone > settled) {  // more often than rows are encoded anew
        const StoreFacts& keys = facts_of(members.front().keys);
        const StoreFacts& values = facts_of(members.front().values);
        if ((keys.encodes && !keys.settles_in_room) || (values.encodes && !values.settles_in_room)) { return {false}; }
        needed.more = std::max(rows_at_once(members.front().keys), rows_at_once(members.front().values));
        scratch.reserve_members(members.size());
        Leaving::prepare_to_compact(table, members, scratch);
      }
    }
    table.prepare_to_kill(scratch.order, rows);
    const std::size_t first = next_marked(drop, settled);
    for (Lane<P>& lane : members) {
      if (settled > 0) {
        lane.make_writable(first, table.rows());
        continue;
      }
      std::size_t marked = 0;
      for (std::size_t row = first; row < table.rows(); row = next_marked(drop, row + 1), ++marked) { lane.make_writable(row, row + 1); }
      lane.make_writable(table.rows() - marked, table.rows());  // one of them lies where the next row is appended
    }
    return needed;
  }
  /// Marks the rows in `drop` as dead; prepare_to_kill of the table must have been called.
  void kill(std::size_t index, std::span<const unsigned char> drop, CommitScratch<P>& scratch) noexcept {
    RowTable& table = tables[index];
    for (std::size_t row = next_marked(drop, 0); row < drop.size(); row = next_marked(drop, row + 1)) {
      if (table.alive(row)) { table.kill(row); }
    }
    table.settle(scratch.order);
  }
  /// Positions, rows, states and indices of the rows that stay move in one operation. Exact rows close the gap (in order, or the last ones
  /// jump into the free places); encoded rows die in place, and go when a whole block of them is dead or, where the stores can encode
  /// anew, when fewer than half of them are alive.
  void remove_dead(std::size_t index, CommitScratch<P>& scratch, bool in_order) {
    RowTable& table = tables[index];
    if (table.all_alive()) { return; }
    const auto members = unit(index);
    const std::size_t settled = members.front().settled();
    in_order || settled > 0 ? Leaving::close_gaps(table, members, settled) : Leaving::fill_gaps(table, members);
    if (settled == 0) { return; }
    const Lane<P>& first = members.front();
    if constexpr (ErasesBlocks<Keys> && ErasesBlocks<Values>) {
      if (facts_of(first.keys).erases_blocks && facts_of(first.values).erases_blocks) { Leaving::erase_dead_blocks(table, members); }
    }
    if constexpr (may_compact) {
      const std::size_t live = table.live() - table.live_in(first.settled(), table.rows());  // of few rows
      if (Leaving::compacts(first) && first.settled() - live > std::min(live, most_dead)) { Leaving::rebuild(table, members, scratch); }
    }
  }

  /// Brings the retrieval's indices up to date; keys of new rows are still exact.
  void refresh_indices(const PolicyOptions<P>& options, Rotation& rotation, bool end_of_prompt, Vector<float>& scratch) {
    for (std::size_t head = 0; indexes && head < lanes.size(); ++head) {
      Lane<P>& lane = lanes[head];
      if (!retrieves<P>(lane.index)) { continue; }
      const auto read = [&](std::size_t row, float* out) { lane.read_key(row, table(head), rotation, out); };
      Lane<P>::Retrieval::refresh(options.retrieval, lane.index, table(head), end_of_prompt, padding_in_place(head), read, scratch);
    }
  }
  /// Afterwards a refresh of the indices that finds at most the rows that are there cannot fail.
  void make_room_to_refresh(const PolicyOptions<P>& options, Vector<float>& scratch) {
    for (std::size_t head = 0; indexes && head < lanes.size(); ++head) {
      if constexpr (requires(typename Lane<P>::Retrieval::State & state) {
                      Lane<P>::Retrieval::make_room_to_refresh(options.retrieval, state, std::size_t{}, scratch);
                    }) {
        Lane<P>::Retrieval::make_room_to_refresh(options.retrieval, lanes[head].index, table(head).rows(), scratch);
      }
    }
  }
  /// Gives back what a prompt needed and its rows that are left do not, but for room for `reserved` rows.
  void compact(std::size_t reserved) {
    const auto room_for = [&](std::size_t rows) { return std::max(slack, reserved - std::min(reserved, rows)); };
    for (Lane<P>& lane : lanes) { lane.state.compact(room_for(lane.keys.rows())); }
    for (RowTable& table : tables) { table.compact(room_for(table.rows())); }
  }
  /// No query of the first prompt saw rows before this position: they are padding.
  [[nodiscard]] Position start() const noexcept {
    Position start = no_position;
    for (const Lane<P>& lane : lanes) { start = std::min(start, lane.shown.start()); }
    return start == no_position ? 0 : start;
  }
  /// Ends the open step and forgets what was seen; after a prompt (end_of_prompt) the memory of it goes too. With `waits` the last queries stay
  /// until the layer is encoded.
  void close(bool end_of_prompt, bool waits = false) noexcept {
    for (std::size_t head = 0; notes_queries && head < lanes.size(); ++head) {
      Lane<P>& lane = lanes[head];
      lane.pending.clear();
      if (!waits) { lane.last.clear(end_of_prompt || lane.last.positions().size() > most_queries); }
      lane.shown.close();
      lane.observed_end = 0;
    }
    open = 0;
    committed = next;
    in_prompt = false;
  }

  /// What a layer that waited kept for its encoding.
  void forget_queries() {
    for (Lane<P>& lane : lanes) { lane.last.clear(true); }
  }
  /// Whether its rows are encoded together with those of other layers.
  [[nodiscard]] bool in_group() const noexcept { return scope() == Scope::group; }
  /// The widest scope in which its lanes are encoded together.
  [[nodiscard]] Scope scope() const noexcept { return std::max(facts_of(lanes.front().keys).scope, facts_of(lanes.front().values).scope); }
  /// Rows at the positions [first, end) have come. Pieces of a text add up to the same number as the whole.
  void note_appended(Position first, Position end) noexcept {
    if (in_group()) { appended += scatter(first) - scatter(end); }
  }
  /// Forgets the rows at positions >= position, which lie at the end, in order.
  void truncate(Position position, const Shape& shape) noexcept {
    const std::size_t before = tables.front().rows();
    for (std::size_t unit_index = 0; unit_index < tables.size(); ++unit_index) {
      RowTable& table = tables[unit_index];
      std::size_t rows = table.rows();
      while (rows > 0 && table.alive(rows - 1) && table.position(rows - 1) >= position) {
        --rows;
        if (unit_index == 0) { note_appended(table.position(rows) + 1, table.position(rows)); }
      }
      for (Lane<P>& lane : unit(unit_index)) {
        lane.resize(rows);
        lane.pending.truncate(position, rows);
        lane.last.truncate(position, shape.group(), shape.key_width());
        lane.shown.truncate(position, prompt_tokens == 0);
      }
      table.resize(rows);
    }
    open -= std::min(open, before - tables.front().rows());
    next = position;
    committed = std::min(committed, position);
    prompt_tokens = std::min<std::size_t>(prompt_tokens, position);
  }
  /// Moves the rows at positions [first, last) by `delta`, past no other row; prepare_to_shift has come before in all tables.
  void shift(Position first, Position last, std::int64_t delta) noexcept {
    for (RowTable& table : tables) { table.shift_positions(first, last, delta); }
    const auto moved = [&](std::int64_t position) { return static_cast<Position>(position + delta); };
    for (Lane<P>& lane : lanes) { lane.shown.shift(first, last, delta); }
    if (prompt_tokens > first && prompt_tokens <= last) { prompt_tokens = moved(static_cast<std::int64_t>(prompt_tokens)); }
    if (first < next && last >= next) { next = moved(next); }
    committed = next;
  }
  /// Takes over the free room of the layer's former self, of which this one is a changed copy.
  void take_room(Layer& from) noexcept {
    for (std::size_t head = 0; head < lanes.size(); ++head) {
      if constexpr (requires { lanes[head].keys.take_room(from.lanes[head].keys); }) { lanes[head].keys.take_room(from.lanes[head].keys); }
      if constexpr (requires { lanes[head].values.take_room(from.lanes[head].values); }) {
        lanes[head].values.take_room(from.lanes[head].values);
      }
    }
  }
  /// Until release_room(), room that was made in the stores stays.
  void hold_room() noexcept {
    for_leaving([](auto& store) {
      if constexpr (requires { store.hold(); }) { store.hold(); }
    });
  }
  void release_room() noexcept {
    for_leaving([](auto& store) {
      if constexpr (requires { store.release(); }) { store.release(); }
    });
  }

  void account(MemoryReport& report) const noexcept {
    report.add(&MemoryReport::indices, lanes);
    report.add(&MemoryReport::indices, tables);
    report.add(&MemoryReport::indices, budgets);
    for (const Lane<P>& lane : lanes) { lane.account(report); }
    for (const RowTable& table : tables) { table.account(report); }
  }

  Vector<Lane<P>> lanes;
  Vector<RowTable> tables;
  Position next = 0;       // position of the next token
  Position committed = 0;  // `next` at the last commit
  // What holds for some lane, for as long as the layer lives: asked for once, since every step depends on it.
  bool encodes = false;                                          // a store encodes rows; else all stay exact
  bool evicts = false;                                           // rows leave
  std::size_t window = 0;                                        // rows further behind are seen by no query of any of its readers
  std::size_t readers = 1;                                       // layers whose queries read its rows
  bool indexes = false;                                          // queries choose among the rows
  bool notes_queries = false;                                    // see Lane::notes_queries
  float largest_key = std::numeric_limits<float>::infinity();    // that all lanes can hold
  float largest_value = std::numeric_limits<float>::infinity();  // likewise
  std::size_t open = 0;                                          // rows since the last commit
  bool in_prompt = true;                                         // until end_prompt, and again from begin_prompt on
  bool branches = false;                                         // the open rows share positions or are out of order: a tree of drafts
  bool waiting = false;           // its prompt has ended, that of a layer that it is encoded or decides together with has not
  std::size_t prompt_tokens = 0;  // tokens up to the last end_prompt
  Vector<std::size_t> budgets;    // the eviction's budget in rows of each unit, known from the first end_prompt on
  std::uint64_t appended = 0;     // tells which positions came, where layers are encoded together
  std::size_t most_dead = static_cast<std::size_t>(-1);     // rows that may lie dead among the encoded ones; never more than live there
  std::size_t most_decoded = static_cast<std::size_t>(-1);  // rows decoded after the prompt
  std::size_t most_queries = static_cast<std::size_t>(-1);  // of a step, for which memory stays
  /// Rows that there is reserved room for, which a copy has not.
  struct Room {
    std::size_t rows = 0;
    Room() = default;
    Room(const Room& /*other*/) noexcept {}
    Room& operator=(const Room& other) = delete;
    ~Room() = default;
  } room{};

 private:
  /// Calls work(store) for the stores from which rows may leave when a step is committed.
  void for_leaving(auto&& work) noexcept {
    if (!loses() && !encodes) { return; }
    for (Lane<P>& lane : lanes) {
      if (loses(lane) || facts_of(lane.keys).encodes) { work(lane.keys); }
      if (loses(lane) || facts_of(lane.values).encodes) { work(lane.values); }
    }
  }
  static constexpr std::size_t slack = 64;  // entries that tables and states keep free for decoding

  /// Rows of padding at the front, where nothing has evicted them.
  [[nodiscard]] std::size_t padding_in_place(std::size_t head) const noexcept {
    if (lanes[head].decides()) { return 0; }
    const RowTable& table = this->table(head);
    const Position first = start();
    std::size_t row = table.positions().empty() ? std::min<std::size_t>(first, table.rows()) : 0;
    while (row < table.rows() && table.position(row) < first) { ++row; }
    return row;
  }
};

}  // namespace kvcompress::detail
