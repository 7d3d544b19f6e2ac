// examples/compare_policies/recording.hpp - the exact prompt: run once through the plain attention, its rows kept for every policy.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

#include "llama/attention.hpp"
#include "llama/model.hpp"

namespace comparison {

/// What one layer of the exact model gave to its cache and asked of it.
struct LayerRows {
  std::vector<float> keys;     // (tokens, kv_heads, head_dim), rotated
  std::vector<float> values;   // (tokens, kv_heads, head_dim)
  std::vector<float> queries;  // (tokens, query_heads, head_dim), rotated
};

/// The engine's plain attention; everything up to the end of the prompt is also written down.
class Recording final : public llama::Attention {
 public:
  explicit Recording(const llama::Config& config)
      : config_(config), plain_(config.layers, config.query_heads, config.kv_heads, config.head_dim), layers_(config.layers),
        ended_(config.layers, false) {}

  void append(std::size_t layer, const float* keys, const float* values, std::size_t tokens) override {
    plain_.append(layer, keys, values, tokens);
    if (ended_[layer]) { return; }
    const std::size_t width = tokens * config_.kv_heads * config_.head_dim;
    LayerRows& rows = layers_[layer];
    rows.keys.insert(rows.keys.end(), keys, keys + width);
    rows.values.insert(rows.values.end(), values, values + width);
    rows.queries.resize(rows.queries.size() + tokens * config_.query_heads * config_.head_dim);
  }
  void attend(std::size_t layer, const float* queries, std::size_t tokens, float* out, std::size_t first_kv_head,
              std::size_t last_kv_head) override {
    plain_.attend(layer, queries, tokens, out, first_kv_head, last_kv_head);
    if (ended_[layer]) { return; }
    const std::size_t group = config_.query_heads / config_.kv_heads * config_.head_dim;  // floats of one KV head's queries
    const std::size_t row = config_.kv_heads * group;
    std::vector<float>& kept = layers_[layer].queries;
    const std::size_t newest = kept.size() - tokens * row;
    for (std::size_t t = 0; t < tokens; ++t) {
      std::copy(queries + t * row + first_kv_head * group, queries + t * row + last_kv_head * group,
                kept.begin() + static_cast<std::ptrdiff_t>(newest + t * row + first_kv_head * group));
    }
  }
  void end_prompt(std::size_t layer) override { ended_[layer] = true; }

  /// The rows of the prompt, (layers); the recording keeps none.
  [[nodiscard]] std::vector<LayerRows> take_rows() { return std::move(layers_); }

 private:
  llama::Config config_;
  llama::PlainAttention plain_;
  std::vector<LayerRows> layers_;
  std::vector<bool> ended_;
};

}  // namespace comparison
