// include/kvcompress/registry/evictions.hpp - evictions by name.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/eviction/dispositions/demote.hpp"
#include "kvcompress/eviction/dispositions/merge_nearest.hpp"
#include "kvcompress/policies/adakv.hpp"
#include "kvcompress/policies/cam.hpp"
#include "kvcompress/policies/chunkkv.hpp"
#include "kvcompress/policies/criticalkv.hpp"
#include "kvcompress/policies/d2o.hpp"
#include "kvcompress/policies/expected_attention.hpp"
#include "kvcompress/policies/h2o.hpp"
#include "kvcompress/policies/key_diff.hpp"
#include "kvcompress/policies/keyformer.hpp"
#include "kvcompress/policies/knorm.hpp"
#include "kvcompress/policies/lagkv.hpp"
#include "kvcompress/policies/presses.hpp"
#include "kvcompress/policies/pyramidkv.hpp"
#include "kvcompress/policies/razorattention.hpp"
#include "kvcompress/policies/simlayerkv.hpp"
#include "kvcompress/policies/snapkv.hpp"
#include "kvcompress/policies/streaming_llm.hpp"
#include "kvcompress/policies/tova.hpp"
#include "kvcompress/registry.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Every eviction that needs no numbers of a model, and what may become of the rows that they drop: those that do (Q-Filters, TriAttention, PrefixKV, HeadKV, DuoAttention) are made by type.
inline void add_evictions(Registry& registry) {
  registry.add<StreamingLLM>("streaming");
  registry.add<H2O>("h2o");
  registry.add<SnapKV>("snapkv");
  registry.add<PyramidKV>("pyramidkv");
  registry.add<AdaKV>("adakv");
  registry.add<TOVA>("tova");
  registry.add<KeyDiff>("keydiff");
  registry.add<ExpectedAttention>("expected_attention");
  registry.add<Knorm>("knorm");
  registry.add<LagKV>("lagkv");
  registry.add<Keyformer>("keyformer");
  registry.add<ChunkKV>("chunkkv");
  registry.add<CriticalKV>("criticalkv");
  registry.add<CriticalAdaKV>("criticaladakv");
  registry.add<SimLayerKV>("simlayerkv");
  registry.add<ObservedAttentionPress>("observed_attention");
  registry.add<CurPress>("cur");
  registry.add<LeveragePress>("leverage");
  registry.add<DropKVPress>("dropkv");
  registry.add<D2O>("d2o");
  registry.add<CaM>("cam");
  registry.add<RazorLanes>("razorattention");
  registry.add_fate<MergeNearest<false>>("merge");
  registry.add_fate<MergeNearest<true>>("merge_weighted");
  registry.add_fate<MergeRanked>("merge_ranked");
  registry.add_fate<ValueSpread<>>("value_spread");
  registry.add_fate<MeanRow>("mean_row");
  registry.add_fate<Demote>("demote");
}

}  // namespace kvcompress
