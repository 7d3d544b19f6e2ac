// include/kvcompress/policies/qfilters.hpp - Q-Filters: the rows whose keys point the way that queries do.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/eviction/evict.hpp"
#include "kvcompress/eviction/scorers/filtered_keys.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// "Q-Filters: Leveraging QK Geometry for Efficient KV Cache Compression"; scores as NVIDIA/kvpress@8bb29b9c3078:qfilter_press.py. Keeps: `budget` rows
/// per lane. Observes: nothing, but needs the filters of the model. Loses: rows that queries seldom point to, for good.
struct QFilters {
  using Eviction = Evict<FilteredKeys>;
};

}  // namespace kvcompress
