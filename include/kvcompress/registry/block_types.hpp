// include/kvcompress/registry/block_types.hpp - ggml's block types by name.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/policies/block_types.hpp"
#include "kvcompress/registry.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// q8_0, q4_0, iq4_nl, mxfp4, nvfp4.
inline void add_block_types(Registry& registry) {
  registry.add<BlockType<ggml::Q8_0>>("q8_0");
  registry.add<BlockType<ggml::Q4_0>>("q4_0");
  registry.add<BlockType<ggml::Iq4Nl>>("iq4_nl");
  registry.add<BlockType<ggml::Mxfp4>>("mxfp4");
  registry.add<BlockType<ggml::Nvfp4>>("nvfp4");
}

}  // namespace kvcompress
