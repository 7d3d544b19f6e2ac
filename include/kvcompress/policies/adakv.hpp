// include/kvcompress/policies/adakv.hpp - AdaKV: SnapKV with budgets for which the heads of a layer compete.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/eviction/allocators/ada.hpp"
#include "kvcompress/eviction/evict.hpp"
#include "kvcompress/eviction/scorers/window_attention.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// "Ada-KV: Optimizing KV Cache Eviction by Adaptive Budget Allocation for Efficient LLM Inference", over SnapKV's scores (see Ada for the sources
/// and their rules; `Evict<S, Ada>` has it over others). Keeps: `budget` rows per lane on average over the heads of a layer. Observes: the
/// last `window` queries of a prompt. Loses: what they do not look at.
struct AdaKV {
  using Eviction = Evict<WindowAttention, Ada>;
};

}  // namespace kvcompress
