// include/kvcompress/policies/chunkkv.hpp - ChunkKV: SnapKV that keeps or evicts chunks of neighbouring rows.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/eviction/evict.hpp"
#include "kvcompress/eviction/scorers/in_layer.hpp"
#include "kvcompress/eviction/scorers/window_attention.hpp"
#include "kvcompress/eviction/selectors/chunks.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// "ChunkKV: Semantic-Preserving KV Cache Compression for Efficient Long-Context LLM Inference", as NVIDIA/kvpress@8bb29b9c3078:chunkkv_press.py over
/// SnapKV's scores (there kernel 5, average pooling); without the paper's reuse of one layer's choice in the next ones. Keeps: at most `budget` rows, the
/// same in all lanes of a layer, in whole chunks (see Chunks). Observes: the last `window` queries of a prompt. Loses: what they do not look at.
struct ChunkKV {
  using Eviction = Evict<InLayer<WindowAttention>, Uniform, Chunks>;
};

}  // namespace kvcompress
