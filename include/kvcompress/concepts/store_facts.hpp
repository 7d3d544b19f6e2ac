// include/kvcompress/concepts/store_facts.hpp - what a store can do beyond its contract: by its type, or known at run time only.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <span>

#include "kvcompress/concepts/storage.hpp"
#include "kvcompress/core/accumulation.hpp"
#include "kvcompress/core/views.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

/// A store whose settle cannot fail once there is room.
template <class S>
concept SettlesInRoom = Settles<S> && requires(S store, std::size_t more, Vector<float>& scratch) {
  store.make_room_to_settle(more, scratch);
};
/// A store that encodes what is due aside, which may fail, and then takes it, which cannot, or forgets it.
template <class S>
concept SettlesAside = requires(S store, std::span<S* const> members, const Settling& settling) {
  S::encode_aside(members, settling);
  { S::take_aside(members) }
  noexcept;
  { store.forget_aside() }
  noexcept;
};
/// A store whose values may have to do something that can fail before keys settle.
template <class S>
concept PreparesToSettle = requires(std::span<S* const> members, const Settling& settling) {
  S::prepare_to_settle(members, settling);
};
template <class S>
concept SaysWhenItEncodes = requires(const S store, std::size_t rows) {
  store.encodes_at(rows);
};
/// A store from which whole blocks of encoded rows can leave.
template <class S>
concept ErasesBlocks = requires(S store, std::size_t row) {
  store.erase_block(row);
};
/// A store that can encode its live rows anew, alone or together with the others of its scope: prepare_to_compact may fail, compact cannot.
template <class S>
concept Compacts = requires(std::span<S* const> members, const RowTable& table, Vector<float>& scratch) {
  S::prepare_to_compact(members, table, scratch);
  S::compact(members, table, scratch);
};

/// A store whose exact rows can be written.
template <class S>
concept WritesRows = requires(S store, std::size_t row, const float* x) {
  store.prepare_to_write(row);
  { store.write(row, x) }
  noexcept;
};

/// Keys that are held in a frame of their own, into which queries are brought; values from which weighted sums are brought back.
template <class S>
concept FramesQueries = requires(const S store, float* numbers, std::size_t n) {
  store.frame_queries(numbers, n, n);
};
template <class S>
concept FramesOutputs = requires(const S store, float* numbers, std::size_t n) {
  store.unframe_outputs(numbers, n, n);
};

/// The answers of one store. A type that stands for many (see AnyStore) models every concept, which prunes nothing; its stores know.
struct StoreFacts {
  Scope scope;   ///< whose rows are encoded together
  bool encodes;  ///< some of them; else all stay exact
  bool settles_in_room;
  bool settles_aside;
  bool prepares_to_settle;
  bool says_when_it_encodes;
  bool erases_blocks;
  bool compacts;
  bool prepares;             ///< rows before they are read
  bool in_keys;              ///< values that the keys hold
  bool tiers;                ///< it encodes what a fate makes colder
  bool writes;               ///< its exact rows can be written
  bool writes_encoded;       ///< and its encoded ones
  bool frames;               ///< rows lie in a frame of their own
  std::size_t row_multiple;  ///< rows are encoded in multiples of it; see rows_at_once
  float largest;             ///< magnitude that an exact row holds
};
template <class S>
constexpr StoreFacts facts_by_type() noexcept {
  std::size_t multiple = 1;
  if constexpr (requires { S::row_multiple; }) { multiple = S::row_multiple; }
  bool tiers = false;
  if constexpr (requires { S::tiers; }) { tiers = S::tiers; }
  bool writes_encoded = WritesRows<S> && !Settles<S>;
  if constexpr (requires { S::writes_encoded; }) { writes_encoded = S::writes_encoded; }
  return {.scope = scope_of<S>(),
          .encodes = Settles<S>,
          .settles_in_room = SettlesInRoom<S>,
          .settles_aside = SettlesAside<S>,
          .prepares_to_settle = PreparesToSettle<S>,
          .says_when_it_encodes = SaysWhenItEncodes<S>,
          .erases_blocks = ErasesBlocks<S>,
          .compacts = Compacts<S>,
          .prepares = Prepares<S>,
          .in_keys = ValuesInKeys<S>,
          .tiers = tiers,
          .writes = WritesRows<S>,
          .writes_encoded = writes_encoded,
          .frames = FramesQueries<S> || FramesOutputs<S>,
          .row_multiple = multiple,
          .largest = largest<typename S::exact_type>};
}
/// How many rows a store encodes at a time.
template <class S>
std::size_t rows_at_once(const S& store) noexcept {
  if constexpr (requires { store.rows_at_once(); }) {
    return store.rows_at_once();
  } else if constexpr (requires { S::row_multiple; }) {
    return S::row_multiple;
  } else {
    return 1;
  }
}
template <class S>
inline constexpr StoreFacts facts_of_type = facts_by_type<S>();

/// A store that stands for one of many.
template <class S>
concept ChosenStore = requires(const S& store) {
  { store.facts() } -> std::same_as<const StoreFacts&>;
};
template <class S>
constexpr const StoreFacts& facts_of(const S& store) noexcept {
  if constexpr (ChosenStore<S>) {
    return store.facts();
  } else {
    return facts_of_type<S>;
  }
}
/// Of the stores at a site that are yet to be made; `from`: see keys_at.
template <class S>
constexpr const StoreFacts& facts_of_made_from(const auto& from) noexcept {
  if constexpr (ChosenStore<S>) {
    return from.ops->facts;
  } else {
    return facts_of_type<S>;
  }
}

/// Whether options of a storage say that attention adds up products with its codes in 8 bits.
constexpr bool accumulates_fast(const auto& options) noexcept {
  if constexpr (requires { options.accumulation; }) {
    return options.accumulation == Accumulation::fast;
  } else {
    return false;
  }
}
/// The same of the storage S, in the lane at `site`.
template <class S>
constexpr bool accumulates_fast_at(const typename S::Options& options, [[maybe_unused]] const Site& site) noexcept {
  if constexpr (requires { S::accumulates_fast_at(options, site); }) {
    return S::accumulates_fast_at(options, site);
  } else {
    return accumulates_fast(options);
  }
}
/// The widest scope in which a storage may encode lanes together.
template <class S>
constexpr Scope storage_scope() noexcept {
  return std::max(scope_of<typename S::Keys>(), scope_of<typename S::Values>());
}
/// The scope in which it encodes the lanes of `layer` together.
template <class S>
constexpr Scope storage_scope_at(const typename S::Options& options, const Shape& shape, std::size_t layer) noexcept {
  if constexpr (requires { S::scope_at(options, shape, layer); }) {
    return S::scope_at(options, shape, layer);
  } else {
    return storage_scope<S>();
  }
}
/// Whether all lanes of `layer` are held in the same way.
template <class S>
constexpr bool held_alike(const typename S::Options& options, const Shape& shape, std::size_t layer) noexcept {
  if constexpr (requires { S::held_alike(options, shape, layer); }) {
    return S::held_alike(options, shape, layer);
  } else {
    return true;
  }
}
/// The same in the lane at `site`.
template <class S>
constexpr bool needs_retrieval_at([[maybe_unused]] const typename S::Options& options, [[maybe_unused]] const Site& site) noexcept {
  if constexpr (requires { S::needs_retrieval_at(options, site); }) {
    return S::needs_retrieval_at(options, site);
  } else {
    return requires { S::needs_retrieval; };
  }
}
/// Whether a query's rows must be known before they are read.
template <class S>
constexpr bool needs_retrieval(const typename S::Options& options) noexcept {
  if constexpr (requires { S::needs_retrieval_of(options); }) {
    return S::needs_retrieval_of(options);
  } else {
    return requires { S::needs_retrieval; };
  }
}

}  // namespace kvcompress::detail
