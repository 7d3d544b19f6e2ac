// include/kvcompress/policies/compactor.hpp - Compactor: rows whose keys stand apart, and that their neighbours look at, whatever is asked later.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/eviction/evict.hpp"
#include "kvcompress/eviction/scorers/blended_leverage.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// "Compactor: Calibrated Query-Agnostic KV Cache Compression with Approximate Leverage Scores", the score of NVIDIA/kvpress@8bb29b9c3078:
/// compactor_press.py; without the paper's calibration of the budget. See BlendedLeverage for what it observes and costs. Keeps: `budget` rows of
/// the prompt per lane, and all decoded rows. Loses: what is like the rest, for any question.
struct Compactor {
  using Eviction = Evict<BlendedLeverage>;
};

}  // namespace kvcompress
