// include/kvcompress/registry/low_rank.hpp - xKV and ShadowKV by name. Needs Eigen.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/policies/landmarks.hpp"
#include "kvcompress/policies/quest.hpp"
#include "kvcompress/policies/shadowkv.hpp"
#include "kvcompress/policies/xkv.hpp"
#include "kvcompress/registry/evictions.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// xkv, quest over xkv, and shadowkv, alone and with streaming, snapkv; landmarks over xkv. With shadowkv (or landmarks) streaming needs in_cache_positions=false,
/// which must be said: an option means the same in every combination.
inline void add_low_rank(Registry& registry) {
  add_with_evictions<XKV<>>(registry, "xkv");
  add_with_evictions<Combine<XKV<>, Quest>>(registry, "xkv", "quest");
  registry.add<Combine<XKV<>, Landmarks>>("", "xkv", "landmarks");
  add_with_evictions<ShadowKV<>>(registry, "shadowkv", "shadowkv");
}

}  // namespace kvcompress
