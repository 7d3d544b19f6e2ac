// examples/llama/cache_shape.hpp - what the library is told of a model.
// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

#include "kvcompress/core/shape.hpp"
#include "model.hpp"

namespace llama {

/// The library's description of a model's cache. `frequency_factors` is filled if the model scales its RoPE per pair, and must live
/// as long as the shape.
inline kvcompress::Shape shape_of(const Model& model, std::vector<double>& frequency_factors) {
  const Config& config = model.config;
  kvcompress::Shape shape;
  shape.layers = config.layers;
  shape.query_heads = config.query_heads;
  shape.kv_heads = config.kv_heads;
  shape.head_dim = config.head_dim;
  shape.keys = kvcompress::KeyForm::rotated;
  shape.rope.theta = config.rope_base;
  shape.rope.pairing = config.rope_halves ? kvcompress::RopePairing::half_split : kvcompress::RopePairing::interleaved;
  shape.rope.rotary_dim = config.rope_dims;
  shape.rope.scale = 1.0 / config.rope_scale;
  bool even = true;
  frequency_factors.clear();
  for (std::size_t i = 0; i < model.rope_frequency.size(); ++i) {
    const double plain = std::pow(config.rope_base, -2.0 * static_cast<double>(i) / static_cast<double>(config.rope_dims));
    frequency_factors.push_back(plain / (config.rope_scale * model.rope_frequency[i]));
    even = even && std::abs(frequency_factors.back() - 1.0) < 1e-9;
  }
  shape.rope.frequency_factors = even ? nullptr : frequency_factors.data();
  return shape;
}

}  // namespace llama
