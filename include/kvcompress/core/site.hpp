// include/kvcompress/core/site.hpp - where a lane stands in the model.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

#include "kvcompress/core/shape.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Which lanes share something or decide together: each for itself, all of a layer, or all of a group of layers. An eviction of scope
/// `group` decides by positions alone, so that all lanes of all layers agree. Allocators alone have the scope of the model: they see all layers.
enum class Scope { lane, layer, group, model };

/// The layer and KV head of a lane, the shape of its layer, and the model that it belongs to. What a policy provides gets it, so that it can differ
/// by layer and head; valid during the call.
struct Site {
  Site(std::size_t of_layer, std::size_t head, const Shape& of_model) noexcept
      : layer(of_layer), kv_head(head), shape(of_model.of(of_layer)), model(of_model) {}

  std::size_t layer;
  std::size_t kv_head;
  const Shape& shape;  ///< of the layer
  const Shape& model;

  /// Its number among the lanes of the model, layer by layer.
  [[nodiscard]] std::size_t lane() const noexcept {
    return kv_head + model.sum_before(layer, [](const Shape& one) { return one.kv_heads; });
  }
  /// Query heads before the first of its own, in an array over all query heads of the model.
  [[nodiscard]] std::size_t query_heads_before() const noexcept {
    return kv_head * shape.group() + model.sum_before(layer, [](const Shape& one) { return one.query_heads; });
  }
};

}  // namespace kvcompress
