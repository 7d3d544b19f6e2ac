// include/kvcompress/registry/retrieval.hpp - Quest and landmarks by name.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/policies/full.hpp"
#include "kvcompress/policies/gear.hpp"
#include "kvcompress/policies/kivi.hpp"
#include "kvcompress/policies/landmarks.hpp"
#include "kvcompress/policies/quest.hpp"
#include "kvcompress/registry/evictions.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// quest over f16, kivi4, gear4, alone and with streaming, snapkv; landmarks over f16, kivi4.
inline void add_retrieval(Registry& registry) {
  add_with_evictions<Combine<Full<half>, Quest>>(registry, "f16", "quest");
  add_with_evictions<Combine<Kivi<4>, Quest>>(registry, "kivi4", "quest");
  registry.add<Combine<Gear<4>, Quest>>("", "gear4", "quest");
  registry.add<Combine<StreamingLLM, Gear<4>, Quest>>("streaming", "gear4", "quest");
  registry.add<Combine<SnapKV, Gear<4, Kcvt, ValueVectors::head>, Quest>>("snapkv", "gear4", "quest");
  registry.add<Landmarks>("", "f16", "landmarks");
  registry.add<Combine<Kivi<4>, Landmarks>>("", "kivi4", "landmarks");
}

}  // namespace kvcompress
