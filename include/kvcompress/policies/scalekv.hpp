// include/kvcompress/policies/scalekv.hpp - ScaleKV: for models that make an image map by map, rows that a grid of the newest map points to.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/eviction/allocators/prompt_table.hpp"
#include "kvcompress/eviction/evict.hpp"
#include "kvcompress/eviction/scorers/grid_logits.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// "Memory-Efficient Visual Autoregressive Modeling with Scale-Aware KV Cache Compression"; StargazerX0/ScaleKV@eb0615a100fa. Each map is a prompt: append,
/// attend, end_prompt. Keeps: as many rows per layer and map as the table says (see PromptTable). Observes: the queries of the map (see GridLogits).
struct ScaleKV {
  using Eviction = Evict<GridLogits, PromptTable>;
};
/// The same with a budget instead of a table.
struct GridPolicy {
  using Eviction = Evict<GridLogits>;
};

}  // namespace kvcompress
