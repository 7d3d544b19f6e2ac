// include/kvcompress/concepts/eviction.hpp - which rows stay: what an eviction provides.
// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstddef>
#include <span>
#include <string_view>

#include "kvcompress/concepts/row_state.hpp"
#include "kvcompress/core/memory.hpp"
#include "kvcompress/core/shape.hpp"
#include "kvcompress/core/site.hpp"
#include "kvcompress/eviction/row_set.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// When an eviction decides: never; by scores once, at the end of a prompt, and otherwise by positions alone; or at every commit.
enum class Decides { never, once, every_commit };

/// Which attention probabilities an eviction needs to see.
enum class Observes {
  nothing,
  every_query,          ///< those of every query, as attend computes them
  last_prompt_queries,  ///< those of the last `window(options)` queries of a prompt, computed at its end
  last_queries,         ///< the same of a prompt, and those of every query that comes later
  kept_queries,         ///< only those of queries that are attended for it, with Record::kept
  as_options_say        ///< for an eviction that is chosen at run time (see Needs)
};

/// What an eviction needs of the cache. `may` is the most that any options need, so that the rest costs nothing; where that depends on options,
/// the eviction also has needs(options).
struct Needs {
  Decides decides = Decides::every_commit;
  Observes observes = Observes::nothing;
  Scope agrees = Scope::lane;  ///< lanes that keep the same rows; group: by positions alone, so that all of them do
  bool queries = false;        ///< the queries of a prompt themselves, before their rotary embedding (see ObservesQueries)
  bool rewrites = false;       ///< it writes keys or values of rows that stay (see RowSet::write)
  bool weighs = false;         ///< and gives them weights (see RowSet::weigh); then it rewrites, too
  bool colder = false;         ///< it makes rows colder (see Fate)
  bool model = false;          ///< at the end of a prompt it decides over all layers at once, when the last of them has ended its own
};

/// Decides which rows go. Static functions over an Options value and a State that the cache owns per lane:
///
/// may: see Needs.                                              renumbers(options): attention uses in-cache positions.
/// validate(options, shape): raises an Error for bad options.   row_bytes(options, shape): what a State takes for one row.
/// state(options, site, memory): the State of one lane.
/// select(options, sets, moment): marks the rows that go, in every set of a layer, or of the model; a set is what keeps the same rows, of a
///   storage that encodes layers together all of these.
template <class E>
concept Eviction = std::semiregular<typename E::Options> && RowState<typename E::State> &&
    requires(const typename E::Options options, const Shape& shape, const Site& site, const Memory& memory, std::span<RowSet> sets,
             const Moment& moment) {
  { E::name } -> std::convertible_to<std::string_view>;
  { E::may } -> std::convertible_to<Needs>;
  E::validate(options, shape);
  { E::renumbers(options) } -> std::same_as<bool>;
  { E::row_bytes(options, shape) } -> std::same_as<std::size_t>;
  { E::state(options, site, memory) } -> std::same_as<typename E::State>;
  E::select(options, sets, moment);
};

/// An eviction that sees attention: observe(options, state, head, probabilities) gets one query's probabilities over all rows of the
/// lane (0 for rows it may not see); `head` counts the query heads of the KV head. Queries come in text order, heads ascending. One that
/// sees the last queries of a prompt has window(options), their number, and start(options, state), called before they are shown.
template <class E>
concept ObservesAttention = Eviction<E> &&
                            E::may.observes != Observes::nothing&& requires(const typename E::Options options, typename E::State& state,
                                                                            std::span<const float> probabilities) {
  E::observe(options, state, std::size_t{}, probabilities);
};

/// An eviction that sees the queries of a prompt: observe_query(options, state, head, query), cannot fail, once
/// make_room_for_queries(options, state, shape) has come. Their order is that of ObservesAttention. What it has seen is not taken back, so truncate
/// refuses to go behind it.
template <class E>
concept ObservesQueries = Eviction<E> &&
    requires(const typename E::Options options, typename E::State& state, const Shape& shape, const float* query) {
  E::make_room_for_queries(options, state, shape);
  E::observe_query(options, state, std::size_t{}, query);
};

/// An eviction that sees every row before it is encoded: observe_row(options, state, row, key, value).
template <class E>
concept ObservesRows = Eviction<E> &&
    requires(const typename E::Options options, typename E::State& state, std::span<const float> key, std::span<const float> value) {
  E::observe_row(options, state, std::size_t{}, key, value);
};

/// An eviction that bounds the rows of a lane by a Budget named `budget`. Where that is bytes, RowSet::budget is what fits in them, at any
/// time, decoded rows included. It may have decoded_rows(options, budget), how many of these it leaves to decoded rows, and
/// least_rows(options), the smallest budget that it works with.
template <class E>
concept HasBudget = Eviction<E> && requires(typename E::Options options) {
  options.budget.rows_of;
};

}  // namespace kvcompress
