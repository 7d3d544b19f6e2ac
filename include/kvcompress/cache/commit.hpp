// include/kvcompress/cache/commit.hpp - a commit: what was seen is counted, rows are evicted, indexed and encoded.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <span>
#include <type_traits>

#include "kvcompress/cache/encode.hpp"
#include "kvcompress/cache/observe.hpp"
#include "kvcompress/core/shared.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

/// Ends the open step of a layer, all or nothing: decoded rows in place, by prepare, which may fail, and take, which cannot; prompts, and
/// whatever must be made aside, by run on copies of the layers, which share their blocks with the originals.
template <class P>
struct Commit {
  using Eviction = typename Axes<P>::Eviction;
  using Retrieval = typename Axes<P>::Retrieval;
  /// The eviction scores lane by lane, the storage encodes lanes together.
  static constexpr bool decides_together =
      Eviction::decides == Decides::once && Eviction::scope < storage_scope<typename Axes<P>::Storage>();
  /// Those of this layer, where that is known at run time only.
  [[nodiscard]] bool decides_together_at(std::size_t layer) const noexcept {
    return decides_together && Eviction::scope < storage_scope_at<typename Axes<P>::Storage>(options.storage, shape, layer);
  }

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
    if constexpr (Eviction::observes == Observes::every_query) {
      for (Lane<P>& lane : l.lanes) { lane.count_pending(options.eviction); }
    }
    if constexpr (Eviction::observes == Observes::last_prompt_queries) {
      for (std::size_t head = 0; end_of_prompt && head < l.lanes.size(); ++head) { see_last<P>(shape, options, l, head, workspace); }
    }
    drop_padding(l, end_of_prompt);
    if (!end_of_prompt || !decides_together_at(layer)) {
      start(l);
      decide(l, end_of_prompt);
      evict(l, end_of_prompt);
    }
    if (encodes(layer, end_of_prompt)) {
      with_group(layer, [&](std::span<Layer<P>* const> together) {
        encode(together, first_of(layer), end_of_prompt);
        for (Layer<P>* other : together) {
          if (other->waiting) { other->forget_queries(); }
          other->waiting = false;
        }
      });
    } else {
      l.waiting = end_of_prompt;
    }
    if (end_of_prompt) { l.compact(reserved); }
    l.close(end_of_prompt, l.waiting);
  }

  /// Whether rows are indexed or encoded in a way that needs copies.
  [[nodiscard]] bool needs_copies(std::size_t layer) const {
    const Layer<P>& l = layers[layer].read();
    if (!encodes(layer, false)) { return false; }
    bool grows = store_needs_copies(l, &Lane<P>::keys) || store_needs_copies(l, &Lane<P>::values);
    if constexpr (requires { Retrieval::grows_at(options.retrieval, l.lanes.front().index, std::size_t{}); }) {
      const RowRange group = layers_with<P>(options, shape, layer);
      for (std::size_t other = group.first; other < group.last; ++other) {
        const Layer<P>& one = layers[other].read();
        for (std::size_t head = 0; head < shape.kv_heads; ++head) {
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
    decide(l, false);
    Room all{true};
    for (std::size_t unit = 0; decides && unit < l.tables.size(); ++unit) {
      const Room room = l.make_room_to_evict(unit, l.drops(unit, scratch), rows, scratch);
      if (!room.made) { return room; }
      all.more = std::max(all.more, room.more);
    }
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
    evict(l, false);
    if (encodes(layer, false)) {
      with_group(layer, [&](std::span<Layer<P>* const> together) {
        for (Layer<P>* other : together) { refresh(*other, false); }
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
  static constexpr bool decides = Eviction::decides != Decides::never;
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
      if (!has.says_when_it_encodes) { return true; }   // a store of which nothing is known
      if (!decides && has.settles_aside) { continue; }  // rows lie still until they are taken
      if constexpr (SaysWhenItEncodes<S>) {
        if (rows.encodes_at(rows.rows())) { return true; }
      }
    }
    return false;
  }
  /// Counts the observations that were kept back.
  void count_seen(Layer<P>& l) const {
    if constexpr (Eviction::observes == Observes::every_query) {
      bool any = false;
      for (const Lane<P>& lane : l.lanes) { any = any || lane.pending.size() > 0; }
      if (!any) { return; }
      scratch.seen.reserve(l.lanes.size());
      for (std::size_t head = 0; head < l.lanes.size(); ++head) {
        if (head < scratch.seen.size()) {
          scratch.seen[head] = l.lanes[head].state;
        } else {
          scratch.seen.push_back(l.lanes[head].state);
        }
      }
      scratch.counted = true;
      for (Lane<P>& lane : l.lanes) { lane.count_pending(options.eviction); }
    }
  }
  [[nodiscard]] Encoding<P> encoding(bool end_of_prompt) const {
    return {shape, options, workspace.rotation, memory, end_of_prompt, scratch};
  }
  void refresh(Layer<P>& l, bool end_of_prompt) const {
    if constexpr (!std::is_same_v<Retrieval, ReadAll>) { l.refresh_indices(options, workspace.rotation, end_of_prompt, scratch.rows); }
  }
  /// Evicts what is decided for all of these layers together, indexes the rows that stay, and encodes those that are due.
  void encode(std::span<Layer<P>* const> together, std::size_t first, bool end_of_prompt) const {
    if constexpr (decides_together) {
      if (end_of_prompt && decides_together_at(first)) { evict_together(together); }
    }
    for (Layer<P>* l : together) {
      if constexpr (!std::is_same_v<Retrieval, ReadAll>) {
        refresh(*l, end_of_prompt);
        if (end_of_prompt && Retrieval::wants_last_query(options.retrieval)) { choose_first<P>(shape, options, *l, workspace); }
      }
    }
    encoding(end_of_prompt).run(together, first);
  }
  void start(const Layer<P>& l) const {
    if constexpr (decides) { l.start(scratch); }
  }
  /// What no query of the prompt saw goes before the eviction decides, so that none has to know of it.
  void drop_padding(Layer<P>& l, bool end_of_prompt) const {
    if constexpr (decides) {
      const Position start = l.start();
      if (end_of_prompt && start > l.committed && l.mark(0, start, scratch)) { evict(l, true); }  // older rows were looked at before
    }
  }
  void evict(Layer<P>& l, bool in_order) const {
    if constexpr (decides) {
      for (std::size_t unit = l.tables.size();
           unit-- > 0;) {  // backwards: where a unit's flags lie follows from the rows of those before it
        l.evict(unit, l.drops(unit, scratch), scratch, in_order);
      }
    }
  }
  /// Marks in scratch.drop the rows of all units that go.
  void decide(Layer<P>& l, bool end_of_prompt) const {
    if constexpr (decides) {
      for (std::size_t unit = 0; unit < l.tables.size(); ++unit) {
        Selection selection{l.tables[unit], end_of_prompt,          l.prompt_tokens, l.budget,
                            scratch.order,  l.drops(unit, scratch), l.most_decoded};
        Eviction::select(options.eviction, l.unit(unit).front().state, selection);
      }
    }
  }
  /// Lanes that the storage encodes together keep the same rows: their scores are added and decided upon once.
  void evict_together(std::span<Layer<P>* const> together) const requires(decides_together) {
    const Layer<P>& first = *together.front();
    const RowTable& rows = first.tables.front();
    auto sums = Eviction::sums(options.eviction, memory);
    sums.resize(rows.rows());
    for (const Layer<P>* l : together) {
      for (const Lane<P>& lane : l->lanes) { Eviction::add(options.eviction, sums, lane.state); }
    }
    scratch.start(rows.rows(), rows.rows());
    Selection selection{rows, true, first.prompt_tokens, first.budget, scratch.order, scratch.drop, first.most_decoded};
    Eviction::select(options.eviction, sums, selection);
    for (Layer<P>* l : together) {
      if (l->tables.front().rows() != rows.rows()) { continue; }
      l->tables.front().prepare_to_kill(scratch.order);
      l->kill(0, {scratch.drop.data(), scratch.drop.size()}, scratch);
    }
    for (Layer<P>* l : together) { l->remove_dead(0, scratch, true); }
  }
};

}  // namespace kvcompress::detail
