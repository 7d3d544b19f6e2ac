// include/kvcompress/cache/byte_budget.hpp - how many rows a budget in bytes allows, so that a cache never holds more bytes.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kvcompress/cache/bytes.hpp"
#include "kvcompress/cache/observe.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

/// Whether the eviction bounds the bytes of the cache.
template <class P>
bool budget_in_bytes(const PolicyOptions<P>& options, const Site& site) noexcept {
  const Budget* const budget = budget_of<P>(options, site);
  return budget != nullptr && budget->bytes_of > 0;
}

/// The rows that a lane holds at most while `live` of them are alive.
template <class P>
MostRows rows_of_budget(const PolicyOptions<P>& options, const Site& site, std::size_t live) {
  constexpr bool anew = Compacts<typename Lane<P>::Keys> && Compacts<typename Lane<P>::Values>;
  // Dead rows among the encoded ones: few, so that most of the bytes serve; many, so that codes are seldom made anew.
  const std::size_t dead = anew ? live / 2 : 0;
  const bool of_prompt = !anew && storage_scope<typename Axes<P>::Storage>() != Scope::lane;  // only the prompt's rows are encoded
  return {live, of_prompt ? std::min(live, decoded_rows<P>(options, site, live)) : live, dead};
}

template <class P, class S>
std::size_t most_store_bytes(const Site& site, const PolicyOptions<P>& options, std::size_t dim, const MostRows& rows) {
  if constexpr (requires { S::most_bytes(rows, dim, options.storage, site.shape, rows.live); }) {
    return S::most_bytes(rows, dim, options.storage, site.shape, rows_read<P>(options, site, rows.live));
  } else {
    return store_bytes<P, S>(site, options, dim, rows.all());
  }
}

/// Upper bound of what a cache holds after any commit that follows a prompt's end, scratch aside, while no lane has more rows.
template <class P>
std::size_t most_bytes(const Shape& shape, const PolicyOptions<P>& options, const MostRows& rows) {
  const std::size_t entries = 2 * rows.all() + 64;  // vectors double, and keep some places free
  const std::size_t table = sizeof(RowTable) + entries * sizeof(Position) * (renumbers<P>(options, {0, 0, shape}) ? 2 : 1);
  const auto lane_at = [&](const Site& site) {
    const std::size_t queries = query_window<P>(options, site) > 0 ? 1 + options.speculation : 0;
    std::size_t lane = sizeof(Lane<P>) + most_store_bytes<P, typename Lane<P>::Keys>(site, options, shape.key_width(), rows) +
                       most_store_bytes<P, typename Lane<P>::Values>(site, options, shape.value_width(), rows) +
                       entries * row_bytes<P>(options, site) +
                       queries * (shape.group() * shape.key_width() * sizeof(float) + sizeof(Position));
    if (retrieves<P>(options, site)) {  // an index grows by quarters; beside it the first choice
      const std::size_t index = Axes<P>::Retrieval::bytes_for(options.retrieval, site, rows.all());
      lane += index + index / 4 + 2 * rows.all() * sizeof(RowRange) / 8;
    }
    if (sees_queries<P>(options, site, false)) {  // probabilities that truncate may take back, in vectors that double
      lane += 2 * options.speculation * shape.group() * (rows.all() + 64) * sizeof(float) + 64 * options.speculation * shape.group();
    }
    return lane;
  };
  const std::size_t tables = Layer<P>::tables_of(options, shape, 0);
  return shape.layers * (sizeof(Shared<Layer<P>>) + Shared<Layer<P>>::box_bytes() + tables * table) + sum_over_lanes<P>(shape, lane_at);
}

/// The most rows that fit in the budget; raises an Error if the fewest that the eviction works with do not. `others`: bytes that the cache holds
/// besides its layers.
template <class P>
MostRows rows_within_budget(const Shape& shape, const PolicyOptions<P>& options, std::size_t others) {
  const Site first{0, 0, shape};
  if (!budget_in_bytes<P>(options, first)) { return {}; }
  const std::size_t bytes = budget_of<P>(options, first)->bytes_of;
  const auto taken = [&](std::size_t live) { return others + most_bytes<P>(shape, options, rows_of_budget<P>(options, first, live)); };
  const std::size_t least = least_rows<P>(options, first);
  require(taken(least) <= bytes, ErrorCode::option, eviction_name<P>(options, first), ": budget is ", bytes, " bytes, must be at least ",
          taken(least), ", which hold ", least, least == 1 ? " row" : " rows", " per layer and KV head");
  std::size_t live = least;
  for (std::size_t step = std::size_t{1} << 31U; step > 0; step /= 2) {
    if (taken(live + step) <= bytes) { live += step; }
  }
  return rows_of_budget<P>(options, first, live);
}

}  // namespace kvcompress::detail
