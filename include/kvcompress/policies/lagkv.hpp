// include/kvcompress/policies/lagkv.hpp - LagKV: rows that are uneven in the scale of those that follow them.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/eviction/evict.hpp"
#include "kvcompress/eviction/scorers/lag_relative.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// "LagKV: Lag-Relative Information of the KV Cache Tells Which Tokens Are Important"; scores as NVIDIA/kvpress@8bb29b9c3078:lagkv_press.py.
/// Keeps: `budget` rows of a prompt per lane, and all that come later unless `decode_budget` says less. Observes: nothing. Loses: rows of which
/// each channel stands equally high among those that follow.
struct LagKV {
  using Eviction = Evict<LagRelative>;
};

}  // namespace kvcompress
