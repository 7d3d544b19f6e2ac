// examples/llama/cache_attention.hpp - a compressed cache as the engine's attention: all that an engine has to write.
// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>
#include <memory>
#include <vector>

#include "attention.hpp"
#include "kvcompress/any/any_cache.hpp"
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

/// An AnyCache as the engine's Attention. Calls for disjoint ranges of KV heads may run at once: each has a workspace of its own.
class CacheAttention final : public Attention {
 public:
  explicit CacheAttention(kvcompress::AnyCache cache, const kvcompress::Memory& memory = {})
      : cache_(std::move(cache)), shape_(cache_.shape()), workspaces_(shape_.kv_heads, kvcompress::Workspace(shape_, memory)) {}

  [[nodiscard]] kvcompress::AnyCache& cache() noexcept { return cache_; }

  void append(std::size_t layer, const float* keys, const float* values, std::size_t tokens) override {
    cache_.append(layer, rows(keys, tokens, shape_.kv_heads), rows(values, tokens, shape_.kv_heads));
  }
  void attend(std::size_t layer, const float* queries, std::size_t tokens, float* out, std::size_t first_kv_head,
              std::size_t last_kv_head) override {
    cache_.attend(layer, rows(queries, tokens, shape_.query_heads),
                  kvcompress::Output::tokens_first(out, tokens, shape_.query_heads, shape_.head_dim), workspaces_[first_kv_head], {},
                  {first_kv_head, last_kv_head});
  }
  void end_prompt(std::size_t layer) override { cache_.end_prompt(layer); }

 private:
  [[nodiscard]] kvcompress::Rows rows(const float* data, std::size_t tokens, std::size_t heads) const {
    return kvcompress::Rows::tokens_first(data, tokens, heads, shape_.head_dim);
  }

  kvcompress::AnyCache cache_;
  kvcompress::Shape shape_;
  std::vector<kvcompress::Workspace> workspaces_;  // (kv_heads), by the first head of a call
};

}  // namespace llama
