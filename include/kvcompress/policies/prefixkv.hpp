// include/kvcompress/policies/prefixkv.hpp - PrefixKV: each layer keeps the rows that have most of its attention.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/eviction/prefix_layers.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// "PrefixKV: Adaptive Prefix KV Cache is What Vision Instruction-Following Models Need for Efficient Generation"; see PrefixLayers for source and cost,
/// and prefix_profile for the shares of the layers. Keeps: a share of all rows, the same in all lanes of a layer. Observes: every query. Loses: what a
/// prompt does not look at; later a row in the middle for every few tokens, whatever it says.
struct PrefixKV {
  using Eviction = PrefixLayers;
};

}  // namespace kvcompress
