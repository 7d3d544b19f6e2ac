// include/kvcompress/policies/criticalkv.hpp - CriticalKV and CriticalAdaKV: SnapKV and AdaKV with a second look at the values.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/eviction/allocators/ada.hpp"
#include "kvcompress/eviction/evict.hpp"
#include "kvcompress/eviction/scorers/window_attention.hpp"
#include "kvcompress/eviction/selectors/two_stages.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// "Identify Critical KV Cache in LLM Inference from an Output Perturbation Perspective", as NVIDIA/kvpress@8bb29b9c3078:criticalkv_press.py over SnapKV's
/// scores (see TwoStages for the source and the unit of epsilon, and for the output projections that it needs). Keeps: `budget` rows per lane.
/// Observes: the last `window` queries of a prompt. Loses: what they do not look at, small values sooner.
struct CriticalKV {
  using Eviction = Evict<WindowAttention, Uniform, TwoStages>;
};
/// The same with the budgets of AdaKV. There AdaKV's guaranteed rows also count as chosen by score, which matters only where they are more than
/// `first_share` of a head's budget.
struct CriticalAdaKV {
  using Eviction = Evict<WindowAttention, Ada, TwoStages>;
};

}  // namespace kvcompress
