// include/kvcompress/registry/evictions.hpp - evictions by name.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/eviction/allocators/composites.hpp"
#include "kvcompress/eviction/allocators/threshold.hpp"
#include "kvcompress/eviction/allocators/top_mass.hpp"
#include "kvcompress/eviction/allocators/variance_shares.hpp"
#include "kvcompress/eviction/dispositions/demote.hpp"
#include "kvcompress/eviction/dispositions/merge_nearest.hpp"
#include "kvcompress/eviction/dispositions/merge_neighbours.hpp"
#include "kvcompress/eviction/selectors/best_of_each_chunk.hpp"
#include "kvcompress/eviction/selectors/crush.hpp"
#include "kvcompress/eviction/selectors/gated_chunks.hpp"
#include "kvcompress/eviction/selectors/sampled.hpp"
#include "kvcompress/eviction/selectors/sentences.hpp"
#include "kvcompress/policies/adakv.hpp"
#include "kvcompress/policies/cake.hpp"
#include "kvcompress/policies/cam.hpp"
#include "kvcompress/policies/chunkkv.hpp"
#include "kvcompress/policies/compactor.hpp"
#include "kvcompress/policies/criticalkv.hpp"
#include "kvcompress/policies/d2o.hpp"
#include "kvcompress/policies/expected_attention.hpp"
#include "kvcompress/policies/finch.hpp"
#include "kvcompress/policies/h2o.hpp"
#include "kvcompress/policies/key_diff.hpp"
#include "kvcompress/policies/keyformer.hpp"
#include "kvcompress/policies/knorm.hpp"
#include "kvcompress/policies/kvzip.hpp"
#include "kvcompress/policies/lagkv.hpp"
#include "kvcompress/policies/presses.hpp"
#include "kvcompress/policies/pyramidkv.hpp"
#include "kvcompress/policies/razorattention.hpp"
#include "kvcompress/policies/rkv.hpp"
#include "kvcompress/policies/scalekv.hpp"
#include "kvcompress/policies/simlayerkv.hpp"
#include "kvcompress/policies/snapkv.hpp"
#include "kvcompress/policies/streaming_llm.hpp"
#include "kvcompress/policies/styles.hpp"
#include "kvcompress/policies/tova.hpp"
#include "kvcompress/policies/windowkv.hpp"
#include "kvcompress/registry.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Every eviction that needs no numbers of a model: those that do (Q-Filters, TriAttention, PrefixKV, HeadKV, DuoAttention, ScaleKV, LOOK-M) are made by type. And the
/// allocators, selectors and fates that may stand behind them.
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
  registry.add<CAKE>("cake");
  registry.add<FINCH>("finch");
  registry.add<LargestAttentionPress>("largest_attention");
  registry.add<D2O>("d2o");
  registry.add<CaM>("cam");
  registry.add<RazorLanes>("razorattention");
  registry.add<RKV>("rkv");
  registry.add<WindowKV>("windowkv");
  registry.add<GridPolicy>("grid_logits");
  registry.add<Compactor>("compactor");
  registry.add<NonCausalAttentionPress>("non_causal_attention");
  registry.add<CapPress>("cap");
  registry.add<RandomPress>("random");
  registry.add<KVzip>("kvzip");
  registry.add<GlobalLocal>("global_local");
  registry.add<LargestWindow>("largest_window");
  registry.add_agreement("in_layer");
  registry.add_allocator<Uniform>("uniform");
  registry.add_allocator<Pyramid>("pyramidkv");
  registry.add_allocator<Ada>("adakv");
  registry.add_allocator<Cascading>("cake");
  registry.add_allocator<Composites>("kvcompose");
  registry.add_allocator<VarianceShares>("variance_shares");
  registry.add_allocator<TopMass>("top_mass");
  registry.add_allocator<Threshold>("threshold");
  registry.add_selector<Best>("best");
  registry.add_selector<Chunks>("chunkkv");
  registry.add_selector<GatedChunks>("eg_chunkkv");
  registry.add_selector<BestOfEachChunk>("best_of_each_chunk");
  registry.add_selector<Sentences>("sentences");
  registry.add_selector<TwoStages>("criticalkv");
  registry.add_selector<Crush>("kvcrush");
  registry.add_selector<Sampled>("sampled");
  registry.add_fate<MergeNearest<false>>("merge");
  registry.add_fate<MergeNearest<true>>("merge_weighted");
  registry.add_fate<MergeRanked>("merge_ranked");
  registry.add_fate<MergeNeighbours>("merge_neighbours");
  registry.add_fate<ValueSpread<>>("value_spread");
  registry.add_fate<MeanRow>("mean_row");
  registry.add_fate<Demote>("demote");
}

}  // namespace kvcompress
