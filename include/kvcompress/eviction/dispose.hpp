// include/kvcompress/eviction/dispose.hpp - evictions whose rows leave something behind: another part says what becomes of them.
// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstddef>
#include <span>
#include <string_view>
#include <type_traits>
#include <utility>

#include "kvcompress/core/no_state.hpp"
#include "kvcompress/eviction/evict.hpp"

#define KVCOMPRESS_RULE_WEIGHTS_AGREE \
  "the fate gives rows weights lane by lane, but the eviction keeps the same rows in several lanes, which share them"
#define KVCOMPRESS_RULE_BY_LAYER                                                                                                        \
  "the fate writes rows when a layer ends its prompt, but the eviction decides when the last layer has. Use one that decides layer by " \
  "layer"
#define KVCOMPRESS_RULE_OBSERVE_ALIKE                                                                                                     \
  "the fate observes every query, and the eviction the last ones of a prompt: none observes in both ways. Use an eviction that observes " \
  "every "                                                                                                                                \
  "query (H2O), or nothing"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// What becomes of the rows that an eviction marks: static functions over an Options value and a State per lane (NoState for none).
///
/// validate, state, row_bytes: as Scorer.
/// may: what it does: `rewrites`, `weighs` if it changes weights, `colder`. It may observe every query, and has observe(options, state, head,
///   probabilities) then.
/// dispose(options, sets, moment): sees the rows marked in set.drop, of the sets of a layer that decide together. Writes to others with set.write
///   and set.weigh, to rows from set.first_writable on alone, and may unmark rows. Called at every commit, also where nothing is marked. It may change
///   its States: if the commit fails they are put back.
template <class D>
concept Disposer = std::semiregular<typename D::Options> && RowState<typename D::State> &&
    requires(const typename D::Options options, const Shape& shape, const Site& site, const Memory& memory, std::span<RowSet> sets,
             const Moment& moment) {
  { D::name } -> std::convertible_to<std::string_view>;
  { D::may } -> std::convertible_to<Needs>;
  D::validate(options, shape);
  { D::row_bytes(options, shape) } -> std::same_as<std::size_t>;
  { D::state(options, site, memory) } -> std::same_as<typename D::State>;
  D::dispose(options, sets, moment);
};

namespace detail {

/// The States of an eviction and of its disposer.
template <class E, class D>
struct BothStates {
  E eviction;
  D fate;

  void reserve(std::size_t rows) {
    eviction.reserve(rows);
    fate.reserve(rows);
  }
  void resize(std::size_t rows) {
    eviction.resize(rows);
    fate.resize(rows);
  }
  void move(std::size_t from, std::size_t to) {
    eviction.move(from, to);
    fate.move(from, to);
  }
  void erase(std::size_t first, std::size_t count) {
    eviction.erase(first, count);
    fate.erase(first, count);
  }
  void compact(std::size_t slack) {
    eviction.compact(slack);
    fate.compact(slack);
  }
  void account(MemoryReport& report) const {
    eviction.account(report);
    fate.account(report);
  }
  static void persist(auto& self, auto& archive, std::size_t rows) {
    E::persist(self.eviction, archive, rows);
    D::persist(self.fate, archive, rows);
  }
};

/// What an eviction needs with a disposer beside it.
constexpr Needs with_fate(Needs needs, const Needs& fate) noexcept {
  if (fate.observes != Observes::nothing) { needs.observes = fate.observes; }
  needs.rewrites = fate.rewrites;
  needs.weighs = fate.weighs;
  needs.colder = fate.colder;
  return needs;
}

/// Sets whose lanes show what one of several parts remembers.
class SetsOfParts {
 public:
  SetsOfParts(std::span<const RowSet> sets, const Moment& moment)
      : of_all_(sets), views_(Allocator<LaneView>(moment.scratch.rows.get_allocator())),
        sets_(Allocator<RowSet>(moment.scratch.rows.get_allocator())) {
    sets_.reserve(sets.size());
    for (const RowSet& set : sets) { sets_.push_back(set); }
  }
  /// state(lane): what the part remembers of it.
  void show(auto&& state) {
    views_.clear();
    for (const RowSet& set : of_all_) {
      for (const LaneView& lane : set.lanes) { views_.push_back(lane.with_state(state(lane))); }
    }
    std::size_t first = 0;
    for (RowSet& set : sets_) {
      set.lanes = {views_.data() + first, set.lanes.size()};
      first += set.lanes.size();
    }
  }
  [[nodiscard]] std::span<RowSet> sets() noexcept { return sets_; }

 private:
  std::span<const RowSet> of_all_;
  Vector<LaneView> views_;
  Vector<RowSet> sets_;
};

template <class D>
inline constexpr bool weighs_by_lane = requires {
  requires D::weighs_by_lane;
};

/// Which evictions and disposers go together.
constexpr bool weights_agree(const Needs& eviction, bool by_lane) noexcept { return !by_lane || eviction.agrees == Scope::lane; }
constexpr bool observe_alike(const Needs& eviction, const Needs& fate) noexcept {
  return fate.observes == Observes::nothing || eviction.observes == Observes::nothing || eviction.observes == fate.observes;
}
constexpr bool decides_by_layer(const Needs& eviction) noexcept { return !eviction.model; }
/// The same of parts that are chosen at run time: raises an Error where types would not compile.
inline void check_fate(std::string_view eviction, std::string_view fate, const Needs& of_eviction, const Needs& of_fate, bool by_lane) {
  require(weights_agree(of_eviction, by_lane), ErrorCode::option, eviction, " with ", fate, ": ", KVCOMPRESS_RULE_WEIGHTS_AGREE);
  require(decides_by_layer(of_eviction), ErrorCode::option, eviction, " with ", fate, ": ", KVCOMPRESS_RULE_BY_LAYER);
  require(observe_alike(of_eviction, of_fate), ErrorCode::option, eviction, " with ", fate, ": ", KVCOMPRESS_RULE_OBSERVE_ALIKE);
}

}  // namespace detail

/// The eviction E, whose rows leave behind what D makes of them. Options are those of E and `fate`, those of D. Cost: that of both.
template <Eviction E, Disposer D>
struct Disposed {
 private:
  static constexpr bool alone = std::is_same_v<typename D::State, NoState>;

 public:
  static constexpr std::string_view name = E::name;
  static constexpr Needs may = detail::with_fate(E::may, D::may);
  using State = std::conditional_t<alone, typename E::State, detail::BothStates<typename E::State, typename D::State>>;
  static_assert(detail::weights_agree(E::may, detail::weighs_by_lane<D>), "kvcompress::Disposed<E, D>: " KVCOMPRESS_RULE_WEIGHTS_AGREE);
  static_assert(detail::decides_by_layer(E::may), "kvcompress::Disposed<E, D>: " KVCOMPRESS_RULE_BY_LAYER);
  static_assert(detail::observe_alike(E::may, D::may), "kvcompress::Disposed<E, D>: " KVCOMPRESS_RULE_OBSERVE_ALIKE);

  struct Options : E::Options {
    typename D::Options fate{};
    static void fields(auto& options, auto&& field) {
      E::Options::fields(options, field);
      D::Options::fields(options.fate, field);
    }
  };

  static void validate(const Options& options, const Shape& shape) {
    E::validate(options, shape);
    D::validate(options.fate, shape);
  }
  static bool renumbers(const Options& options) noexcept { return E::renumbers(options); }
  static std::size_t row_bytes(const Options& options, const Shape& shape) {
    return E::row_bytes(options, shape) + D::row_bytes(options.fate, shape);
  }
  static State state(const Options& options, const Site& site, const Memory& memory) {
    if constexpr (alone) {
      return E::state(options, site, memory);
    } else {
      return {E::state(options, site, memory), D::state(options.fate, site, memory)};
    }
  }
  static std::size_t decoded_rows(const Options& options, std::size_t rows) noexcept requires requires { E::decoded_rows(options, rows); }
  { return E::decoded_rows(options, rows); }
  static std::size_t least_rows(const Options& options) noexcept requires requires { E::least_rows(options); }
  { return E::least_rows(options); }
  static std::size_t window(const Options& options) noexcept requires requires { E::window(options); }
  { return E::window(options); }
  static void start(const Options& options, State& state) requires requires { E::start(options, std::declval<typename E::State&>()); }
  { E::start(options, of_eviction(state)); }
  static void observe(const Options& options, State& state, std::size_t head,
                      std::span<const float> probabilities) requires(may.observes != Observes::nothing) {
    if constexpr (E::may.observes != Observes::nothing) { E::observe(options, of_eviction(state), head, probabilities); }
    if constexpr (D::may.observes != Observes::nothing) { D::observe(options.fate, state.fate, head, probabilities); }
  }
  static void make_room_for_queries(const Options& options, State& state, const Shape& shape) requires(ObservesQueries<E>) {
    E::make_room_for_queries(options, of_eviction(state), shape);
  }
  static void observe_query(const Options& options, State& state, std::size_t head, const float* query) noexcept
      requires(ObservesQueries<E>) {
    E::observe_query(options, of_eviction(state), head, query);
  }
  static void observe_row(const Options& options, State& state, std::size_t row, std::span<const float> key,
                          std::span<const float> value) requires(ObservesRows<E>) {
    E::observe_row(options, of_eviction(state), row, key, value);
  }
  static void select(const Options& options, std::span<RowSet> sets, const Moment& moment) {
    if constexpr (alone) {
      E::select(options, sets, moment);
      D::dispose(options.fate, sets, moment);
    } else {
      detail::SetsOfParts parts(sets, moment);
      parts.show([](const LaneView& lane) { return &lane.template state<State>().eviction; });
      E::select(options, parts.sets(), moment);
      parts.show([](const LaneView& lane) { return &lane.template state<State>().fate; });
      D::dispose(options.fate, parts.sets(), moment);
    }
  }
  static void describe([[maybe_unused]] const Options& options, auto&& fact) {
    if constexpr (requires { E::describe(options, fact); }) {
      E::describe(options, fact);
    } else if constexpr (requires { E::describe(fact); }) {
      E::describe(fact);
    }
    fact("fate", D::name);
  }

 private:
  static typename E::State& of_eviction(State& state) noexcept {
    if constexpr (alone) {
      return state;
    } else {
      return state.eviction;
    }
  }
};

/// Four halves: what rows are worth, how a budget is shared out, which rows go, what becomes of them.
template <Scorer S, BudgetAllocator A, Selector X, class D>
struct Evict : Disposed<Evict<S, A, X, Drop>, D> {};

}  // namespace kvcompress

#undef KVCOMPRESS_RULE_WEIGHTS_AGREE
#undef KVCOMPRESS_RULE_BY_LAYER
#undef KVCOMPRESS_RULE_OBSERVE_ALIKE
