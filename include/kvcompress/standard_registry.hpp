// include/kvcompress/standard_registry.hpp - every policy of the library by name. Slow to compile: include it in one source file.
// SPDX-License-Identifier: MIT
#pragma once

#include <string_view>

#include "kvcompress/policies/full.hpp"
#include "kvcompress/policies/h2o.hpp"
#include "kvcompress/policies/kivi.hpp"
#include "kvcompress/policies/snapkv.hpp"
#include "kvcompress/policies/streaming_llm.hpp"
#include "kvcompress/registry.hpp"

namespace kvcompress {

/// Adds an eviction part (none: keep all) with each of the library's storages: f16, f32, bf16, kivi2, kivi3, kivi4, kivi8.
template <class... EvictionPart>
void add_with_storages(Registry& registry, std::string_view eviction) {
  registry.add<Combine<EvictionPart..., Full<half>>>(eviction, "f16");
  registry.add<Combine<EvictionPart..., Full<float>>>(eviction, "f32");
  registry.add<Combine<EvictionPart..., Full<bfloat16>>>(eviction, "bf16");
  registry.add<Combine<EvictionPart..., Kivi<2>>>(eviction, "kivi2");
  registry.add<Combine<EvictionPart..., Kivi<3>>>(eviction, "kivi3");
  registry.add<Combine<EvictionPart..., Kivi<4>>>(eviction, "kivi4");
  registry.add<Combine<EvictionPart..., Kivi<8>>>(eviction, "kivi8");
}

/// Every eviction (none, streaming, h2o, snapkv) with every storage. "full" is another name of f16.
[[nodiscard]] inline Registry standard_registry() {
  Registry registry;
  add_with_storages<>(registry, "");
  add_with_storages<StreamingLLM>(registry, "streaming");
  add_with_storages<H2O>(registry, "h2o");
  add_with_storages<SnapKV>(registry, "snapkv");
  return registry;
}

}  // namespace kvcompress
