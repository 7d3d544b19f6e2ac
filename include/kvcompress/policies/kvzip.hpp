// include/kvcompress/policies/kvzip.hpp - KVzip: what a model needs to repeat its prompt stays, whatever will be asked.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/attention/plan.hpp"
#include "kvcompress/eviction/allocators/best_rows.hpp"
#include "kvcompress/eviction/evict.hpp"
#include "kvcompress/eviction/scorers/repeat_attention.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// "KVzip: Query-Agnostic KV Cache Compression with Context Reconstruction", NVIDIA/kvpress@8bb29b9c3078:kvzip_press.py. Keeps: `budget` rows per lane in
/// the mean, the best of all layers and heads, the first 4 of each among them; decoded rows stay. Observes: queries that repeat the prompt. Before
/// end_prompt an engine runs, for each chunk of the prompt (2,000 tokens there), the text "repeat the previous context: ..." and the chunk: append the
/// rows, attend them in all layers with Record::kept and a Plan of the sinks and the chunk's rows (repeat_plan), then truncate. Every rule of the official
/// code is kept but one: rows before the first chunk that are no sinks (a chat template) are never scored there, and leave first; here whoever wants them
/// names them in a chunk. Bytes per lane: those of the storage, 4 per row; until the last layer has ended its prompt all of it is held in full.
/// KVzip+ (RepeatAttention::Options::norm) weighs attention by the size of values and hidden states.
struct KVzip {
  using Eviction = Evict<RepeatAttention, BestRows>;
};

/// The rows that queries read which repeat the rows [first, last) of a layer's prompt: the first `sinks`, these, and, since it is made before
/// they are appended, their own.
template <class Cache>
[[nodiscard]] Plan repeat_plan(Cache& cache, std::size_t layer, std::size_t first, std::size_t last,
                               std::size_t sinks = RepeatAttention::sinks) {
  Plan plan = cache.plan(layer);
  for (std::size_t head = 0; head < plan.kv_heads(); ++head) {
    plan.read(head, {0, std::min(sinks, first)});
    plan.read(head, {first, last});
  }
  return plan;
}

}  // namespace kvcompress
