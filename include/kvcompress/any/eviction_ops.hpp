// include/kvcompress/any/eviction_ops.hpp - what an eviction provides, as a table of functions over its Options and its State.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <span>

#include "kvcompress/any/state_ops.hpp"
#include "kvcompress/concepts/eviction.hpp"
#include "kvcompress/eviction/budget.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

/// Functions that an eviction lacks are null. See the concept Eviction.
struct EvictionOps : StateOps {
  Needs needs;

  void (*validate)(const void* options, const Shape& shape);
  bool (*renumbers)(const void* options);
  std::size_t (*row_bytes)(const void* options, const Shape& shape);
  const Budget* (*budget)(const void* options);                        // or null
  std::size_t (*decoded_rows)(const void* options, std::size_t rows);  // or null
  std::size_t (*least_rows)(const void* options);                      // or null
  std::size_t (*window)(const void* options);                          // or null
  bool (*needs_tokens)(const void* options) noexcept;                  // or null

  void (*start)(const void* options, void* state);                                                            // or null
  void (*observe)(const void* options, void* state, std::size_t head, std::span<const float> probabilities);  // or null
  void (*observe_row)(const void* options, void* state, std::size_t row, std::span<const float> key,
                      std::span<const float> value);                                                       // or null
  void (*make_room_for_queries)(const void* options, void* state, const Shape& shape);                     // or null
  void (*observe_query)(const void* options, void* state, std::size_t head, const float* query) noexcept;  // or null
  void (*select)(const void* options, std::span<RowSet> sets, const Moment& moment);
};

template <class E>
struct EvictionFunctions {
  using Options = typename E::Options;
  using State = typename E::State;
  static const Options& of(const void* options) noexcept { return *static_cast<const Options*>(options); }
  static State& in(void* state) noexcept { return *static_cast<State*>(state); }
  static const State& in(const void* state) noexcept { return *static_cast<const State*>(state); }

  static constexpr EvictionOps table() noexcept {
    EvictionOps ops{};
    static_cast<StateOps&>(ops) = state_ops_of<E>();
    ops.needs = E::may;
    ops.validate = [](const void* o, const Shape& shape) { E::validate(of(o), shape); };
    ops.renumbers = [](const void* o) { return E::renumbers(of(o)); };
    ops.row_bytes = [](const void* o, const Shape& shape) { return E::row_bytes(of(o), shape); };
    ops.select = [](const void* o, std::span<RowSet> sets, const Moment& moment) { E::select(of(o), sets, moment); };
    bound(ops);
    observe(ops);
    return ops;
  }
  static constexpr void bound(EvictionOps& ops) noexcept {
    if constexpr (HasBudget<E>) {
      ops.budget = [](const void* o) -> const Budget* { return &of(o).budget; };
    }
    if constexpr (requires(const Options& o) { E::decoded_rows(o, std::size_t{}); }) {
      ops.decoded_rows = [](const void* o, std::size_t rows) { return E::decoded_rows(of(o), rows); };
    }
    if constexpr (requires(const Options& o) { E::needs_tokens(o); }) {
      ops.needs_tokens = [](const void* o) noexcept { return E::needs_tokens(of(o)); };
    }
    if constexpr (requires(const Options& o) { E::least_rows(o); }) {
      ops.least_rows = [](const void* o) { return E::least_rows(of(o)); };
    }
  }
  static constexpr void observe(EvictionOps& ops) noexcept {
    if constexpr (requires(const Options& o) { E::window(o); }) {
      ops.window = [](const void* o) { return std::size_t{E::window(of(o))}; };
    }
    if constexpr (requires(const Options& o, State& s) { E::start(o, s); }) {
      ops.start = [](const void* o, void* s) { E::start(of(o), in(s)); };
    }
    if constexpr (ObservesAttention<E>) {
      ops.observe = [](const void* o, void* s, std::size_t head, std::span<const float> probabilities) {
        E::observe(of(o), in(s), head, probabilities);
      };
    }
    if constexpr (ObservesQueries<E>) {
      ops.make_room_for_queries = [](const void* o, void* s, const Shape& shape) { E::make_room_for_queries(of(o), in(s), shape); };
      ops.observe_query = [](const void* o, void* s, std::size_t head, const float* query) noexcept {
        E::observe_query(of(o), in(s), head, query);
      };
    }
    if constexpr (ObservesRows<E>) {
      ops.observe_row = [](const void* o, void* s, std::size_t row, std::span<const float> key, std::span<const float> value) {
        E::observe_row(of(o), in(s), row, key, value);
      };
    }
  }
};
template <class E>
inline constexpr EvictionOps eviction_ops_of = EvictionFunctions<E>::table();

}  // namespace kvcompress::detail
