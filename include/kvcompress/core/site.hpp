// include/kvcompress/core/site.hpp - where a lane stands in the model.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

#include "kvcompress/core/shape.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Which lanes share something or decide together: each for itself, all of a layer, or all of a group of layers. An eviction of scope
/// `group` decides by positions alone, so that all lanes of all layers agree. Allocators alone have the scope of the model: they see all layers.
enum class Scope { lane, layer, group, model };

/// The layer and KV head of a lane, and the model that it belongs to. What a policy provides gets it, so that it can differ by layer and head; valid
/// during the call.
struct Site {
  std::size_t layer;
  std::size_t kv_head;
  const Shape& shape;
};

}  // namespace kvcompress
