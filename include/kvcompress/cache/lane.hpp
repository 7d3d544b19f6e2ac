// include/kvcompress/cache/lane.hpp - one lane: its stores, the policy's state, and what it saw since the last commit.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <type_traits>

#include "kvcompress/cache/needs.hpp"
#include "kvcompress/cache/observation.hpp"
#include "kvcompress/cache/retrieves.hpp"
#include "kvcompress/concepts.hpp"
#include "kvcompress/core/memo.hpp"
#include "kvcompress/policies/combine.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

/// Whether a policy may want to know, in some lane, what queries see of the rows: see Lane::notes_queries.
template <class P>
inline constexpr bool may_note_queries = may<P>.decides != Decides::never || may<P>.observes != Observes::nothing || may_retrieve<P>;

/// One KV head of one layer.
template <class P>
struct Lane {
  using Storage = typename Axes<P>::Storage;
  using Keys = typename Storage::Keys;
  using Values = typename Storage::Values;
  using Eviction = typename Axes<P>::Eviction;
  using Retrieval = typename Axes<P>::Retrieval;
  using State = typename Eviction::State;

  Lane(const Site& site, const PolicyOptions<P>& options, const Memory& memory)
      : keys(keys_at<Storage>(options.storage, site), site, site.shape.key_width(), memory),
        values(values_at<Storage>(options.storage, site), site, site.shape.value_width(), memory),
        state(Eviction::state(options.eviction, site, memory)), index(Retrieval::state(options.retrieval, site, memory)), memos(memory),
        last(memory), pending(memory) {}
  /// Under an eviction memory of recent rows stays with the stores, under a budget in bytes that of the rows that it allows.
  void keep_memory(const MostRows& most) noexcept {
    const auto keep = [&](auto& store) {
      if (most.live > 0) {
        if constexpr (requires { store.hold_at_most(most.all()); }) { store.hold_at_most(most.all()); }
      } else if constexpr (requires { store.keep_recent(); }) {
        store.keep_recent();
      }
    };
    keep(keys);
    keep(values);
  }

  Keys keys;
  Values values;
  State state;
  typename Retrieval::State index;
  [[no_unique_address]] std::conditional_t<may_remember<P>, Memos, NoMemos> memos;
  LastQueries last;
  Pending pending;
  Shown shown;
  bool kept = false;          // queries were observed that the next end_prompt counts, whatever is truncated
  Position observed_end = 0;  // observations of queries before this position can no longer be taken back
  std::size_t fetched = 0;    // bytes read from the slow tier so far

  /// The store that holds the values.
  [[nodiscard]] const auto& value_store() const noexcept {
    if constexpr (!ValuesInKeys<Values>) {
      return values;
    } else if constexpr (ChosenStore<Values>) {
      return facts_of(values).in_keys ? keys : values;
    } else {
      return keys;
    }
  }
  /// Whether the policy wants to know what queries see of the rows: which are padding (what chooses among rows must not choose them), and that
  /// it was shown queries at all.
  [[nodiscard]] bool decides() const noexcept { return needs<P>(state).decides != Decides::never; }
  [[nodiscard]] bool notes_queries() const noexcept {
    const Needs wanted = needs<P>(state);
    return wanted.queries || wanted.decides != Decides::never || wanted.observes != Observes::nothing || retrieves<P>(index);
  }
  /// Rows before this one are encoded in one store or the other and keep their place.
  [[nodiscard]] std::size_t settled() const noexcept { return std::max(keys.settled(), value_store().settled()); }

  /// Rows before this one are encoded in a way that they cannot be written.
  [[nodiscard]] std::size_t first_writable() const noexcept {
    return std::max(facts_of(keys).writes_encoded ? 0 : keys.settled(), facts_of(values).writes_encoded ? 0 : values.settled());
  }

  /// The rows before this one are indexed.
  [[nodiscard]] std::size_t index_end() const noexcept { return retrieves<P>(index) ? index.indexed() : 0; }

  /// One query's probabilities: kept back while fewer than `revocable` are, counted otherwise.
  void record(const typename Eviction::Options& options, std::size_t revocable, Position position, std::size_t row, std::size_t head,
              std::span<const float> probabilities) {
    if (pending.size() < revocable) {
      pending.push(position, row, head, probabilities);
      return;
    }
    count_pending(options);
    pending.clear();
    Eviction::observe(options, state, head, probabilities);
    observed_end = std::max(observed_end, position + 1);
  }
  /// One query's probabilities, counted at once and for good (see Record::kept).
  void keep(const typename Eviction::Options& options, bool in_prompt, std::size_t head, std::span<const float> probabilities) {
    if constexpr (requires { Eviction::start(options, state); }) {
      if (!kept && starts(needs<P>(state).observes, in_prompt)) { Eviction::start(options, state); }
    }
    kept = true;
    Eviction::observe(options, state, head, probabilities);
  }
  /// Counts what was kept back; once it is forgotten, it can no longer be taken back.
  void count_pending(const typename Eviction::Options& options) {
    pending.visit(
        [&](Position, std::size_t head, std::span<const float> probabilities) { Eviction::observe(options, state, head, probabilities); });
  }
  /// Rows have moved: what the retrieval remembers of them is void.
  void forget_memos() noexcept {
    if constexpr (may_remember<P>) { memos.forget(); }
  }
  /// Room for `more` rows, so that their append cannot fail.
  void make_room(std::size_t more) {
    keys.make_room(more);
    values.make_room(more);
    state.reserve(keys.rows() + more);
  }
  /// Afterwards rows [first, end), which are exact, can be overwritten without failing.
  void make_writable(std::size_t first, std::size_t end) {
    const auto store = [&](auto& rows) {
      if constexpr (requires { rows.make_writable(first, end); }) {
        rows.make_writable(first, end);
      } else {
        rows.unshare();
      }
    };
    if (first == end) { return; }
    store(keys);
    store(values);
  }
  /// Clones what will be written first, so that the lane this one was copied from keeps it for itself.
  void own_recent() {
    if constexpr (requires { keys.own_recent(); }) { keys.own_recent(); }
    if constexpr (requires { values.own_recent(); }) { values.own_recent(); }
  }
  void resize(std::size_t rows) noexcept {
    keys.resize(rows);
    values.resize(rows);
    state.resize(rows);
    index.resize(rows);
  }
  /// Row `from` overwrites row `to`, both exact.
  void move(std::size_t from, std::size_t to) {
    keys.move(from, to);
    values.move(from, to);
    state.move(from, to);
    index.move(from, to);
  }
  /// One key in the stored form, rotated; by the row table and rotation if it is held unrotated.
  void read_key(std::size_t row, const RowTable& table, Rotation& rotation, float* out) const noexcept {
    if constexpr (UnrotatedKeyStore<Keys>) {
      keys.read(row, table, rotation, out);
    } else {
      keys.read(row, out);
    }
  }
  /// What must happen before the rows of `ranges` are read.
  void prepare(std::span<const RowRange> ranges, const RowTable& table, Rotation& rotation, Vector<float>& scratch) {
    if constexpr (Prepares<Keys>) { fetched += keys.prepare(ranges, table, rotation, scratch); }
    if constexpr (Prepares<Values>) { fetched += values.prepare(ranges); }
  }
  /// Stores of a wider scope are counted together, since they share memory (see KVCache::memory).
  void account(MemoryReport& report) const noexcept {
    if (facts_of(keys).scope == Scope::lane) { keys.account(report); }
    if (facts_of(values).scope == Scope::lane) { values.account(report); }
    state.account(report);
    index.account(report);
    if constexpr (may_remember<P>) { memos.account(report); }
    last.account(report);
    pending.account(report);
  }
};

}  // namespace kvcompress::detail
