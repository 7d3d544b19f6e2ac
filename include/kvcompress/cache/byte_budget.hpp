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

template <class P, class S>
std::size_t most_store_bytes(const Site& site, const PolicyOptions<P>& options, const auto& from, std::size_t dim, const MostRows& rows) {
  if constexpr (requires { S::most_bytes(rows, dim, from, site.shape, rows.live); }) {
    return S::most_bytes(rows, dim, from, site.shape, rows_read<P>(options, site, rows.live));
  } else {
    return store_bytes<P, S>(site, options, from, dim, rows.all());
  }
}

/// Entries of a vector with one for every row: it doubles, and keeps some places free.
constexpr std::size_t most_entries(const MostRows& rows) noexcept { return 2 * rows.all() + 64; }
/// Upper bound of what a lane holds after any commit that follows a prompt's end, while it has no more rows.
template <class P>
std::size_t most_lane_bytes(const Site& site, const PolicyOptions<P>& options, const MostRows& rows) {
  using Storage = typename Axes<P>::Storage;
  const Shape& shape = site.shape;
  const std::size_t queries = query_window<P>(options, site) > 0 ? 1 + options.speculation : 0;
  const auto& keys = keys_at<Storage>(options.storage, site);
  const auto& values = values_at<Storage>(options.storage, site);
  std::size_t lane = sizeof(Lane<P>) + most_store_bytes<P, typename Lane<P>::Keys>(site, options, keys, shape.key_width(), rows) +
                     most_store_bytes<P, typename Lane<P>::Values>(site, options, values, shape.value_width(), rows) +
                     most_entries(rows) * row_bytes<P>(options, site) +
                     queries * (shape.group() * shape.key_width() * sizeof(float) + sizeof(Position));
  if (retrieves<P>(options, site)) {  // an index grows by quarters; beside it the first choice
    const std::size_t index = Axes<P>::Retrieval::bytes_for(options.retrieval, site, rows.all());
    lane += index + index / 4 + 2 * rows.all() * sizeof(RowRange) / 8;
  }
  if (sees_queries<P>(options, site, false)) {  // probabilities that truncate may take back, in vectors that double
    lane += 2 * options.speculation * shape.group() * (rows.all() + 64) * sizeof(float) + 64 * options.speculation * shape.group();
  }
  return lane;
}
/// The same of a cache whose lanes have so many live rows, scratch aside.
template <class P>
std::size_t most_bytes(const Shape& shape, const PolicyOptions<P>& options, std::size_t live) {
  const auto rows = [&](const Site& site) { return rows_of_budget<P>(options, site, rows_past_none<P>(options, site, live)); };
  std::size_t bytes = shape.layers * (sizeof(Shared<Layer<P>>) + Shared<Layer<P>>::box_bytes());
  for (std::size_t layer = 0; layer < shape.layers; ++layer) {
    if (!shape.owns(layer)) { continue; }
    for (std::size_t unit = 0; unit < Layer<P>::tables_of(options, shape, layer); ++unit) {
      const Site site{layer, unit, shape};
      bytes += sizeof(RowTable) + most_entries(rows(site)) * table_row_bytes<P>(options, site);
    }
  }
  return bytes + sum_over_lanes<P>(shape, [&](const Site& site) { return most_lane_bytes<P>(site, options, rows(site)); });
}

/// The most rows that fit in the budget; raises an Error if the fewest that the eviction works with do not. `others`: bytes that the cache holds
/// besides its layers.
template <class P>
MostRows rows_within_budget(const Shape& shape, const PolicyOptions<P>& options, std::size_t others) {
  const Site first{0, 0, shape};
  if (!budget_in_bytes<P>(options, first)) { return {}; }
  const std::size_t bytes = budget_of<P>(options, first)->bytes_of;
  const auto taken = [&](std::size_t live) { return others + most_bytes<P>(shape, options, live); };
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
