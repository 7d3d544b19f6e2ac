// include/kvcompress/registry/evictions.hpp - a storage part under its name, with every eviction of the library.
// SPDX-License-Identifier: MIT
#pragma once

#include <string_view>

#include "kvcompress/policies/h2o.hpp"
#include "kvcompress/policies/snapkv.hpp"
#include "kvcompress/policies/streaming_llm.hpp"
#include "kvcompress/registry.hpp"

namespace kvcompress {

/// Adds Part, and what goes with it at every eviction that does not decide lane by lane at every commit: none, streaming, snapkv. `retrieval`
/// is the name of Part's retrieval, if it has one.
template <class Part>
void add_with_evictions(Registry& registry, std::string_view storage, std::string_view retrieval = "") {
  registry.add<Part>("", storage, retrieval);
  registry.add<Combine<StreamingLLM, Part>>("streaming", storage, retrieval);
  registry.add<Combine<SnapKV, Part>>("snapkv", storage, retrieval);
}
/// The same with h2o too, for storages that encode every lane for itself.
template <class Part>
void add_with_all_evictions(Registry& registry, std::string_view storage) {
  add_with_evictions<Part>(registry, storage);
  registry.add<Combine<H2O, Part>>("h2o", storage);
}

}  // namespace kvcompress
