// include/kvcompress/concepts.hpp - what the parts of a policy must provide and what they may ask for. Read this file first.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <span>
#include <string_view>
#include <type_traits>

#include "kvcompress/core/drop_worst.hpp"
#include "kvcompress/core/memory.hpp"
#include "kvcompress/core/most_rows.hpp"
#include "kvcompress/core/row_table.hpp"
#include "kvcompress/core/shape.hpp"
#include "kvcompress/core/views.hpp"
#include "kvcompress/core/visible.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {
class Reader;
class Rotation;
class Writer;
}

/// A KV cache holds, for each lane (one layer, one KV head), rows: a row is one token's position, key and value. A policy says which
/// rows stay (an Eviction), how rows are held (a Storage: one store for keys, one for values) and which rows a query reads (a Retrieval).
/// The cache does everything else.
namespace kvcompress::inline KVCOMPRESS_ABI {

/// Which lanes share something or decide together: each for itself, all of a layer, or all of a group of layers. An eviction of scope
/// `group` decides by positions alone, so that all lanes of all layers agree.
enum class Scope { lane, layer, group };

// ---------------------------------------------------------------- how rows are held

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

/// What can be saved: persist(self, archive, rows) names the members of a lane's store or state to an archive, which writes them or reads them
/// into a new one (see core/archive.hpp); `rows` are those of the lane.
template <class S>
concept Persists = requires(const S& saved, S& loaded, Writer& writer, Reader& reader, std::size_t rows) {
  S::persist(saved, writer, rows);
  S::persist(loaded, reader, rows);
};
/// A store also says what its form depends on, since a file of another form is refused: describe(fact) calls fact(name, number or text); a
/// retrieval may. A store that is encoded or evicted together with others may have alike(other): whether their encoded rows lie alike.
template <class S>
concept PersistsRows = Persists<S> && requires(void (*fact)(std::string_view, ...)) {
  S::describe(fact);
};
/// Options list themselves: fields(options, field) calls field(name, member); unnamed_fields(options, field), where there is one, for what the
/// name of a policy cannot set. All of them are part of a saved cache's fingerprint.
template <class O>
concept ListsFields = requires(const O& options, void (*field)(const char*, ...)) {
  O::fields(options, field);
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

// ---------------------------------------------------------------- which rows stay

/// When an eviction decides: never; by scores once, at the end of a prompt, and otherwise by positions alone; or at every commit.
enum class Decides { never, once, every_commit };

/// Which attention probabilities an eviction needs to see.
enum class Observes {
  nothing,
  every_query,         ///< those of every query, as attend computes them
  last_prompt_queries  ///< those of the last `window(options)` queries of a prompt, computed at its end
};

/// What an eviction decides from, and where it writes its decision. Padding is gone already (see KVCache::end_prompt).
struct Selection {
  const RowTable& rows;                                     ///< positions, which rows are alive
  bool end_of_prompt;                                       ///< this commit closes a prompt
  std::size_t prompt_tokens;                                ///< tokens up to the end of the last prompt, this one included
  std::size_t budget;                                       ///< Options::budget in rows; 0 if the eviction has none
  Vector<Position>& order;                                  ///< scratch for sorting, any size
  std::span<unsigned char> drop;                            ///< one flag per row, 0 at entry; set to 1 to evict a live row
  std::size_t most_decoded = static_cast<std::size_t>(-1);  ///< decoded rows that a budget in bytes has room for

  /// Position of the k-th oldest live row, k from 0. Cost: O(rows).
  [[nodiscard]] Position oldest(std::size_t k) {
    gather();
    const auto nth = order.begin() + static_cast<std::ptrdiff_t>(k);
    std::nth_element(order.begin(), nth, order.end());
    return *nth;
  }
  /// Position of the k-th newest live row, k from 0. Cost: O(rows), fast while the newest k + 1 positions have no gap.
  [[nodiscard]] Position newest(std::size_t k) {
    const std::span<const Position> positions = rows.positions();
    if (positions.empty()) { return static_cast<Position>(rows.rows() - 1 - k); }
    Position end = 0;
    for (const Position p : positions) { end = std::max(end, p + 1); }  // no_position becomes 0
    if (end > k) {
      const Position last = end - 1;
      const Position guess = last - static_cast<Position>(k);
      Position newer = 0;
      for (const Position p : positions) { newer += p - guess <= last - guess ? 1U : 0U; }
      if (newer == k + 1) { return guess; }
    }
    gather();
    const auto nth = order.begin() + static_cast<std::ptrdiff_t>(k);
    std::nth_element(order.begin(), nth, order.end(), [](Position a, Position b) { return a > b; });
    return *nth;
  }
  /// Evicts down to `budget` rows: the newest `recent` stay (1 to budget) and, of the others, those with the largest score(row); ties
  /// go to the older row. Cost: O(rows).
  void keep_best(std::size_t rows_to_keep, std::size_t recent, auto&& score) {
    if (rows.live() <= rows_to_keep) { return; }
    const Position first_recent = newest(recent - 1);
    if (rows.live() == rows_to_keep + 1 && !rows.positions().empty()) {  // every step of decoding
      drop[worst_before(first_recent, score)] = 1;
      return;
    }
    if constexpr (std::is_same_v<decltype(score(std::size_t{0})), float>) {
      return detail::drop_worst(rows, rows.live() - rows_to_keep, first_recent, score, order, drop);
    }
    order.clear();
    for (std::size_t r = 0; r < rows.rows(); ++r) {
      if (rows.alive(r) && rows.position(r) < first_recent) { order.push_back(static_cast<Position>(r)); }
    }
    const auto goes_before = [&](Position a, Position b) {
      const auto x = score(a);
      const auto y = score(b);
      return x != y ? x < y : rows.position(a) > rows.position(b);
    };
    const auto last_gone = order.begin() + static_cast<std::ptrdiff_t>(rows.live() - rows_to_keep - 1);
    std::nth_element(order.begin(), last_gone, order.end(), goes_before);
    for (auto row = order.begin(); row <= last_gone; ++row) { drop[*row] = 1; }
  }
  /// Live rows in ascending position, in `order`. Cost: a sort.
  void sort_rows() {
    order.clear();
    for (std::size_t r = 0; r < rows.rows(); ++r) {
      if (rows.alive(r)) { order.push_back(static_cast<Position>(r)); }
    }
    const auto older = [&](Position a, Position b) { return rows.position(a) < rows.position(b); };
    if (!std::is_sorted(order.begin(), order.end(), older)) { std::sort(order.begin(), order.end(), older); }
  }

 private:
  /// The row with the smallest score among those before a position; of equal ones the newest.
  [[nodiscard]] std::size_t worst_before(Position first_recent, auto&& score) const {
    const std::span<const Position> positions = rows.positions();
    const std::size_t none = positions.size();
    std::size_t worst = none;
    auto least = score(std::size_t{0});
    for (std::size_t r = 0; r < positions.size(); ++r) {
      const auto own = score(r);
      if ((own > least && worst != none) || positions[r] >= first_recent) { continue; }  // no_position, of dead rows, is the largest
      if (own == least && worst != none && positions[r] < positions[worst]) { continue; }
      least = own;
      worst = r;
    }
    return worst;
  }
  void gather() {
    order.clear();
    for (std::size_t r = 0; r < rows.rows(); ++r) {
      if (rows.alive(r)) { order.push_back(rows.position(r)); }
    }
  }
};

/// The per-lane memory of an eviction, owned by the cache: one entry per row, which follows its row.
template <class S>
concept RowState = std::copy_constructible<S> && std::movable<S> && requires(S state, std::size_t n, MemoryReport& report) {
  state.reserve(n);
  state.resize(n);
  state.move(n, n);
  state.erase(n, n);
  state.compact(n);
  state.account(report);
};

/// Decides which rows of a full lane go. Static functions over an Options value and a State that the cache owns per lane:
///
/// validate(options, shape): raises an Error for bad options.   renumbers(options): attention uses in-cache positions.
/// state(options, shape, memory): the State of one lane.        row_bytes(options, shape): what it takes for one row.
/// select(options, state, selection): sets selection.drop.
template <class E>
concept Eviction = std::semiregular<typename E::Options> && RowState<typename E::State> &&
    requires(const typename E::Options options, const Shape& shape, const Memory& memory, typename E::State state, Selection& selection) {
  { E::name } -> std::convertible_to<std::string_view>;
  { E::scope } -> std::convertible_to<Scope>;
  { E::decides } -> std::convertible_to<Decides>;
  { E::observes } -> std::convertible_to<Observes>;
  E::validate(options, shape);
  { E::renumbers(options) } -> std::same_as<bool>;
  { E::row_bytes(options, shape) } -> std::same_as<std::size_t>;
  { E::state(options, shape, memory) } -> std::same_as<typename E::State>;
  E::select(options, state, selection);
};

/// An eviction that sees attention: observe(options, state, head, probabilities) gets one query's probabilities over all rows of the
/// lane (0 for rows it may not see); `head` counts the query heads of the KV head. Queries come in text order, heads ascending.
template <class E>
concept ObservesAttention = Eviction<E> &&
                            E::observes != Observes::nothing&& requires(const typename E::Options options, typename E::State& state,
                                                                        std::span<const float> probabilities) {
  E::observe(options, state, std::size_t{}, probabilities);
};

/// An eviction that sees every row before it is encoded: observe_row(options, state, row, key, value).
template <class E>
concept ObservesRows = Eviction<E> &&
    requires(const typename E::Options options, typename E::State& state, std::span<const float> key, std::span<const float> value) {
  E::observe_row(options, state, std::size_t{}, key, value);
};

/// An eviction that bounds the rows of a lane by a Budget named `budget`. Where that is bytes, Selection::budget is what fits in them, at any
/// time, decoded rows included. It may have decoded_rows(options, budget), how many of these it leaves to decoded rows, and
/// least_rows(options), the smallest budget that it works with.
template <class E>
concept HasBudget = Eviction<E> && requires(typename E::Options options) {
  options.budget.rows_of;
};

// ---------------------------------------------------------------- which rows a query reads

/// What a retrieval chooses from: one token's queries of one KV head.
struct Retrieving {
  const RowTable& table;
  const float* queries;  ///< (group, stride), in the stored keys' form, the attention scale included
  std::size_t stride;
  std::size_t group;
  std::size_t key_width;
  Position shift;  ///< the queries' distance between position and slot (see RowTable::shift)
  Rotation& rotation;
  Vector<float>& scratch;   ///< any size
  Vector<Position>& order;  ///< any size
  Visible visible{};        ///< which rows the token may see: a unit of others must not be chosen, whatever the queries say to it
  float soft_cap = 0.0F;    ///< the attention's (see AttendOptions)
};

/// Decides which rows a query reads after the prompt. Static functions over an Options value and a State that the cache owns per lane and
/// that follows its rows (RowState); [0, state.indexed()) are the rows it chooses from, later ones are always read.
///
/// validate(options, shape): raises an Error for bad options.   reads_all(options, layer): this layer is read in full.
/// state(options, shape, memory): the State of one lane.        bytes_for(options, shape, rows): what it takes for that many rows.
/// refresh(options, state, table, end_of_prompt, padding, read, scratch): brings the index up to date at a commit, before rows are encoded;
///   read(row, out) gives a key in the stored form; of the first `padding` rows, which no query of the prompt saw, nothing should depend.
/// select(options, state, retrieving, ranges): appends ascending, disjoint ranges of indexed rows, with what is visible (see Retrieving).
/// make_room_to_refresh(options, state, rows, scratch): afterwards refresh with up to so many rows cannot fail; or grows_at(options, state,
///   rows): a commit with so many rows may index some, on copies (see RowStore). One that has neither commits on copies always.
/// state.reads(): what stores may want to know.                 wants_last_query(options): calls remember_first(state, ranges) with what
///   the prompt's last query chooses.                           renumbers(options): can follow in-cache positions.
/// largest_key, if there is one: the largest magnitude of a key that the index can hold.
template <class R>
concept Retrieval = std::semiregular<typename R::Options> && RowState<typename R::State> &&
    requires(const typename R::Options options, const Shape& shape, const Memory& memory, typename R::State state, const RowTable& table,
             void (*read)(std::size_t, float*), Vector<float>& scratch, const Retrieving& retrieving, Vector<RowRange>& ranges,
             std::size_t n) {
  { R::name } -> std::convertible_to<std::string_view>;
  R::validate(options, shape);
  { R::reads_all(options, n) } -> std::same_as<bool>;
  { R::wants_last_query(options) } -> std::same_as<bool>;
  { R::renumbers(options) } -> std::same_as<bool>;
  { R::state(options, shape, memory) } -> std::same_as<typename R::State>;
  { R::bytes_for(options, shape, n) } -> std::same_as<std::size_t>;
  { state.indexed() } -> std::same_as<std::size_t>;
  { state.reads() } -> std::same_as<Reads>;
  R::refresh(options, state, table, true, n, read, scratch);
  R::select(options, state, retrieving, ranges);
  state.remember_first(ranges);
};

}  // namespace kvcompress
