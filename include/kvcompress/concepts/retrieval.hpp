// include/kvcompress/concepts/retrieval.hpp - which rows a query reads: what a retrieval provides.
// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "kvcompress/concepts/row_state.hpp"
#include "kvcompress/concepts/storage.hpp"
#include "kvcompress/core/memo.hpp"
#include "kvcompress/core/site.hpp"
#include "kvcompress/core/visible.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

class Rotation;

/// What a retrieval chooses from: one token's queries of one KV head.
struct Retrieving {
  const RowTable& table;
  const float* queries;  ///< (group, stride), in the stored keys' form, the attention scale included
  std::size_t stride;
  std::size_t group;
  std::size_t key_width;
  std::int64_t shift;  ///< how far the queries are rotated beyond where attention sees them (see RowTable::shift)
  Rotation& rotation;
  Vector<float>& scratch;   ///< any size
  Vector<Position>& order;  ///< any size
  Visible visible{};        ///< which rows the token may see: a unit of others must not be chosen, whatever the queries say to it
  float soft_cap = 0.0F;    ///< the attention's (see AttendOptions)
};

/// Decides which rows a query reads after the prompt. Static functions over an Options value and a State that the cache owns per lane and
/// that follows its rows (RowState); [0, state.indexed()) are the rows it chooses from, later ones are always read.
///
/// validate(options, shape): raises an Error for bad options.   reads_all(options, site): this lane is read in full.
/// state(options, site, memory): the State of one lane.         bytes_for(options, site, rows): what it takes for that many rows.
/// renumbers(options, site): can follow in-cache positions.     state.reads(): what stores may want to know.
/// wants_last_query(options, site): what the prompt's last query chooses is told to state.remember_first(ranges).
/// refresh(options, state, table, end_of_prompt, padding, read, scratch): brings the index up to date at a commit, before rows are encoded;
///   read(row, out) gives a key in the stored form; of the first `padding` rows, which no query of the prompt saw, nothing should depend.
/// select(options, state, retrieving, ranges): appends ascending, disjoint ranges of indexed rows, with what is visible (see Retrieving).
///
/// Optional:
/// make_room_to_refresh(options, state, rows, scratch): afterwards refresh with up to so many rows cannot fail; or grows_at(options, state,
///   rows): a commit with so many rows may index some, on copies (see RowStore). One that has neither commits on copies always.
/// rows_read(options, site, rows): of so many rows those that a query reads, for stores that keep these at hand; else all.
/// largest_key: the largest magnitude of a key that the index can hold.     describe(fact): see PersistsRows.
/// remembers(options): later queries want to know what earlier ones chose or were. Then select(options, state, retrieving, before, after, ranges)
///   takes the place of select: it sees the Memo that the tokens before left, may write another one to `after`, and returns whether it has.
///   truncate takes memos back, as many as Options::speculation; Record::none leaves none. retrieval/reuse.hpp uses one.
/// follows_writes: `static constexpr bool`, true if state.move(row, row) says that the row was written, and select counts RowTable::log_weight.
template <class R>
concept Retrieval = std::semiregular<typename R::Options> && RowState<typename R::State> &&
    requires(const typename R::Options options, const Shape& shape, const Memory& memory, typename R::State state, const RowTable& table,
             const Site& site, void (*read)(std::size_t, float*), Vector<float>& scratch, const Retrieving& retrieving,
             Vector<RowRange>& ranges, std::size_t n) {
  { R::name } -> std::convertible_to<std::string_view>;
  R::validate(options, shape);
  { R::reads_all(options, site) } -> std::same_as<bool>;
  { R::wants_last_query(options, site) } -> std::same_as<bool>;
  { R::renumbers(options, site) } -> std::same_as<bool>;
  { R::state(options, site, memory) } -> std::same_as<typename R::State>;
  { R::bytes_for(options, site, n) } -> std::same_as<std::size_t>;
  { state.indexed() } -> std::same_as<std::size_t>;
  { state.reads() } -> std::same_as<Reads>;
  R::refresh(options, state, table, true, n, read, scratch);
  R::select(options, state, retrieving, ranges);
  state.remember_first(ranges);
};

/// One that may remember.
template <class R>
concept Remembers = Retrieval<R> && requires(const typename R::Options options, typename R::State state, const Retrieving& retrieving,
                                             const Memo& before, Memo& after, Vector<RowRange>& ranges) {
  { R::select(options, state, retrieving, before, after, ranges) } -> std::same_as<bool>;
};

}  // namespace kvcompress
