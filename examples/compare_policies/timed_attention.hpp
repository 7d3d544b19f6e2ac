// examples/compare_policies/timed_attention.hpp - the engine's attention on a compressed cache, and how long it takes.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "compare_policies/block_types.hpp"
#include "compare_policies/clock.hpp"
#include "llama/cache_attention.hpp"

namespace comparison {

/// llama::CacheAttention with a clock, for an engine of one thread.
class TimedAttention final : public llama::Attention {
 public:
  /// `type`: what rows are rounded to before the cache has them, if to anything.
  explicit TimedAttention(kvcompress::AnyCache cache, const kvcompress::Memory& memory = {}, const BlockType* type = nullptr)
      : attention_(std::move(cache), memory), type_(type) {}

  [[nodiscard]] kvcompress::AnyCache& cache() noexcept { return attention_.cache(); }
  /// Seconds spent in the cache so far.
  [[nodiscard]] double seconds() const noexcept { return seconds_; }

  void append(std::size_t layer, const float* keys, const float* values, std::size_t tokens) override {
    if (type_ != nullptr) {
      const std::size_t width = tokens * cache().shape().kv_heads * cache().shape().head_dim;
      keys_.assign(keys, keys + width);
      values_.assign(values, values + width);
      round_rows(*type_, keys_);
      round_rows(*type_, values_);
      keys = keys_.data();
      values = values_.data();
    }
    const Stopwatch watch(seconds_);
    attention_.append(layer, keys, values, tokens);
  }
  void attend(std::size_t layer, const float* queries, std::size_t tokens, float* out, std::size_t first_kv_head,
              std::size_t last_kv_head) override {
    const Stopwatch watch(seconds_);
    attention_.attend(layer, queries, tokens, out, first_kv_head, last_kv_head);
  }
  void end_prompt(std::size_t layer) override {
    const Stopwatch watch(seconds_);
    attention_.end_prompt(layer);
  }
  /// Ends the open step of every layer, so that the policy has seen all tokens.
  void commit() {
    const Stopwatch watch(seconds_);
    for (std::size_t layer = 0; layer < cache().shape().layers; ++layer) { cache().commit(layer); }
  }

 private:
  llama::CacheAttention attention_;
  const BlockType* type_;
  std::vector<float> keys_;
  std::vector<float> values_;
  double seconds_ = 0.0;
};

}  // namespace comparison
