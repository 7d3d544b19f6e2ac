// include/kvcompress/policies/styles.hpp - scores after texts without code of their authors, or parts of systems: none bears a paper's name.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/eviction/evict.hpp"
#include "kvcompress/eviction/scorers/global_local_attention.hpp"
#include "kvcompress/eviction/scorers/largest_window_attention.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// In the style of EMS (see GlobalLocalAttention). Keeps: `budget` rows per lane, a quarter of them, at most `window`, newest. Observes every query. Loses:
/// what neither all queries nor the newest look at.
struct GlobalLocal {
  using Eviction = Evict<GlobalLocalAttention>;
};
/// The static step of MPCache, of `budget` rows, or with the allocator Threshold of those that score enough (see LargestWindowAttention). Observes: the
/// last `window` queries of a prompt. Loses: what none of them looks at.
struct LargestWindow {
  using Eviction = Evict<LargestWindowAttention>;
};

}  // namespace kvcompress
