// include/kvcompress/registry/low_rank.hpp - xKV and ShadowKV by name. Needs Eigen.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/policies/shadowkv.hpp"
#include "kvcompress/policies/xkv.hpp"
#include "kvcompress/registry.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// xkv, shadowkv. With shadowkv (or landmarks) streaming needs in_cache_positions=false, which must be said: an option means the same in every
/// combination.
inline void add_low_rank(Registry& registry) {
  registry.add<XKV<>>("xkv");
  registry.add<ShadowKV<>>("shadowkv");
}

}  // namespace kvcompress
