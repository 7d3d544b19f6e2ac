// include/kvcompress/cache/changes.hpp - how a cache changes, all or nothing: in place where nothing can fail any more, else by copies.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <utility>

#include "kvcompress/cache/commit.hpp"
#include "kvcompress/core/shared.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

/// Changes of the layers of a cache.
template <class P>
struct Changes {
  using Eviction = typename Axes<P>::Eviction;
  using Lane = detail::Lane<P>;
  using Layer = detail::Layer<P>;

  const Shape& shape;
  const PolicyOptions<P>& options;
  const Memory& memory;
  Vector<Shared<Layer>>& layers;
  Workspace& workspace;
  CommitScratch<P>& scratch;
  std::size_t reserved;

  /// Commits of these layers: the cache's own, or copies of them.
  [[nodiscard]] Commit<P> commit(Vector<Shared<Layer>>& of) const { return {shape, options, memory, of, workspace, scratch, reserved}; }
  /// A layer that no fork shares, with the room that reserve asked for.
  [[nodiscard]] Layer& own(std::size_t layer) const {
    Layer& l = layers[layer].write();
    if (l.room.rows < reserved) { reserve(l, reserved); }
    return l;
  }
  static void reserve(Layer& l, std::size_t rows) {
    for (Lane& lane : l.lanes) {
      lane.keys.reserve(rows);
      lane.values.reserve(rows);
    }
    reserve_tables(l, rows);
    l.room.rows = rows;
  }
  static void reserve_tables(Layer& l, std::size_t rows) {
    for (Lane& lane : l.lanes) {
      lane.state.reserve(rows);
      lane.index.reserve(rows);
    }
    for (std::size_t unit = 0; unit < l.tables.size(); ++unit) {
      if (l.loses(l.lanes[unit])) { l.tables[unit].reserve(rows); }
    }
  }
  /// Commits what is open, unless the layer's prompt is; then calls add(layer), which may append `rows` rows from `position` on and cannot
  /// fail. All or nothing.
  void commit_and(std::size_t layer, std::size_t rows, Position position, auto&& add) const {
    struct Attempt {  // takes back what only prepares
      const Commit<P> step;
      std::size_t layer;
      Layer* held = nullptr;
      bool prepared = false;
      void end() noexcept {
        if (std::exchange(prepared, false)) { step.undo(layer); }
        if (held != nullptr) { std::exchange(held, nullptr)->release_room(); }
      }
      ~Attempt() { end(); }
    } attempt{commit(layers), layer};
    const bool closes = !layers[layer].read().in_prompt && layers[layer].read().open > 0;
    bool in_place = !closes || !attempt.step.needs_copies(layer);
    if (in_place) {
      Layer& l = own(layer);
      std::size_t more = 0;
      if (closes) {
        attempt.held = &l;
        l.hold_room();
        own_group(layer);
        attempt.prepared = true;
        const auto room = attempt.step.prepare(layer, rows);
        in_place = room.made;
        more = room.more;
      }
      if (in_place) {
        if (rows > 0) { make_room(l, rows + more, position); }
        attempt.prepared = false;
        if (closes) { attempt.step.take(layer); }
        return add(l);
      }
      attempt.end();
    }
    Vector<Shared<Layer>> after(layers);
    commit(after).run(layer, false);
    Layer& l = after[layer].write();
    take(after, [&](Layer& changed) {
      if (&changed == &l && rows > 0) { make_room(l, rows, position); }
    });
    add(l);
  }
  /// Replaces the layers by changed copies, each of which finish(copy), which may fail, has made ready; they take over what room there was.
  void take(Vector<Shared<Layer>>& after) const {
    take(after, [](Layer&) {});
  }
  void take(Vector<Shared<Layer>>& after, auto&& finish) const {
    const auto changed = [&](std::size_t layer) { return &after[layer].read() != &layers[layer].read(); };
    for (std::size_t layer = 0; layer < shape.layers; ++layer) {
      if (!changed(layer)) { continue; }
      Layer& l = after[layer].write_in_place();
      if (reserved > 0) { reserve_tables(l, reserved); }
      finish(l);
    }
    for (std::size_t layer = 0; layer < shape.layers; ++layer) {
      if (changed(layer) && !layers[layer].shared()) { after[layer].write_in_place().take_room(layers[layer].write_in_place()); }
    }
    layers.swap(after);
  }

 private:
  void own_group(std::size_t layer) const {
    if (!own(layer).in_group()) { return; }
    const RowRange group = layers_with<P>(options, shape, layer);
    for (std::size_t other = group.first; other < group.last; ++other) { static_cast<void>(own(other)); }
  }
  static void make_room(Layer& l, std::size_t rows, Position position) {
    for (Lane& lane : l.lanes) { lane.make_room(rows); }
    for (RowTable& table : l.tables) { table.make_room(rows, position); }
  }
};

}  // namespace kvcompress::detail
