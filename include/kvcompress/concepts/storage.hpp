// include/kvcompress/concepts/storage.hpp - how rows are held: what a store of keys or values provides, and what it may ask for.
// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstddef>
#include <span>
#include <string_view>
#include <type_traits>

#include "kvcompress/concepts/persistence.hpp"
#include "kvcompress/core/memory.hpp"
#include "kvcompress/core/most_rows.hpp"
#include "kvcompress/core/row_table.hpp"
#include "kvcompress/core/shape.hpp"
#include "kvcompress/core/site.hpp"
#include "kvcompress/core/views.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

class Rotation;

/// What a retrieval can say about the rows of a lane before they are encoded.
struct Reads {
  std::size_t indexed = 0;             ///< rows that a query reads only if they are chosen: [0, indexed); it reads all later ones
  std::size_t unit = 1;                ///< rows are chosen this many at a time, from multiples of it
  std::span<const RowRange> always{};  ///< of the indexed rows those that every query reads
  std::span<const RowRange> first{};   ///< those that the prompt's last query chose, if the retrieval looked
};

/// What a store may use when it encodes rows at a commit.
struct Settling {
  const Shape& shape;
  const RowTable& table;   ///< of the lane, or of all lanes that the store encodes together
  Rotation& rotation;      ///< takes keys back to their form before the rotary embedding
  Vector<float>& scratch;  ///< any size, holds nothing between calls
  const Memory& memory;
  bool end_of_prompt;            ///< this commit closes a prompt
  std::size_t layer;             ///< of the lane, or the first of the lanes that the store encodes together
  std::size_t rows;              ///< rows that all of them have and that are committed: only these may be encoded
  std::span<const Reads> reads;  ///< what the retrieval says, one entry per lane
  std::size_t cold = 0;          ///< rows before this one are cold: for stores with `static constexpr bool tiers`, true
};

/// Whose rows a store encodes together; a lane's where it does not say.
template <class S>
constexpr Scope scope_of() noexcept {
  if constexpr (requires { S::scope; }) {
    return S::scope;
  } else {
    return Scope::lane;
  }
}

/// Encodes the rows that are due in `members`: one store, or those of all lanes of the scope at once (layer by layer, heads ascending), so that
/// they can share what they find; each lane has a store of its own all the same. If it fails, nothing has changed.
template <class S>
concept Settles = requires(std::span<S* const> members, const Settling& settling) {
  S::settle(members, settling);
};

/// Rows of one lane, keys or values, in whatever form. Rows [0, settled()) are encoded and keep their place; the rest are exact.
///
/// | required                   | what it does
/// | S(options, site, dim, memory) | an empty store of rows of `dim` numbers
/// | make_room(n)               | afterwards n appends cannot fail
/// | append(row)                | one exact row of `dim` floats at the end
/// | move(from, to), resize(n)  | exact rows only
/// | reserve(n), unshare()      | n rows will need no allocation; clones what a copy holds too
/// | scratch_floats(dim, queries), account(report) | what scores or accumulate need; bytes held
/// | bytes_for(...)             | what so many rows take (see SaysBytes)
///
/// Every verb of a cache is all or nothing, so what may fail comes before what changes. A commit is made in place where a store says how it
/// can be prepared, else on copies of the lanes, which share blocks with the originals; a store that says nothing is right, and slower.
///
/// | optional                   | what it does
/// | S::settle(members, settling) | encodes the rows that are due, at a commit (see Settles); without it all rows stay exact
/// | S::scope                   | whose rows it encodes together; a lane's where it does not say
/// | make_writable(first, last) | afterwards move to these exact rows cannot fail (else: unshare)
/// | prepare_to_write(row), write(row, x) | an exact row becomes x, `dim` floats; the second cannot fail after the first (see Disposer)
/// | S::tiers                   | `static constexpr bool`, true if a commit encodes the rows before Settling::cold, which a fate made colder
/// | S::writes_encoded          | `static constexpr bool`, true if encoded rows can be written like exact ones
/// | hold(), release()          | between them, room that was made stays
/// | take_room(former)          | a changed copy takes over free blocks
/// | own_recent()               | clones what will be written first, if a copy holds it too
/// | keep_recent(), hold_at_most(rows) | memory of recent rows stays; under a budget in bytes that of so many rows, and no more
/// | make_room_to_settle(more, scratch) | afterwards settle cannot fail, with up to `more` further exact rows (see SettlesInRoom)
/// | S::encode_aside(members, settling), S::take_aside(members), forget_aside() | settle in two steps (see SettlesAside)
/// | encodes_at(rows)           | a commit with so many rows may encode some
/// | S::prepare_to_settle(members, settling) | of values: does what may fail in settle for other reasons than memory, before keys settle
/// | block_at(row), erase_block(first) | the rows that can only leave together with an encoded row; removes such a block
/// | S::prepare_to_compact(members, table, scratch), S::compact(...) | encodes live rows anew, without the dead ones (see Compacts)
/// | alike(other)               | whether another's encoded rows lie alike, where several lanes are encoded or evicted together
/// | describe(fact), persist(self, archive, rows) | see PersistsRows
/// | S::account(lanes, member, shared, report), S::unshare(lanes, member) | of stores whose lanes share memory: all at once
template <class S>
concept RowStore = std::copy_constructible<S> && std::movable<S> &&
    requires(S store, const S held, std::size_t n, const float* row, MemoryReport& report) {
  typename S::exact_type;
  { held.rows() }
  noexcept->std::same_as<std::size_t>;
  { held.settled() }
  noexcept->std::same_as<std::size_t>;
  store.make_room(n);
  store.append(row);
  store.move(n, n);
  store.resize(n);
  store.reserve(n);
  store.unshare();
  { held.account(report) }
  noexcept;
  { held.scratch_floats(n, n) }
  noexcept->std::same_as<std::size_t>;
};

/// Keys that are held as they came, rotated: logits[q][r - range.first] = queries[q] . key r for `n` queries, from the stored form.
/// read(row, out) decodes one row, for inspection.
template <class S>
concept RotatedKeyStore = RowStore<S> && requires(const S held, RowRange range, const float* queries, float* logits, std::size_t n) {
  { held.scores(range, queries, n, n, logits, n, logits) }
  noexcept;
  { held.read(n, logits) }
  noexcept;
};

/// Keys that are held without their rotary embedding: scores and read rotate them to the positions of the table.
template <class S>
concept UnrotatedKeyStore = RowStore<S> &&
    requires(const S held, RowRange range, const RowTable& table, Rotation& rotation, const float* queries, float* logits, std::size_t n) {
  { held.scores(range, table, rotation, queries, n, n, logits, n, logits) }
  noexcept;
  { held.read(n, table, rotation, logits) }
  noexcept;
};

template <class S>
concept KeyStore = RotatedKeyStore<S> || UnrotatedKeyStore<S>;

/// Values: out[q] += sum over r of weights[q][r - range.first] * value r for `n` queries, from the stored form.
template <class S>
concept ValueStore = RowStore<S> && requires(const S held, RowRange range, const float* weights, float* out, std::size_t n) {
  { held.accumulate(range, weights, n, n, out, n, out) }
  noexcept;
  held.read(n, out);
};

/// The Values of a storage whose keys hold the values too (the leading channels of a key, as in multi-head latent attention): they hold
/// nothing themselves, and Keys is asked instead, which must be a ValueStore too.
template <class S>
concept ValuesInKeys = ValueStore<S> && S::in_keys;

/// A store that must fetch or rebuild rows before they can be read: prepare(ranges) does so and returns the bytes it fetched from the
/// slow tier; it may fail. Then scores and accumulate may be called for rows in these ranges.
template <class S>
concept Prepares = requires(S store, std::span<const RowRange> ranges) {
  { store.prepare(ranges) } -> std::same_as<std::size_t>;
}
|| requires(S store, std::span<const RowRange> ranges, const RowTable& table, Rotation& rotation, Vector<float>& scratch) {
  { store.prepare(ranges, table, rotation, scratch) } -> std::same_as<std::size_t>;
};

/// Says what the blocks of that many rows take; of a wider scope, one lane's share; of a store that keeps rows at hand, also by how many
/// rows a query reads (the retrieval's rows_read(options, rows)). It may have most_bytes: see MostRows.
template <class S, class Options>
concept SaysBytes = requires(std::size_t n, const Options& options) {
  { S::bytes_for(n, n, options) } -> std::same_as<std::size_t>;
}
|| requires(std::size_t n, const Options& options, const Shape& shape) {
  { S::bytes_for(n, n, options, shape) } -> std::same_as<std::size_t>;
}
|| requires(std::size_t n, const Options& options, const Shape& shape) {
  { S::bytes_for(n, n, options, shape, n) } -> std::same_as<std::size_t>;
};

/// What the keys, the values of a lane are built from: the storage's options, unless it has options for each (see AnyStorage).
template <class S>
constexpr const auto& keys_at(const typename S::Options& options, const Site& site) noexcept {
  if constexpr (requires { S::keys_at(options, site); }) {
    return S::keys_at(options, site);
  } else {
    return options;
  }
}
template <class S>
constexpr const auto& values_at(const typename S::Options& options, const Site& site) noexcept {
  if constexpr (requires { S::values_at(options, site); }) {
    return S::values_at(options, site);
  } else {
    return options;
  }
}

template <class S, class Options>
concept BuiltFrom = std::constructible_from<S, const Options&, const Site&, std::size_t, const Memory&> && SaysBytes<S, Options>;

/// How rows are held: a store for keys, one for values, and the options that both are built from.
///
/// | required                   | what it does
/// | Keys, Values, Options      | the stores (KeyStore, ValueStore), and a semiregular value
/// | validate(options)          | raises an Error for bad options
/// | optional                   |
/// | layers_with(options, shape, layer) | which layers are encoded together, where stores have the scope of a group
/// | validate_shape(options, shape) | raises an Error where it does not fit every shape
/// | needs_retrieval            | `static constexpr bool`, true if rows must be fetched before they are read
/// | start_count(options, shape) | numbers that options.start points to, of which a cache keeps a copy
template <class S>
concept Storage = std::semiregular<typename S::Options> && KeyStore<typename S::Keys> && ValueStore<typename S::Values> &&
    requires(const typename S::Options options, const Site& site) {
  S::validate(options);
  requires BuiltFrom<typename S::Keys, std::remove_cvref_t<decltype(keys_at<S>(options, site))>>;
  requires BuiltFrom<typename S::Values, std::remove_cvref_t<decltype(values_at<S>(options, site))>>;
};

}  // namespace kvcompress
