// bench/prompt/prompt.hpp - what computes the causal attention of a whole prompt, one layer.
// SPDX-License-Identifier: MIT
#pragma once

#include <memory>
#include <span>

#include "runner/data.hpp"

namespace bench {

class PromptAttention {
 public:
  virtual ~PromptAttention() = default;
  virtual void run() = 0;
  /// (tokens, query_heads, head_dim)
  [[nodiscard]] virtual std::span<const float> output() const = 0;
};

/// Blocks of queries times all keys before them, as matrix products.
std::unique_ptr<PromptAttention> eigen_prompt(const Data& data);

}  // namespace bench
