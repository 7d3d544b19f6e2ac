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

/// Encodes the rows that are due. A store of a wider scope does so for all lanes of the scope at once (`members`: layer by layer, heads
/// ascending), so that they can share what they find; each lane has a store of its own all the same. If it fails, nothing has changed.
/// Keys are settled before values; a value store whose settle would fail for other reasons than memory does what may fail in
/// prepare_to_settle(members, settling), which comes before both.
template <class S>
concept Settles = (scope_of<S>() == Scope::lane && requires(S store, const Settling& settling) { store.settle(settling); }) ||
                  (scope_of<S>() != Scope::lane &&
                   requires(std::span<S* const> members, const Settling& settling) { S::settle(members, settling); });

/// Rows of one lane, keys or values, in whatever form. Rows [0, settled()) are encoded and keep their place; the rest are exact.
///
/// make_room(n): afterwards n appends cannot fail.     append(row): one exact row of `dim` floats at the end.
/// move(from, to), resize(n): exact rows only.         settle: encodes the rows that are due, at a commit (see Settles).
/// scratch_floats(dim, queries): what scores needs.     account(report): bytes held.
/// reserve(n): n rows will need no allocation.         unshare(): clones what a copy holds too.
/// A store that encodes under an eviction also has block_at(row), the rows that can only leave together with an encoded row, and
/// erase_block(first), which removes such a block. One that can also encode its live rows anew has prepare_to_compact(table, scratch), which
/// may fail, and then compact(table, scratch), which removes the dead rows (see Recent).
///
/// Every verb of a cache is all or nothing, so what may fail comes before what changes. A commit is made in place where a store says how it
/// can be prepared, else on copies of the lanes, which share blocks with the originals; a store that says nothing is right, and slower:
/// make_writable(first, last): afterwards move to these exact rows cannot fail (else: unshare).
/// hold(), release(): between them, room that was made stays.     take_room(former): a changed copy takes over free blocks.
/// make_room_to_settle(more, scratch): afterwards settle cannot fail, with up to `more` further exact rows; or
/// encode_aside(members, settling), then take_aside(members), which cannot fail, or forget_aside(); encodes_at(rows): a commit with so
/// many rows may encode some.
template <class S>
concept RowStore = std::copy_constructible<S> && std::movable<S> && Settles<S> &&
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

/// How rows are held: a store for keys, one for values, and the options that both are built from. One whose stores encode the lanes of a
/// group of layers together also says which: layers_with(options, shape, layer). One that does not fit every shape also has
/// validate_shape(options, shape), which raises an Error. One whose rows must be fetched before they are read says
/// `static constexpr bool needs_retrieval = true`.
template <class S>
concept Storage = std::semiregular<typename S::Options> && KeyStore<typename S::Keys> && ValueStore<typename S::Values> &&
    std::constructible_from<typename S::Keys, const typename S::Options&, std::size_t, const Memory&> &&
    std::constructible_from<typename S::Values, const typename S::Options&, std::size_t, const Memory&> &&
    SaysBytes<typename S::Keys, typename S::Options> && SaysBytes<typename S::Values, typename S::Options> &&
    requires(const typename S::Options options) {
  S::validate(options);
};

}  // namespace kvcompress
