// include/kvcompress/cache/commit.hpp - a commit: what was seen is counted, rows are evicted, indexed and encoded.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <type_traits>

#include "kvcompress/cache/colder_rows.hpp"
#include "kvcompress/cache/decide.hpp"
#include "kvcompress/cache/encode.hpp"
#include "kvcompress/cache/observe.hpp"
#include "kvcompress/cache/past_window.hpp"
#include "kvcompress/core/shared.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

/// Ends the open step of a layer, all or nothing: decoded rows in place, by prepare, which may fail, and take, which cannot; prompts, and
/// whatever must be made aside, by run on copies of the layers, which share their blocks with the originals.
template <class P>
struct Commit {
  using Eviction = typename Axes<P>::Eviction;
  using Retrieval = typename Axes<P>::Retrieval;
  /// Whether the eviction may score lane by lane what the storage encodes together.
  static constexpr bool may_decide_together =
      (may<P>.decides == Decides::once || EvictsAtRunTime<Eviction>)&&may<P>.agrees < storage_scope<typename Axes<P>::Storage>();

  const Shape& shape;
  const PolicyOptions<P>& options;
  const Memory& memory;
  Vector<Shared<Layer<P>>>& layers;
  Workspace& workspace;
  CommitScratch<P>& scratch;
  std::size_t reserved;

  using Room = typename Layer<P>::EvictionRoom;

  /// On copies: if it fails, they are good for nothing.
  void run(std::size_t layer, bool end_of_prompt) const {
    Layer<P>& l = layers[layer].write();
    workspace.serve(layer);
    if constexpr (may_see_queries<P>) {
      for (Lane<P>& lane : l.lanes) { lane.count_pending(options.eviction); }
    }
    if constexpr (may_see_last<P>) {
      for (std::size_t head = 0; end_of_prompt && head < l.lanes.size(); ++head) {
        see_last<P>({layer, head, shape}, options, l, workspace);
      }
    }
    drop_padding(l, end_of_prompt);
    drop_past_window(l, end_of_prompt);
    scratch.cold.clear();
    if (end_of_prompt && l.decides_with_model()) { return end_with_model(l); }
    if (!end_of_prompt || !decides_together(l, layer)) {
      start(l);
      decide(l, layer, end_of_prompt);
      prepare_writes(l, layer, 0);
      write(l, layer);
      partition(l, layer);
      evict(l, end_of_prompt || !scratch.cold.empty());
      for (std::size_t unit = 0; unit < scratch.cold.size(); ++unit) { scratch.cold[unit] += l.lanes[unit].settled(); }
    }
    if (encodes(layer, end_of_prompt)) {
      with_group(layer, [&](std::span<Layer<P>* const> together) {
        encode(together, first_of(layer), end_of_prompt);
        for (Layer<P>* other : together) {
          if (other->waiting) {
            other->forget_queries();
            other->compact(reserved);
          }
          other->waiting = false;
        }
      });
    } else {
      l.waiting = end_of_prompt;
    }
    if (end_of_prompt && !l.waiting) { l.compact(reserved); }  // else it has yet to be decided upon: what it has seen is needed
    l.close(end_of_prompt, l.waiting);
  }

  /// Whether rows are indexed or encoded in a way that needs copies.
  [[nodiscard]] bool needs_copies(std::size_t layer) const {
    const Layer<P>& l = layers[layer].read();
    if (l.decides() && any_past_window(l)) { return true; }  // these go before the eviction decides over the others
    if (!encodes(layer, false)) { return false; }
    bool grows = store_needs_copies(l, &Lane<P>::keys) || store_needs_copies(l, &Lane<P>::values);
    if constexpr (requires { Retrieval::grows_at(options.retrieval, l.lanes.front().index, std::size_t{}); }) {
      const RowRange group = layers_with<P>(options, shape, layer);
      for (std::size_t other = group.first; other < group.last; ++other) {
        const Layer<P>& one = layers[other].read();
        for (std::size_t head = 0; one.indexes && head < one.lanes.size(); ++head) {
          grows = grows || Retrieval::grows_at(options.retrieval, one.lanes[head].index, one.table(head).rows());
        }
      }
    } else if constexpr (!requires(typename Retrieval::State & state) {
                           Retrieval::make_room_to_refresh(options.retrieval, state, std::size_t{}, scratch.rows);
                         }) {
      grows = true;  // a retrieval of which nothing is known
    }
    return grows;
  }
  /// Decides what take will do and makes room for it and for `rows` more rows; undo takes back what that changes. Not made if only copies can
  /// do it. The layers must belong to this cache alone.
  [[nodiscard]] Room prepare(std::size_t layer, std::size_t rows) const {
    Layer<P>& l = layers[layer].write_in_place();
    scratch.counted = false;
    start(l);
    count_seen(l);
    if (rewrites(l) && !scratch.counted) { keep_states(l); }  // it may remember what it decided
    if constexpr (may_lose<P>) { mark_past_window(l, scratch); }
    decide(l, layer, false);
    if constexpr (may<P>.colder) {
      if (ColderRows<P>::any(l, scratch)) { return {false}; }
    }
    Room all{true};
    for (std::size_t unit = 0; l.loses() && unit < l.tables.size(); ++unit) {
      const Room room = l.make_room_to_evict(unit, l.drops(unit, scratch), rows, scratch);
      if (!room.made) { return room; }
      all.more = std::max(all.more, room.more);
    }
    prepare_writes(l, layer, rows + all.more);
    if (encodes(layer, false)) {
      with_group(layer, [&](std::span<Layer<P>* const> together) {
        for (Layer<P>* other : together) { other->make_room_to_refresh(options, scratch.rows); }
        if (l.encodes) { encoding(false).prepare(together, first_of(layer), all.more); }
      });
    }
    return all;
  }
  void take(std::size_t layer) const noexcept {
    Layer<P>& l = layers[layer].write_in_place();
    write(l, layer);
    evict(l, false);
    if (encodes(layer, false)) {
      with_group(layer, [&](std::span<Layer<P>* const> together) {
        for (std::size_t i = 0; i < together.size(); ++i) { refresh(*together[i], first_of(layer) + i, false); }
        if (l.encodes) { encoding(false).take(together, first_of(layer)); }
      });
    }
    l.close(false);
  }
  void undo(std::size_t layer) const noexcept {
    Layer<P>& l = layers[layer].write_in_place();
    for (std::size_t head = 0; head < l.lanes.size(); ++head) {
      if (scratch.counted) { std::swap(l.lanes[head].state, scratch.seen[head]); }
      if constexpr (SettlesAside<typename Lane<P>::Keys>) { l.lanes[head].keys.forget_aside(); }
      if constexpr (SettlesAside<typename Lane<P>::Values>) { l.lanes[head].values.forget_aside(); }
    }
    scratch.counted = false;
  }

 private:
  static constexpr bool may_decide = may<P>.decides != Decides::never;
  static constexpr bool in_groups = storage_scope<typename Axes<P>::Storage>() == Scope::group;

  [[nodiscard]] bool in_group(std::size_t layer) const noexcept { return in_groups && layers[layer].read().in_group(); }
  [[nodiscard]] std::size_t first_of(std::size_t layer) const {
    return in_group(layer) ? layers_with<P>(options, shape, layer).first : layer;
  }
  /// Of layers that are encoded together, a prompt is encoded when the last of them ends it, decoded rows when the last layer commits them.
  [[nodiscard]] bool encodes(std::size_t layer, bool end_of_prompt) const {
    if (!in_group(layer)) { return true; }
    const RowRange group = layers_with<P>(options, shape, layer);
    std::size_t waiting = 0;
    for (std::size_t other = group.first; other < group.last; ++other) { waiting += layers[other].read().waiting ? 1U : 0U; }
    return end_of_prompt ? waiting + 1 >= group.size() : waiting == 0 && layer + 1 == group.last;
  }
  /// Calls work(layers) with those that are encoded together with this one.
  void with_group(std::size_t layer, auto&& work) const {
    if (in_group(layer)) {
      const RowRange group = layers_with<P>(options, shape, layer);
      scratch.layers.clear();
      for (std::size_t other = group.first; other < group.last; ++other) { scratch.layers.push_back(&layers[other].write()); }
      work(std::span<Layer<P>* const>(scratch.layers.data(), scratch.layers.size()));
    } else {
      Layer<P>* const only = &layers[layer].write();
      work(std::span<Layer<P>* const>(&only, 1));
    }
  }
  template <class S>
  [[nodiscard]] static bool store_needs_copies(const Layer<P>& l, S Lane<P>::*store) noexcept {
    if (!l.encodes) { return false; }
    for (const Lane<P>& lane : l.lanes) {
      const S& rows = lane.*store;
      const StoreFacts& has = facts_of(rows);
      if (has.settles_in_room || !has.encodes) { continue; }
      if (!has.says_when_it_encodes) { return true; }       // a store of which nothing is known
      if (has.settles_aside && !l.decides()) { continue; }  // rows lie still until they are taken
      if constexpr (SaysWhenItEncodes<S>) {
        if (rows.encodes_at(rows.rows())) { return true; }
      }
    }
    return false;
  }
  /// Counts the observations that were kept back.
  void count_seen(Layer<P>& l) const {
    if constexpr (may_see_queries<P>) {
      if (!l.notes_queries) { return; }
      bool any = false;
      for (const Lane<P>& lane : l.lanes) { any = any || lane.pending.size() > 0; }
      if (!any) { return; }
      keep_states(l);
      for (Lane<P>& lane : l.lanes) { lane.count_pending(options.eviction); }
    }
  }
  /// What the eviction remembers, for undo.
  void keep_states(const Layer<P>& l) const {
    scratch.seen.reserve(l.lanes.size());
    for (std::size_t head = 0; head < l.lanes.size(); ++head) {
      if (head < scratch.seen.size()) {
        scratch.seen[head] = l.lanes[head].state;
      } else {
        scratch.seen.push_back(l.lanes[head].state);
      }
    }
    scratch.counted = true;
  }
  [[nodiscard]] static bool rewrites(const Layer<P>& l) noexcept {
    if constexpr (may<P>.rewrites) {
      return std::any_of(l.lanes.begin(), l.lanes.end(), [](const Lane<P>& lane) { return needs<P>(lane.state).rewrites; });
    } else {
      return false;
    }
  }
  /// Moves what gets colder before the other exact rows; scratch.cold says how many rows these are, if there are any.
  void partition(Layer<P>& l, [[maybe_unused]] std::size_t layer) const {
    if constexpr (may<P>.colder) {
      if (!ColderRows<P>::any(l, scratch)) { return; }
      scratch.cold.resize(l.tables.size());
      for (std::size_t unit = 0; unit < l.tables.size(); ++unit) {
        scratch.cold[unit] = ColderRows<P>::partition(l, unit, shape.of(layer), workspace.rotation_of(layer), scratch);
      }
    }
  }
  /// What is decided to be written can be, without failing, and so can `more` rows be appended to the tables.
  void prepare_writes(Layer<P>& l, [[maybe_unused]] std::size_t layer, std::size_t more) const {
    if constexpr (may<P>.rewrites) {
      for (const Writes::Write& write : scratch.writes.all()) {
        Lane<P>& lane = l.lanes[write.kv_head];
        check(l, shape.of(layer), write);
        if (write.weighs) { l.table_of(write.kv_head).prepare_to_weigh(more); }
        if (write.key) { lane.keys.prepare_to_write(write.row); }
        if (write.value) { lane.values.prepare_to_write(write.row); }
      }
    }
  }
  /// Raises an Error if a row cannot be written, or with such numbers: the eviction is wrong then.
  void check(const Layer<P>& l, const Shape& of, const Writes::Write& write) const {
    const RowTable& table = l.table(write.kv_head);
    const std::size_t first = write.key || write.value ? l.lanes[write.kv_head].first_writable() : 0;
    const bool stays = write.row < table.rows() && table.alive(write.row) && !l.goes(write.kv_head, write.row, scratch);
    require(stays && write.row >= first, ErrorCode::option, "commit: the eviction writes row ", write.row, ", must be one that stays, of [",
            first, ", ", table.rows(), ")");
    const auto finite = [&](const float* numbers, std::size_t count) {
      return std::all_of(numbers, numbers + count, [](float x) { return x - x == 0.0F; });
    };
    require((!write.key || finite(scratch.writes.key(write), of.key_width())) &&
                (!write.value || finite(scratch.writes.value(write, of.key_width()), of.value_width())) &&
                write.log_weight >= -RowTable::largest_log && write.log_weight <= RowTable::largest_log,
            ErrorCode::option, "commit: what the eviction writes to row ", write.row, " must be finite, with the logarithm of its weight ",
            write.log_weight, " at most ", RowTable::largest_log, " in magnitude");
  }
  void write(Layer<P>& l, [[maybe_unused]] std::size_t layer) const noexcept {
    if constexpr (may<P>.rewrites) {
      for (const Writes::Write& write : scratch.writes.all()) {
        Lane<P>& lane = l.lanes[write.kv_head];
        if (write.weighs) { l.table_of(write.kv_head).weigh(write.row, write.log_weight); }
        if (write.key) { lane.keys.write(write.row, scratch.writes.key(write)); }
        if (write.value) { lane.values.write(write.row, scratch.writes.value(write, shape.of(layer).key_width())); }
        if (write.key) { lane.index.move(write.row, write.row); }
      }
    }
  }
  /// The prompt of a layer has ended; the last layer that it decides together with decides for all.
  void end_with_model(Layer<P>& l) const {
    l.waiting = true;
    l.close(true, true);
    Vector<std::size_t> numbers(Allocator<std::size_t>{memory});
    for (std::size_t layer = 0; layer < layers.size(); ++layer) {
      const Layer<P>& other = layers[layer].read();
      if (!other.decides_with_model()) { continue; }
      if (!other.waiting) { return; }
      numbers.push_back(layer);
    }
    Vector<Layer<P>*> all(Allocator<Layer<P>*>{memory});
    for (const std::size_t layer : numbers) { all.push_back(&layers[layer].write()); }
    decision(true).run({all.data(), all.size()}, numbers);
    std::span<const unsigned char> flags(scratch.drop.data(), scratch.drop.size());
    for (Layer<P>* one : all) {
      Vector<std::size_t> rows(Allocator<std::size_t>{memory});
      for (const RowTable& table : one->tables) { rows.push_back(table.rows()); }
      for (std::size_t unit = 0; unit < rows.size(); ++unit) {
        one->evict(unit, flags.first(rows[unit]), scratch, true);
        flags = flags.subspan(rows[unit]);
      }
    }
    for (std::size_t i = 0; i < all.size(); ++i) {
      encode({&all[i], 1}, numbers[i], true);
      all[i]->forget_queries();
      all[i]->waiting = false;
      all[i]->compact(reserved);
    }
  }
  [[nodiscard]] Encoding<P> encoding(bool end_of_prompt) const { return {shape, options, workspace, memory, end_of_prompt, scratch}; }
  void refresh(Layer<P>& l, [[maybe_unused]] std::size_t layer, bool end_of_prompt) const {
    if constexpr (may_retrieve<P>) { l.refresh_indices(options, workspace.rotation_of(layer), end_of_prompt, scratch.rows); }
  }
  /// Evicts what is decided for all of these layers together, indexes the rows that stay, and encodes those that are due.
  void encode(std::span<Layer<P>* const> together, std::size_t first, bool end_of_prompt) const {
    if constexpr (may_decide_together) {
      if (end_of_prompt && decides_together(*together.front(), first) && !together.front()->decides_with_model()) {
        evict_together(together, first);
      }
    }
    for (std::size_t l = 0; l < together.size(); ++l) {
      if constexpr (may_retrieve<P>) {
        refresh(*together[l], first + l, end_of_prompt);
        if (end_of_prompt) { choose_first<P>(shape, options, *together[l], first + l, workspace); }
      }
    }
    encoding(end_of_prompt).run(together, first);
  }
  /// The eviction scores lane by lane, the storage encodes lanes together.
  [[nodiscard]] bool decides_together(const Layer<P>& l, std::size_t layer) const noexcept {
    const Needs wanted = needs<P>(l.lanes.front().state);
    return may_decide_together && wanted.decides == Decides::once &&
           wanted.agrees < storage_scope_at<typename Axes<P>::Storage>(options.storage, shape, layer);
  }
  void start(const Layer<P>& l) const {
    scratch.writes.clear();
    scratch.cold.clear();
    if (l.loses()) { l.start(scratch); }
  }
  /// What no query of the prompt saw goes before the eviction decides, so that none has to know of it.
  void drop_padding(Layer<P>& l, bool end_of_prompt) const {
    if constexpr (may_decide) {
      if (!end_of_prompt || !l.decides()) { return; }
      const Position start = l.start();
      if (start > l.committed && l.mark(0, start, false, scratch)) { evict(l, true); }  // older rows were looked at before
    }
  }
  /// Nor does any see what lies past the window: it counts in no budget.
  void drop_past_window(Layer<P>& l, bool end_of_prompt) const {
    if constexpr (may_lose<P>) {
      if (!any_past_window(l)) { return; }
      l.start(scratch);
      mark_past_window(l, scratch);
      evict(l, end_of_prompt);
    }
  }
  void evict(Layer<P>& l, bool in_order) const {
    if constexpr (may_lose<P>) {
      if (!l.loses()) { return; }
      for (std::size_t unit = l.tables.size();
           unit-- > 0;) {  // backwards: where a unit's flags lie follows from the rows of those before it
        l.evict(unit, l.drops(unit, scratch), scratch, in_order);
      }
    }
  }
  /// Marks in scratch.drop the rows of all units that go.
  void decide(Layer<P>& l, std::size_t layer, bool end_of_prompt) const {
    if constexpr (may_decide) {
      if (l.decides()) { decision(end_of_prompt).run(l, layer); }
    }
  }
  [[nodiscard]] Decision<P> decision(bool end_of_prompt) const { return {shape, options, workspace, scratch, end_of_prompt}; }
  /// Lanes that the storage encodes together keep the same rows: their scores are added and decided upon once.
  void evict_together(std::span<Layer<P>* const> together, std::size_t first) const requires(may_decide_together) {
    const RowTable& rows = together.front()->tables.front();
    decision(true).run(together, first);
    for (Layer<P>* l : together) {
      if (l->tables.front().rows() != rows.rows()) { continue; }
      l->tables.front().prepare_to_kill(scratch.order);
      l->kill(0, {scratch.drop.data(), scratch.drop.size()}, scratch);
    }
    for (Layer<P>* l : together) { l->remove_dead(0, scratch, true); }
  }
};

}  // namespace kvcompress::detail
