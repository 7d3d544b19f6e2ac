// include/kvcompress/policies/cake.hpp - CAKE: layers whose attention is spread and shifts get more rows than others.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/eviction/allocators/cascading.hpp"
#include "kvcompress/eviction/evict.hpp"
#include "kvcompress/eviction/scorers/attention_moments.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// "CAKE: Cascading and Adaptive KV Cache Eviction with Layer Preferences" (see Cascading for the source and what differs). Keeps: `budget` rows per
/// lane on average over the layers, decided when the last layer has ended its prompt, and at every commit after. Observes: the last `window` queries
/// of a prompt, then every query. Loses: what they do not look at. Until then all prompts are held in full.
struct CAKE {
  using Eviction = Evict<AttentionMoments, Cascading>;
};

}  // namespace kvcompress
