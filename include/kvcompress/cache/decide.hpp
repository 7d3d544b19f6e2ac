// include/kvcompress/cache/decide.hpp - shows an eviction the rows that it decides over, of all lanes that decide together.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <span>

#include "kvcompress/cache/layer.hpp"
#include "kvcompress/cache/needs.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

/// How the rows of a lane of policy P are decoded.
template <class P>
struct ReadingOf {
  static void keys(const void* lane, RowRange rows, const RowTable& table, Rotation& rotation, std::size_t stride, float* out) {
    for (std::size_t r = rows.first; r < rows.last; ++r, out += stride) {
      static_cast<const Lane<P>*>(lane)->read_key(r, table, rotation, out);
    }
  }
  static void values(const void* lane, RowRange rows, std::size_t stride, float* out) {
    for (std::size_t r = rows.first; r < rows.last; ++r, out += stride) { static_cast<const Lane<P>*>(lane)->value_store().read(r, out); }
  }
  static void turn(Rotation& rotation, std::int64_t positions, float* row) {
    rotation.turn_by(positions);
    rotation.apply(row);
  }
  static constexpr LaneView::Reading functions{&keys, &values, &turn};
};

/// Decisions of a commit; they mark rows in scratch.drop.
template <class P>
struct Decision {
  using Eviction = typename Axes<P>::Eviction;

  const Shape& shape;
  const PolicyOptions<P>& options;
  Workspace& workspace;
  CommitScratch<P>& scratch;
  bool end_of_prompt;

  /// Of all lanes of a layer, whose flags are 0.
  void run(Layer<P>& l, std::size_t layer) const {
    start(l.lanes.size());
    show_units(l, layer, [&](std::size_t unit) { return l.drops(unit, scratch); });
    select(l);
  }
  /// Of all layers that decide together, each with rows of its own: flags in the order of the layers and their units.
  void run(std::span<Layer<P>* const> all, std::span<const std::size_t> numbers) const {
    std::size_t lanes = 0;
    std::size_t rows = 0;
    std::size_t longest = 0;
    for (const Layer<P>* l : all) {
      lanes += l->lanes.size();
      for (const RowTable& table : l->tables) {
        rows += table.rows();
        longest = std::max(longest, table.rows());
      }
    }
    start(lanes);
    scratch.start(rows, longest);
    std::span<unsigned char> flags(scratch.drop.data(), scratch.drop.size());
    for (std::size_t i = 0; i < all.size(); ++i) {
      show_units(*all[i], numbers[i], [&](std::size_t unit) {
        const std::span<unsigned char> own = flags.first(all[i]->tables[unit].rows());
        flags = flags.subspan(own.size());
        return own;
      });
    }
    select(*all.front());
  }
  /// Of layers that keep the same rows: their scores are added and decided upon once. `layer` is the number of the first.
  void run(std::span<Layer<P>* const> together, std::size_t layer) const {
    Layer<P>& first = *together.front();
    const RowTable& rows = first.tables.front();
    start(together.size() * first.lanes.size());
    for (std::size_t i = 0; i < together.size(); ++i) {
      for (std::size_t head = 0; head < first.lanes.size(); ++head) { show(together[i]->lanes[head], {layer + i, head, shape}, rows); }
    }
    scratch.start(rows.rows(), rows.rows());
    scratch.sets.push_back({rows, scratch.views, first.budgets.front(), scratch.drop, scratch.order});
    select(first);
    for (Layer<P>* l : together) { l->budgets.front() = first.budgets.front(); }
  }

 private:
  void start(std::size_t lanes) const {
    scratch.sets.clear();
    scratch.views.clear();
    scratch.writes.clear();
    scratch.views.reserve(lanes);
  }
  void show_units(Layer<P>& l, std::size_t layer, auto&& flags) const {
    for (std::size_t unit = 0; unit < l.tables.size(); ++unit) {
      const std::span<Lane<P>> lanes = l.unit(unit);
      const std::size_t first = scratch.views.size();
      for (Lane<P>& lane : lanes) { show(lane, {layer, static_cast<std::size_t>(&lane - l.lanes.data()), shape}, l.tables[unit]); }
      scratch.sets.push_back({l.tables[unit], {scratch.views.data() + first, lanes.size()}, l.budgets[unit], flags(unit), scratch.order});
      if constexpr (may<P>.rewrites) {
        scratch.sets.back().writes = &scratch.writes;
        scratch.sets.back().first_writable = lanes.front().first_writable();
      }
    }
  }
  void show(Lane<P>& lane, const Site& site, const RowTable& table) const {
    void* state = &lane.state;
    if constexpr (EvictsAtRunTime<Eviction>) { state = lane.state.inner(); }
    scratch.views.push_back(LaneView(site, state, &lane, table, workspace.rotation_of(site.layer), ReadingOf<P>::functions));
  }
  void select(const Layer<P>& l) const {
    const std::size_t padding = std::min<std::size_t>(l.prompt_tokens, l.start());
    Eviction::select(options.eviction, scratch.sets, {end_of_prompt, l.prompt_tokens, padding, l.most_decoded, scratch.decision});
  }
};

}  // namespace kvcompress::detail
