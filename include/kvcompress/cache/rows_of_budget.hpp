// include/kvcompress/cache/rows_of_budget.hpp - live, dead and decoded rows of a lane under a budget in bytes.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>

#include "kvcompress/cache/lane.hpp"
#include "kvcompress/cache/needs.hpp"
#include "kvcompress/core/most_rows.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

/// Of `live` rows those that a window leaves, no fewer than the eviction works with.
template <class P>
std::size_t rows_past_none(const PolicyOptions<P>& options, const Site& site, std::size_t live) {
  const std::size_t window = site.model.widest_window(site.layer);
  return window == 0 ? live : std::min(live, std::max(window, least_rows<P>(options, site)));
}

/// The rows that a lane holds at most while `live` of them are alive.
template <class P>
MostRows rows_of_budget(const PolicyOptions<P>& options, const Site& site, std::size_t live) {
  using Storage = typename Axes<P>::Storage;
  const StoreFacts& keys = facts_of_made_from<typename Lane<P>::Keys>(keys_at<Storage>(options.storage, site));
  const StoreFacts& values = facts_of_made_from<typename Lane<P>::Values>(values_at<Storage>(options.storage, site));
  const bool anew = keys.compacts && values.compacts && (keys.encodes || values.encodes);
  // Dead rows among the encoded ones: few, so that most of the bytes serve; many, so that codes are seldom made anew.
  // One more where a fate may keep a row that stands for those that went (MeanRow).
  const std::size_t dead = (anew ? live / 2 : 0) + (needs<P>(options, site).weighs ? 1 : 0);
  const bool of_prompt =
      !anew && storage_scope_at<Storage>(options.storage, site.model, site.layer) != Scope::lane;  // only its rows are encoded
  return {live, of_prompt ? std::min(live, decoded_rows<P>(options, site, live)) : live, dead};
}

}  // namespace kvcompress::detail
