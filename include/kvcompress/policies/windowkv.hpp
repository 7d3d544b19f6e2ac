// include/kvcompress/policies/windowkv.hpp - WindowKV: windows of neighbouring rows stay, chosen by one layer for a group of layers.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/eviction/shared_windows.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// "WindowKV: Task-Adaptive Group-Wise KV Cache Window Selection for Efficient LLM Inference"; see SharedWindows for source, cost and deviations. Keeps:
/// `budget` rows per lane on average over the layers, whole windows and the suffix, and all decoded rows. Observes: the last `suffix` queries of
/// a prompt. Loses: windows that the first layer of a group does not look at.
struct WindowKV {
  using Eviction = SharedWindows;
};

}  // namespace kvcompress
