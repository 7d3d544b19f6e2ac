// include/kvcompress/cache/encode.hpp - encoding at a commit: each lane for itself, or all lanes of a layer or a group together.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <span>

#include "kvcompress/cache/layer.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

/// The layers [first, last) whose rows policy P encodes together with those of `layer`.
template <class P>
RowRange layers_with(const PolicyOptions<P>& options, const Shape& shape, std::size_t layer) {
  using Storage = typename Axes<P>::Storage;
  if constexpr (storage_scope<Storage>() == Scope::group) {
    return Storage::layers_with(options.storage, shape, layer);
  } else {
    return {layer, layer + 1};
  }
}

/// What all settlings of a commit have in common.
template <class P>
struct Encoding {
  const Shape& shape;
  const PolicyOptions<P>& options;
  Workspace& workspace;
  const Memory& memory;
  bool end_of_prompt;
  CommitScratch<P>& scratch;

  /// Encodes the rows that are due in `layers`, which are a whole scope of the storage; `layer` is the number of the first.
  void run(std::span<Layer<P>* const> layers, std::size_t layer) const {
    using Values = typename Lane<P>::Values;
    if constexpr (PreparesToSettle<Values>) {
      for (std::size_t l = 0; l < layers.size(); ++l) {  // what can fail comes before any store has changed
        if (!facts_of(layers[l]->lanes.front().values).prepares_to_settle) { continue; }
        together(layers.subspan(l, 1), layer + l, &Lane<P>::values, scratch.values,
                 [](std::span<Values* const> members, auto&& settling) { Values::prepare_to_settle(members, settling()); });
      }
    }
    for_scopes(layers, layer, []<class S>(std::span<S* const> members, auto&& settling) { S::settle(members, settling()); });
  }
  /// The same in two steps, for stores that settle in room or aside: afterwards take cannot fail. `more`: exact rows that may come before.
  void prepare(std::span<Layer<P>* const> layers, std::size_t layer, std::size_t more) const {
    if (layers.front()->scope() != Scope::lane) { scratch.reserve_members(layers.size() * layers.front()->lanes.size()); }
    for_scopes(layers, layer, [&]<class S>(std::span<S* const> members, auto&& settling) {
      if constexpr (ChosenStore<S>) { S::make_room_for(members); }
      const StoreFacts& has = facts_of(*members.front());
      if constexpr (SettlesInRoom<S>) {
        for (S* store : members) {
          if (has.settles_in_room) { store->make_room_to_settle(more, scratch.rows); }
        }
      }
      if constexpr (SettlesAside<S>) {
        if (has.settles_aside) { S::encode_aside(members, settling()); }
      }
    });
  }
  void take(std::span<Layer<P>* const> layers, std::size_t layer) const noexcept {
    for_scopes(layers, layer, []<class S>(std::span<S* const> members, auto&& settling) {
      if constexpr (SettlesAside<S>) {
        if (facts_of(*members.front()).settles_aside) { return S::take_aside(members); }
      }
      S::settle(members, settling());
    });
  }

 private:
  [[nodiscard]] Settling settling(const Layer<P>& l, std::size_t head, std::size_t layer, std::size_t rows,
                                  std::span<const Reads> reads) const {
    const std::size_t cold = scratch.cold.empty() ? 0 : scratch.cold[l.tables.size() == 1 ? 0 : head];
    return {shape.of(layer), l.table(head), workspace.rotation_of(layer), scratch.rows, memory, end_of_prompt, layer, rows, reads, cold};
  }

  /// Calls work(members, settling) for all key stores that encode together, then for the value stores; settling() is what they may use.
  void for_scopes(std::span<Layer<P>* const> layers, std::size_t layer, auto&& work) const {
    for_scopes_of(layers, layer, &Lane<P>::keys, scratch.keys, work);
    for_scopes_of(layers, layer, &Lane<P>::values, scratch.values, work);
  }
  template <class S>
  void for_scopes_of(std::span<Layer<P>* const> layers, std::size_t layer, S Lane<P>::*store, Vector<S*>& members, auto&& work) const {
    if constexpr (Settles<S>) {
      if constexpr (scope_of<S>() == Scope::group) {
        if (facts_of(layers.front()->lanes.front().*store).scope == Scope::group) { return together(layers, layer, store, members, work); }
      }
      for (std::size_t l = 0; l < layers.size(); ++l) {
        if constexpr (scope_of<S>() != Scope::lane) {
          if (facts_of(layers[l]->lanes.front().*store).scope != Scope::lane) {
            together(layers.subspan(l, 1), layer + l, store, members, work);
            continue;
          }
        }
        for (std::size_t head = 0; head < layers[l]->lanes.size(); ++head) {
          Lane<P>& lane = layers[l]->lanes[head];
          S* const self = &(lane.*store);
          if (is_quiet(*layers[l], lane, *self)) { continue; }
          Reads reads;
          work(std::span<S* const>(&self, 1), [&] {
            reads = lane.index.reads();
            return settling(*layers[l], head, layer + l, lane.keys.rows(), {&reads, 1});
          });
        }
      }
    }
  }
  /// Whether a store that encodes for itself has nothing to do.
  template <class S>
  [[nodiscard]] bool is_quiet(const Layer<P>& layer, const Lane<P>& lane, const S& store) const noexcept {
    const StoreFacts& has = facts_of(store);
    if constexpr (SaysWhenItEncodes<S>) {
      const bool still = !layer.loses(lane) && !end_of_prompt;  // the rows are those that a commit finds
      if (still && has.says_when_it_encodes) { return !store.encodes_at(store.rows()); }
    }
    return !has.encodes;
  }

  /// How many of the first `rows` rows are encoded or at the same positions in all layers: others wait until they are.
  template <class S>
  static std::size_t alike(std::span<S* const> members, std::span<Layer<P>* const> layers, std::size_t rows) noexcept {
    const std::size_t settled = members.front()->settled();
    for (const S* member : members) {
      if (member->settled() != settled) { return 0; }
    }
    const RowTable& first = layers.front()->tables.front();
    for (const Layer<P>* l : layers.subspan(1)) {
      const RowTable& table = l->tables.front();
      if (table.positions().empty() && first.positions().empty()) { continue; }
      for (std::size_t row = settled; row < rows; ++row) {
        if (table.position(row) != first.position(row)) { rows = row; }
      }
    }
    return rows;
  }
  template <class S>
  void together(std::span<Layer<P>* const> layers, std::size_t layer, S Lane<P>::*store, Vector<S*>& members, auto&& work) const {
    members.clear();
    scratch.reads.clear();
    std::size_t rows = static_cast<std::size_t>(-1);
    for (Layer<P>* l : layers) {
      for (Lane<P>& lane : l->lanes) {
        members.push_back(&(lane.*store));
        scratch.reads.push_back(lane.index.reads());
      }
      // A layer that is ahead, with a token whose step is open, holds rows that the others have not seen yet.
      rows = std::min(rows, l->tables.front().rows() - (end_of_prompt || l == layers.back() ? 0 : l->open));
    }
    if (facts_of(*members.front()).scope == Scope::group) { rows = alike<S>(members, layers, rows); }
    work(std::span<S* const>(members.data(), members.size()), [&] {
      return settling(*layers.front(), 0, layer, rows, {scratch.reads.data(), scratch.reads.size()});
    });
  }
};

}  // namespace kvcompress::detail
