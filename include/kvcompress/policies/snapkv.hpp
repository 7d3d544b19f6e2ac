// include/kvcompress/policies/snapkv.hpp - SnapKV: the prompt compressed once, by what its last queries look at.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/eviction/observation_window.hpp"
#include "kvcompress/policies/combine.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// "SnapKV: LLM Knows What You are Looking for Before Generation". Keeps: `budget` rows of the prompt, all decoded rows (unless
/// bounded). Observes: the last `window` prompt queries. Loses: what later questions would have needed. Bytes per lane:
/// min(prompt, budget) + decoded rows, 8 bytes each for score and position.
struct SnapKV {
  using Eviction = ObservationWindow;
};

}  // namespace kvcompress
