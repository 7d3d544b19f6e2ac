// include/kvcompress/policies/triattention.hpp - TriAttention: rows whose keys the queries of their head will look at.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/eviction/evict.hpp"
#include "kvcompress/eviction/scorers/future_logits.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// TriAttention as WeianMao/triattention@c3744ee6a505 does it per layer and head; see FutureLogits for the statistics that it needs. Its mode of one
/// choice for all layers is not here. Keeps: the prompt, counted in the budget, and `budget` rows per lane in all; there 2048, with a `period` of
/// 128. Observes: nothing. Loses: rows that the queries of a head do not look at on average, for good.
struct TriAttention {
  using Eviction = Evict<FutureLogits>;
};

}  // namespace kvcompress
