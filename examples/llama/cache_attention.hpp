// examples/llama/cache_attention.hpp - a compressed cache as the engine's attention: all that an engine has to write.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "attention.hpp"
#include "cache_shape.hpp"
#include "kvcompress/any/any_cache.hpp"

namespace llama {

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
