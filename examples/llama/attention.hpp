// examples/llama/attention.hpp - what the engine needs of a KV cache, and the plain one to compare with.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include "matmul.hpp"

namespace llama {

/// What the engine needs of a KV cache: one sequence, all layers. For each layer it calls append, then
/// attend, then, when the caller of forward() asked for it, end_prompt. Only attend is called from several
/// threads at once.
struct Attention {
  virtual ~Attention() = default;

  /// keys, values: (tokens, kv_heads, head_dim), keys rotated, for the next `tokens` positions of `layer`.
  virtual void append(std::size_t layer, const float* keys, const float* values, std::size_t tokens) = 0;

  /// Causal attention of the newest `tokens` rows over all rows of `layer`.
  /// queries, out: (tokens, query_heads, head_dim), rotated, not yet scaled; the calls for one step name
  /// disjoint ranges of KV heads, and a call reads and writes only the query heads that belong to its range.
  virtual void attend(std::size_t layer, const float* queries, std::size_t tokens, float* out, std::size_t first_kv_head,
                      std::size_t last_kv_head) = 0;

  /// The prompt of `layer` is complete: the moment to compress it.
  virtual void end_prompt(std::size_t layer) = 0;
};

/// Every row kept as it came, softmax(q K^T / sqrt(head_dim)) V by the book: the oracle.
class PlainAttention final : public Attention {
 public:
  PlainAttention(std::size_t layers, std::size_t query_heads, std::size_t kv_heads, std::size_t head_dim)
      : query_heads_(query_heads), kv_heads_(kv_heads), head_dim_(head_dim), keys_(layers * kv_heads), values_(layers * kv_heads) {}

  /// Forgets all rows and keeps the memory.
  void clear() {
    for (auto& lane : keys_) { lane.clear(); }
    for (auto& lane : values_) { lane.clear(); }
  }

  void append(std::size_t layer, const float* keys, const float* values, std::size_t tokens) override {
    for (std::size_t i = 0; i < tokens * kv_heads_; ++i) {
      const std::size_t lane = layer * kv_heads_ + i % kv_heads_;
      keys_[lane].insert(keys_[lane].end(), keys + i * head_dim_, keys + (i + 1) * head_dim_);
      values_[lane].insert(values_[lane].end(), values + i * head_dim_, values + (i + 1) * head_dim_);
    }
  }

  void attend(std::size_t layer, const float* queries, std::size_t tokens, float* out, std::size_t first_kv_head,
              std::size_t last_kv_head) override {
    const std::size_t group = query_heads_ / kv_heads_;
    for (std::size_t kv_head = first_kv_head; kv_head < last_kv_head; ++kv_head) {
      const std::vector<float>& keys = keys_[layer * kv_heads_ + kv_head];      // (rows, head_dim)
      const std::vector<float>& values = values_[layer * kv_heads_ + kv_head];  // (rows, head_dim)
      const std::size_t rows = keys.size() / head_dim_;
      std::vector<float> weights(rows);
      for (std::size_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
        for (std::size_t t = 0; t < tokens; ++t) {
          const std::size_t at = (t * query_heads_ + head) * head_dim_;
          const std::size_t visible = rows - tokens + t + 1;
          tile_rows<F32, 1>(reinterpret_cast<const std::byte*>(keys.data()), head_dim_ * sizeof(float), visible, queries + at, head_dim_,
                            weights.data(), 1, 0);
          softmax(weights.data(), visible);
          mix(values.data(), weights.data(), visible, out + at);
        }
      }
    }
  }

  void end_prompt(std::size_t) override {}

 private:
  void softmax(float* weights, std::size_t rows) const {
    const float scale = 1.0F / std::sqrt(static_cast<float>(head_dim_));
    float largest = -std::numeric_limits<float>::infinity();
    for (std::size_t i = 0; i < rows; ++i) { largest = std::max(largest, weights[i]); }
    double total = 0.0;
    for (std::size_t i = 0; i < rows; ++i) {
      weights[i] = std::exp((weights[i] - largest) * scale);
      total += static_cast<double>(weights[i]);
    }
    const auto inverse = static_cast<float>(1.0 / total);
    for (std::size_t i = 0; i < rows; ++i) { weights[i] *= inverse; }
  }

  /// out = sum of weights[i] values[i]
  void mix(const float* values, const float* weights, std::size_t rows, float* out) const {
    std::size_t channel = 0;
    for (; channel + 64 <= head_dim_; channel += 64) { mix_strip<8>(values + channel, weights, rows, out + channel); }
    for (; channel + 8 <= head_dim_; channel += 8) { mix_strip<1>(values + channel, weights, rows, out + channel); }
    for (; channel < head_dim_; ++channel) {
      float total = 0.0F;
      for (std::size_t i = 0; i < rows; ++i) { total += weights[i] * values[i * head_dim_ + channel]; }
      out[channel] = total;
    }
  }

  /// The same for 8 Vectors channels, whose sums stay in registers.
  template <std::size_t Vectors>
  void mix_strip(const float* values, const float* weights, std::size_t rows, float* out) const {
    vec::f32x8 total[Vectors];
#pragma GCC unroll 8
    for (std::size_t v = 0; v < Vectors; ++v) { total[v] = vec::set(0.0F); }
    for (std::size_t i = 0; i < rows; ++i) {
      const vec::f32x8 weight = vec::set(weights[i]);
#pragma GCC unroll 8
      for (std::size_t v = 0; v < Vectors; ++v) { total[v] = vec::fma(weight, vec::load(values + i * head_dim_ + 8 * v), total[v]); }
    }
#pragma GCC unroll 8
    for (std::size_t v = 0; v < Vectors; ++v) { vec::store(out + 8 * v, total[v]); }
  }

  std::size_t query_heads_;
  std::size_t kv_heads_;
  std::size_t head_dim_;
  std::vector<std::vector<float>> keys_;    // (layers x kv_heads) lanes of (rows, head_dim)
  std::vector<std::vector<float>> values_;  // the same
};

}  // namespace llama
