// include/kvcompress/policies/presses.hpp - scores of NVIDIA's kvpress without a paper's name of their own, as policies.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/eviction/evict.hpp"
#include "kvcompress/eviction/scorers/average_attention.hpp"
#include "kvcompress/eviction/scorers/key_leverage.hpp"
#include "kvcompress/eviction/scorers/largest_attention.hpp"
#include "kvcompress/eviction/scorers/non_causal_attention.hpp"
#include "kvcompress/eviction/scorers/output_change.hpp"
#include "kvcompress/eviction/scorers/query_alignment.hpp"
#include "kvcompress/eviction/scorers/random_rows.hpp"
#include "kvcompress/eviction/scorers/row_norms.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// NVIDIA/kvpress@8bb29b9c3078:kvpress/presses (observed_attention, cur, leverage, non_causal_attention, cap, random) and its pull request 285 (dropkv, @7fb862554f55); what each of
/// them scores, observes and costs stands with its scorer. Keeps: `budget` rows per lane.
struct ObservedAttentionPress {
  using Eviction = Evict<AverageAttention>;
};
struct CurPress {
  using Eviction = Evict<RowNorms>;
};
struct LeveragePress {
  using Eviction = Evict<KeyLeverage>;
};
struct DropKVPress {
  using Eviction = Evict<OutputChange>;
};
struct NonCausalAttentionPress {
  using Eviction = Evict<NonCausalAttention>;
};
struct CapPress {
  using Eviction = Evict<QueryAlignment>;
};
struct RandomPress {
  using Eviction = Evict<RandomRows>;
};
/// The score of its kvcompose press, of the queries that the cache sees (see LargestAttention); its budgets are Composites.
struct LargestAttentionPress {
  using Eviction = Evict<LargestAttention>;
};

}  // namespace kvcompress
