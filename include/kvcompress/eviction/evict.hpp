// include/kvcompress/eviction/evict.hpp - an eviction made of parts: what rows are worth, how a budget is shared out, which rows stay.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <string_view>

#include "kvcompress/eviction/deciding.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Rows that go are gone.
struct Drop {};

namespace detail {
/// Oldest rows that stay by default: those that a scorer names as `sinks`.
template <class S>
inline constexpr std::size_t default_sinks = [] {
  if constexpr (requires { S::sinks; }) {
    return S::sinks;
  } else {
    return std::size_t{0};
  }
}();
}  // namespace detail

/// Keeps `budget` rows per lane, shared out by the allocator A: the `sinks` oldest, the newest, and of the others those that the selector X
/// chooses by the scores of S. A scorer that decides once does so at the end of a prompt; rows decoded later stay then, unless `decode_budget`
/// bounds them. Others evict at every commit that finds `period` rows more than the budget. Cost: the scorer's, and O(rows) per decision.
///
/// What becomes of the rows that go, the fourth half, stands in eviction/dispose.hpp.
template <Scorer S, BudgetAllocator A = Uniform, Selector X = Best, class D = Drop>
struct Evict;
template <Scorer S, BudgetAllocator A, Selector X>
struct Evict<S, A, X, Drop> {
  static constexpr std::string_view name = S::name;
  static constexpr Needs may = [] {
    Needs needs = S::may;
    needs.model = A::sees == Scope::model;
    return needs;
  }();
  using State = typename S::State;

  struct Options {
    Budget budget = 1024;                          ///< rows that stay, sinks and recent ones included
    std::size_t sinks = detail::default_sinks<S>;  ///< oldest rows that always stay, fewer than the budget
    std::size_t recent = 0;                        ///< newest rows that always stay, 1 to budget - sinks; 0: as the scorer says
    std::size_t period = 1;                        ///< rows over the budget at which decoded rows make the next decision due, at least 1
    std::size_t decode_budget = 0;                 ///< of a scorer that decides once: decoded rows that stay, 0: all
    typename S::Options scorer{};
    typename A::Options allocator{};
    typename X::Options selector{};
    /// Without those of the parts.
    static void own_fields(auto& options, auto&& field) {
      field("budget", options.budget);
      field("sinks", options.sinks);
      field("recent", options.recent);
      if constexpr (S::may.decides == Decides::once) {
        field("decode_budget", options.decode_budget);
      } else {
        field("period", options.period);
      }
    }
    static void parts(auto& options, auto&& part) {
      part(options.scorer);
      part(options.allocator);
      part(options.selector);
    }
    static void fields(auto& options, auto&& field) {
      own_fields(options, field);
      parts(options, [&](auto& part) { part.fields(part, field); });
    }
  };

  static void validate(const Options& options, const Shape& shape) {
    S::validate(options.scorer, shape);
    deciding(options).validate(name, shape);
  }
  static constexpr bool renumbers(const Options&) noexcept { return false; }
  static std::size_t row_bytes(const Options& options, const Shape& shape) { return S::row_bytes(options.scorer, shape); }
  static State state(const Options& options, const Site& site, const Memory& memory) { return S::state(options.scorer, site, memory); }
  static std::size_t decoded_rows(const Options& options, std::size_t rows) noexcept requires(S::may.decides == Decides::once) {
    return detail::Deciding::decoded_rows(options.decode_budget, rows);
  }
  static std::size_t least_rows(const Options& options) { return deciding(options).least_rows(); }
  static std::size_t window(const Options& options) noexcept requires requires { S::window(options.scorer); }
  { return S::window(options.scorer); }
  static void start(const Options& options, State& state) requires requires { S::start(options.scorer, state); }
  { S::start(options.scorer, state); }
  static void observe(const Options& options, State& state, std::size_t head, std::span<const float> probabilities) requires requires {
    S::observe(options.scorer, state, head, probabilities);
  }
  { S::observe(options.scorer, state, head, probabilities); }
  static void make_room_for_queries(const Options& options, State& state, const Shape& shape) requires requires {
    S::make_room_for_queries(options.scorer, state, shape);
  }
  { S::make_room_for_queries(options.scorer, state, shape); }
  static void observe_query(const Options& options, State& state, std::size_t head, const float* query) noexcept requires requires {
    S::observe_query(options.scorer, state, head, query);
  }
  { S::observe_query(options.scorer, state, head, query); }
  static void observe_row(const Options& options, State& state, std::size_t row, std::span<const float> key,
                          std::span<const float> value) requires requires {
    S::observe_row(options.scorer, state, row, key, value);
  }
  { S::observe_row(options.scorer, state, row, key, value); }
  static void select(const Options& options, std::span<RowSet> sets, const Moment& moment) { deciding(options).select(sets, moment); }
  /// Lanes that keep the same rows: as the scorer says, or more of them if a selector that is chosen at run time does.
  static constexpr Scope agrees(const Options& options) noexcept {
    if constexpr (requires { options.selector.agrees; }) {
      return std::max(may.agrees, options.selector.agrees);
    } else {
      return may.agrees;
    }
  }
  /// Whether a part wants to know of the tokens.
  static constexpr bool needs_tokens(const Options& options) noexcept {
    return NeedsTokens<S> || detail::in_use(detail::selector_functions_of<X>, options.selector)->needs_tokens;
  }
  /// What its name does not say of it, for saved caches.
  static void describe(const Options& options, auto&& fact) {
    const detail::Deciding parts = deciding(options);
    fact("allocator", parts.allocator->name);
    fact("selector", parts.selector->name);
    fact("agrees", agrees(options));
  }

 private:
  static detail::Deciding deciding(const Options& o) {
    return detail::deciding<S, A, X>(o.scorer, o.allocator, o.selector, o.budget, o.sinks, o.recent, o.period, o.decode_budget);
  }
};

}  // namespace kvcompress
