// include/kvcompress/registry/evictions.hpp - a storage part under its name, with every eviction of the library.
// SPDX-License-Identifier: MIT
#pragma once

#include <string_view>

#include "kvcompress/policies/h2o.hpp"
#include "kvcompress/policies/snapkv.hpp"
#include "kvcompress/policies/streaming_llm.hpp"
#include "kvcompress/registry.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Adds Part alone and with the evictions that go with every part: streaming, snapkv. `retrieval` is the name of its retrieval, if it has one.
template <class Part>
void add_with_evictions(Registry& registry, std::string_view storage, std::string_view retrieval = "") {
  registry.add<Part>("", storage, retrieval);
  registry.add<Combine<StreamingLLM, Part>>("streaming", storage, retrieval);
  registry.add<Combine<SnapKV, Part>>("snapkv", storage, retrieval);
}
/// Adds Part alone and with streaming, h2o, snapkv: for storages that encode every lane for itself.
template <class Part>
void add_with_all_evictions(Registry& registry, std::string_view storage) {
  registry.add<Part>("", storage);
  registry.add<Combine<StreamingLLM, Part>>("streaming", storage);
  registry.add<Combine<H2O, Part>>("h2o", storage);
  registry.add<Combine<SnapKV, Part>>("snapkv", storage);
}

}  // namespace kvcompress
