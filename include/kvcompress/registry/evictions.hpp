// include/kvcompress/registry/evictions.hpp - evictions by name.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/policies/adakv.hpp"
#include "kvcompress/policies/h2o.hpp"
#include "kvcompress/policies/key_diff.hpp"
#include "kvcompress/policies/pyramidkv.hpp"
#include "kvcompress/policies/snapkv.hpp"
#include "kvcompress/policies/streaming_llm.hpp"
#include "kvcompress/policies/tova.hpp"
#include "kvcompress/registry.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// streaming, h2o, snapkv, pyramidkv, adakv, tova, keydiff.
inline void add_evictions(Registry& registry) {
  registry.add<StreamingLLM>("streaming");
  registry.add<H2O>("h2o");
  registry.add<SnapKV>("snapkv");
  registry.add<PyramidKV>("pyramidkv");
  registry.add<AdaKV>("adakv");
  registry.add<TOVA>("tova");
  registry.add<KeyDiff>("keydiff");
}

}  // namespace kvcompress
