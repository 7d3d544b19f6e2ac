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

/// Ends the open step of a layer. If memory or the slow tier fails on the way, nothing is lost and the commit can be called again.
template <class P>
struct Commit {
  using Eviction = typename Axes<P>::Eviction;
  using Retrieval = typename Axes<P>::Retrieval;
  /// The eviction scores lane by lane, the storage encodes lanes together.
  static constexpr bool decides_together =
      Eviction::decides == Decides::once && Eviction::scope < storage_scope<typename Axes<P>::Storage>();

  const Shape& shape;
  const PolicyOptions<P>& options;
  const Memory& memory;
  Vector<Shared<Layer<P>>>& layers;
  Workspace& workspace;
  CommitScratch<P>& scratch;
  std::size_t reserved;

  void run(std::size_t layer, bool end_of_prompt) const {
    Layer<P>& l = layers[layer].write();
    if constexpr (Eviction::observes == Observes::every_query) {
      for (Lane<P>& lane : l.lanes) { lane.count_pending(options.eviction); }
    }
    if constexpr (Eviction::observes == Observes::last_prompt_queries) {
      for (std::size_t head = 0; end_of_prompt && head < l.lanes.size(); ++head) { see_last<P>(shape, options, l, head, workspace); }
    }
    drop_padding(l, end_of_prompt);
    if (!end_of_prompt || !decides_together) { evict(l, end_of_prompt); }
    if constexpr (storage_scope<typename Axes<P>::Storage>() == Scope::group) {
      run_group(layer, l, end_of_prompt);
    } else {
      Layer<P>* const only = &l;
      encode({&only, 1}, layer, end_of_prompt);
      l.close(end_of_prompt, reserved);
    }
    if (end_of_prompt) { scratch.shrink(reserved); }
  }

 private:
  /// A prompt is encoded when the last of the layers that are encoded together ends it; decoded rows when the last layer commits them.
  void run_group(std::size_t layer, Layer<P>& l, bool end_of_prompt) const {
    const RowRange group = layers_with<P>(options, shape, layer);
    std::size_t waiting = 0;
    for (std::size_t other = group.first; other < group.last; ++other) { waiting += layers[other].read().waiting ? 1U : 0U; }
    if (end_of_prompt ? waiting + 1 < group.size() : waiting > 0 || layer + 1 != group.last) {
      l.close(end_of_prompt, reserved, end_of_prompt);
      l.waiting = end_of_prompt;
      return;
    }
    Vector<Layer<P>*>& together = scratch.layers;
    together.clear();
    for (std::size_t other = group.first; other < group.last; ++other) { together.push_back(&layers[other].write()); }
    encode({together.data(), together.size()}, group.first, end_of_prompt);
    l.close(end_of_prompt, reserved);
    for (Layer<P>* other : together) {
      if (other->waiting) { other->forget_queries(); }
      other->waiting = false;  // last: until then end_prompt can be called again
    }
  }
  /// Evicts what is decided for all of these layers together, indexes the rows that stay, and encodes those that are due.
  void encode(std::span<Layer<P>* const> together, std::size_t first, bool end_of_prompt) const {
    if constexpr (decides_together) {
      if (end_of_prompt) { evict_together(together); }
    }
    for (Layer<P>* l : together) {
      if constexpr (!std::is_same_v<Retrieval, ReadAll>) {
        l->refresh_indices(options, workspace.rotation, end_of_prompt, scratch.rows);
        if (end_of_prompt && Retrieval::wants_last_query(options.retrieval)) { choose_first<P>(shape, options, *l, workspace); }
      }
    }
    Encoding<P>{shape, options, workspace.rotation, memory, end_of_prompt, scratch}.run(together, first);
  }
  /// What no query of the prompt saw goes before the eviction decides, so that none has to know of it.
  void drop_padding(Layer<P>& l, bool end_of_prompt) const {
    if constexpr (Eviction::decides != Decides::never) {
      const Position start = l.start();
      if (start <= l.committed) { return; }  // older rows were looked at before
      for (std::size_t unit = 0; unit < l.tables.size(); ++unit) {
        const RowTable& table = l.tables[unit];
        scratch.start(table.rows());
        for (std::size_t row = 0; row < table.rows(); ++row) { scratch.drop[row] = table.position(row) < start ? 1 : 0; }
        l.evict(unit, scratch, end_of_prompt);
      }
    }
  }
  void evict(Layer<P>& l, bool end_of_prompt) const {
    if constexpr (Eviction::decides != Decides::never) {
      for (std::size_t unit = 0; unit < l.tables.size(); ++unit) {
        scratch.start(l.tables[unit].rows());
        Selection selection{l.tables[unit], end_of_prompt, l.prompt_tokens, l.budget, scratch.order, scratch.drop};
        Eviction::select(options.eviction, l.unit(unit).front().state, selection);
        l.evict(unit, scratch, end_of_prompt);
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
    scratch.start(rows.rows());
    Selection selection{rows, true, first.prompt_tokens, first.budget, scratch.order, scratch.drop};
    Eviction::select(options.eviction, sums, selection);
    for (Layer<P>* l : together) { l->tables.front().prepare_to_kill(scratch.order); }
    for (Layer<P>* l : together) {
      if (l->tables.front().rows() == rows.rows()) { l->kill(0, scratch); }  // more rows: an attempt that failed has killed them already
    }
    for (Layer<P>* l : together) { l->remove_dead(0, scratch, true); }
  }
};

}  // namespace kvcompress::detail
