// include/kvcompress/concepts.hpp - what the parts of a policy must provide and what they may ask for. Read this file first.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <span>
#include <string_view>

#include "kvcompress/core/memory.hpp"
#include "kvcompress/core/row_table.hpp"
#include "kvcompress/core/shape.hpp"
#include "kvcompress/core/views.hpp"

/// A KV cache holds, for each lane (one layer, one KV head), rows: a row is one token's position, key and value. A policy says which
/// rows stay (an Eviction) and how rows are held (a Storage: one store for keys, one for values). The cache does everything else.
namespace kvcompress {

// ---------------------------------------------------------------- how rows are held

/// Rows of one lane, keys or values, in whatever form. Rows [0, settled()) are encoded and keep their place; the rest are exact.
///
/// make_room(n): afterwards n appends cannot fail.     append(row): one exact row of `dim` floats at the end.
/// move(from, to), resize(n): exact rows only.         settle(scratch): encodes the rows that are due (called at a commit).
/// compact(table, scratch): removes dead rows.         read(row, out): decodes one row, for inspection.
/// A store that encodes under an eviction also has erase_block and prepare_to_compact (see Recent).
/// reserve(n): n rows will need no allocation.         unshare(): clones what a copy holds too.     account(report): bytes held.
template <class S>
concept RowStore = std::copy_constructible<S> && std::movable<S> &&
                   requires(S store, const S held, std::size_t n, const float* row, float* out, Vector<float>& scratch,
                            const RowTable& table, MemoryReport& report) {
                     typename S::exact_type;
                     { held.rows() } noexcept -> std::same_as<std::size_t>;
                     { held.settled() } noexcept -> std::same_as<std::size_t>;
                     store.make_room(n);
                     store.append(row);
                     store.move(n, n);
                     store.resize(n);
                     store.settle(scratch);
                     store.compact(table, scratch);
                     { held.read(n, out) } noexcept;
                     store.reserve(n);
                     store.unshare();
                     { held.account(report) } noexcept;
                     { S::scratch_floats(n, n) } noexcept -> std::same_as<std::size_t>;
                   };

/// Keys: logits[q][r - range.first] = queries[q] . key r for `n` queries, from the stored form.
template <class S>
concept KeyStore = RowStore<S> && requires(const S held, RowRange range, const float* queries, float* logits, std::size_t n) {
  { held.scores(range, queries, n, n, logits, n, logits) } noexcept;
};

/// Values: out[q] += sum over r of weights[q][r - range.first] * value r for `n` queries, from the stored form.
template <class S>
concept ValueStore = RowStore<S> && requires(const S held, RowRange range, const float* weights, float* out, std::size_t n) {
  { held.accumulate(range, weights, n, n, out, n, out) } noexcept;
};

/// How rows are held: a store for keys, one for values, and the options that both are built from. `bytes_for(rows, dim, options)` says
/// what the blocks of that many rows take.
template <class S>
concept Storage = std::semiregular<typename S::Options> && KeyStore<typename S::Keys> && ValueStore<typename S::Values> &&
                  std::constructible_from<typename S::Keys, const typename S::Options&, std::size_t, const Memory&> &&
                  std::constructible_from<typename S::Values, const typename S::Options&, std::size_t, const Memory&> &&
                  requires(const typename S::Options options, std::size_t n) {
                    S::validate(options);
                    { S::Keys::bytes_for(n, n, options) } -> std::same_as<std::size_t>;
                    { S::Values::bytes_for(n, n, options) } -> std::same_as<std::size_t>;
                  };

// ---------------------------------------------------------------- which rows stay

/// Which lanes decide together: each for itself, or all lanes of a layer with one decision.
enum class Scope { lane, layer };

/// When an eviction decides: never, at every commit, or (also) at the end of a prompt.
enum class Decides { never, every_commit };

/// Which attention probabilities an eviction needs to see.
enum class Observes {
  nothing,
  every_query,         ///< those of every query, as attend computes them
  last_prompt_queries  ///< those of the last `window(options)` queries of a prompt, computed at its end
};

/// What an eviction decides from, and where it writes its decision.
struct Selection {
  const RowTable& rows;         ///< positions, which rows are alive
  bool end_of_prompt;           ///< this commit closes a prompt
  std::size_t prompt_tokens;    ///< tokens up to the end of the last prompt, this one included
  std::size_t budget;           ///< Options::budget in rows; 0 if the eviction has none
  Vector<Position>& order;      ///< scratch for sorting, any size
  std::span<unsigned char> drop;  ///< one flag per row, 0 at entry; set to 1 to evict a live row

  /// Position of the k-th oldest live row, k from 0. Cost: O(rows).
  [[nodiscard]] Position oldest(std::size_t k) {
    gather();
    const auto nth = order.begin() + static_cast<std::ptrdiff_t>(k);
    std::nth_element(order.begin(), nth, order.end());
    return *nth;
  }
  /// Position of the k-th newest live row, k from 0. Cost: O(rows), fast while the newest k + 1 positions have no gap.
  [[nodiscard]] Position newest(std::size_t k) {
    Position last = 0;
    for (std::size_t r = 0; r < rows.rows(); ++r) { last = rows.alive(r) ? std::max(last, rows.position(r)) : last; }
    if (last >= k) {
      const Position guess = last - static_cast<Position>(k);
      std::size_t newer = 0;
      for (std::size_t r = 0; r < rows.rows(); ++r) { newer += rows.alive(r) && rows.position(r) >= guess ? 1U : 0U; }
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
    order.clear();
    for (std::size_t r = 0; r < rows.rows(); ++r) {
      if (rows.alive(r) && rows.position(r) < first_recent) { order.push_back(static_cast<Position>(r)); }
    }
    const auto goes_before = [&](Position a, Position b) {
      const auto x = score(a);
      const auto y = score(b);
      return x != y ? x < y : rows.position(a) > rows.position(b);
    };
    if (rows.live() == rows_to_keep + 1) {  // every step of decoding
      drop[*std::min_element(order.begin(), order.end(), goes_before)] = 1;
      return;
    }
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
    std::sort(order.begin(), order.end(), [&](Position a, Position b) { return rows.position(a) < rows.position(b); });
  }

 private:
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
                   requires(const typename E::Options options, const Shape& shape, const Memory& memory, typename E::State state,
                            Selection& selection) {
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
concept ObservesAttention = Eviction<E> && E::observes != Observes::nothing &&
                            requires(const typename E::Options options, typename E::State& state, std::span<const float> probabilities) {
                              E::observe(options, state, std::size_t{}, probabilities);
                            };

/// An eviction that sees every row before it is encoded: observe_row(options, state, row, key, value).
template <class E>
concept ObservesRows = Eviction<E> && requires(const typename E::Options options, typename E::State& state,
                                               std::span<const float> key, std::span<const float> value) {
  E::observe_row(options, state, std::size_t{}, key, value);
};

/// An eviction that bounds the rows of a lane by a Budget named `budget`.
template <class E>
concept HasBudget = Eviction<E> && requires(typename E::Options options) { options.budget.rows_of; };

}  // namespace kvcompress
