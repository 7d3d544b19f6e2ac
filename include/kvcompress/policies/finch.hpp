// include/kvcompress/policies/finch.hpp - FINCH: the prompt compressed by what the question at its end looks at.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/eviction/evict.hpp"
#include "kvcompress/eviction/scorers/question_attention.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// "FINCH: Prompt-guided Key-Value Cache Compression for Large Language Models", as NVIDIA/kvpress@8bb29b9c3078:finch_press.py scores (see
/// QuestionAttention); its chunks are `Evict<QuestionAttention, Uniform, BestOfEachChunk>`. Deviation: kept rows keep their positions, there they
/// are moved together. Keeps: `budget` rows per lane, the question and all decoded rows. Observes: the last `window` queries of a prompt. Loses:
/// what the question does not look at.
struct FINCH {
  using Eviction = Evict<QuestionAttention>;
};

}  // namespace kvcompress
