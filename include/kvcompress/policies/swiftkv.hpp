// include/kvcompress/policies/swiftkv.hpp - SwiftKV: later layers read the rows of earlier ones.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <vector>

#include "kvcompress/core/bounds.hpp"
#include "kvcompress/core/shape.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// "SwiftKV: Fast Prefill-Optimized Inference with Knowledge-Preserving Model Transformation", which layers have rows of their own: the first
/// `own_layers`, and behind them the first of every `group` layers (AcrossKV), whose rows the others of the group read. It is a shape, not a policy, and
/// goes with any. Loses: nothing that the model, which was trained so, would have. What a prompt saves by not running later layers is the engine's.
///
/// Source: snowflakedb/ArcticInference@9d4643881608:arctic_inference/common/swiftkv/configs.py.
struct SwiftKV {
  /// Shapes for Shape::each, of layers that are like `layer`. `own_layers`: 0 to its layers; `group`: at least 1.
  [[nodiscard]] static std::vector<Shape> each(const Shape& layer, std::size_t own_layers, std::size_t group) {
    check_bounds("swiftkv: own_layers", own_layers, 0, layer.layers);
    check_bounds("swiftkv: group", group, 1, layer.layers);
    std::vector<Shape> all(layer.layers, layer);
    for (std::size_t l = own_layers; l < all.size(); ++l) {
      const std::size_t first = l - (l - own_layers) % group;
      if (l != first) { all[l].store_of = first; }
    }
    return all;
  }
};

}  // namespace kvcompress
