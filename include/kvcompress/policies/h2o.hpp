// include/kvcompress/policies/h2o.hpp - H2O: heavy hitters and recent rows, per lane.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/eviction/heavy_hitters.hpp"
#include "kvcompress/policies/combine.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// "H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large Language Models". Keeps: `recent` rows and the most attended
/// others. Observes: the probabilities of every query. Loses: rows that were not attended to while they were there. Bytes per lane:
/// min(tokens, budget) rows, 8 bytes each for score and position.
struct H2O {
  using Eviction = HeavyHitters;
};

}  // namespace kvcompress
