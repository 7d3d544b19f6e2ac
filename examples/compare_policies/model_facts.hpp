// examples/compare_policies/model_facts.hpp - what a report states about the model.
// SPDX-License-Identifier: MIT
#pragma once

#include <fmt/format.h>

#include <cstddef>
#include <filesystem>
#include <vector>

#include "compare_policies/results.hpp"
#include "llama/model.hpp"

namespace comparison {

inline std::vector<Fact> model_facts(const llama::Model& model, const std::filesystem::path& path) {
  const llama::Config& c = model.config;
  std::size_t parameters = 0;
  for (const auto& [name, tensor] : model.gguf.tensors()) { parameters += tensor.rows * tensor.columns; }
  return {
      {"Model",
       fmt::format("{} ({}), {:.2f} million parameters, {:.1f} MB", model.gguf.text_or("general.name", "unnamed"), path.filename().string(),
                   static_cast<double>(parameters) / 1e6, static_cast<double>(std::filesystem::file_size(path)) / 1e6)},
      {"Architecture", fmt::format("{}: {} layers, {} query heads and {} KV heads of {} channels, vocabulary {}, context {}, RoPE base {}",
                                   c.rope_halves ? "Qwen2" : "Llama", c.layers, c.query_heads, c.kv_heads, c.head_dim, c.vocabulary,
                                   c.context, c.rope_base)},
      {"KV cache", fmt::format("{} numbers per token, {} bytes in f16", 2 * c.layers * c.kv_heads * c.head_dim,
                               4 * c.layers * c.kv_heads * c.head_dim)},
  };
}

}  // namespace comparison
