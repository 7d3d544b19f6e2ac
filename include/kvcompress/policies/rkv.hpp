// include/kvcompress/policies/rkv.hpp - R-KV: while decoding, rows stay that the newest queries look at and that no other row repeats.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/eviction/evict.hpp"
#include "kvcompress/eviction/scorers/redundant_keys.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// "R-KV: Redundancy-aware KV Cache Compression for Reasoning Models"; Zefan-Cai/R-KV@d15c9767e67c. See RedundantKeys for what it observes, costs and
/// does otherwise. Keeps: `budget` rows per lane, after a prompt and while decoding; there budget 128 and a decision every 128 rows (`period`).
struct RKV {
  using Eviction = Evict<RedundantKeys>;
};

}  // namespace kvcompress
