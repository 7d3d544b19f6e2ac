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
#include "kvcompress/eviction/selection.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// When an eviction decides: never; by scores once, at the end of a prompt, and otherwise by positions alone; or at every commit.
enum class Decides { never, once, every_commit };

/// Which attention probabilities an eviction needs to see.
enum class Observes {
  nothing,
  every_query,         ///< those of every query, as attend computes them
  last_prompt_queries  ///< those of the last `window(options)` queries of a prompt, computed at its end
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

}  // namespace kvcompress
