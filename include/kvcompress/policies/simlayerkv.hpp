// include/kvcompress/policies/simlayerkv.hpp - SimLayerKV: lazy layers keep the ends of a prompt, the others all of it.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/eviction/lazy_layers.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// "SimLayerKV: A Simple Framework for Layer-Level KV Cache Reduction"; see LazyLayers for source and cost. Keeps: everything in some layers, the
/// first and the newest rows of a prompt in others. Observes: the last query of a prompt. Loses: the middle of the text, in lazy layers.
struct SimLayerKV {
  using Eviction = LazyLayers;
};

}  // namespace kvcompress
