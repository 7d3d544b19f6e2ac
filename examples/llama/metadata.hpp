// examples/llama/metadata.hpp - refuses files that this engine would open and run wrongly.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <string>
#include <string_view>

#include "error.hpp"
#include "gguf.hpp"

namespace llama {

/// The key of a model: "llama." and the name, or "qwen2." and the name.
inline std::string key_of(const Gguf& gguf, std::string_view name) {
  return std::string(gguf.text("general.architecture")).append(".").append(name);
}

/// What this engine reads of a model's own keys, and below what may be there without changing a result.
inline constexpr std::string_view read_keys[] = {
    "block_count",
    "embedding_length",
    "feed_forward_length",
    "context_length",
    "expert_count",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "attention.causal",
    "attention.sliding_window",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.attn_factor",
    "rope.scaling.original_context_length",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
};
inline constexpr std::string_view harmless_keys[] = {
    "vocab_size",                    // the list of tokens has it too
    "tensor_data_layout",            // of the file that was converted
    "expert_used_count",             // without experts
    "attention.layer_norm_epsilon",  // of the other kind of norm
    "rope.scaling.finetuned",        // how the model came about
    "pooling_type",                  // of embeddings
};

/// The file, when its metadata describes a kind of model that this engine runs.
inline const Gguf& checked_metadata(const Gguf& gguf) {
  const std::string_view architecture = gguf.text("general.architecture");
  if (architecture != "llama" && architecture != "qwen2") {
    fail("{}: has architecture {}; this engine runs \"llama\" and \"qwen2\".", gguf.file(), in_quotes(architecture));
  }
  if (const std::uint64_t experts = gguf.integer_or(key_of(gguf, "expert_count"), 0); experts > 0) {
    fail("{}: is a mixture of {} experts ({}); this engine runs models without.", gguf.file(), experts,
         in_quotes(key_of(gguf, "expert_count")));
  }
  if (!gguf.flag_or(key_of(gguf, "attention.causal"), true)) {
    fail("{}: {} is false; this engine's attention is causal.", gguf.file(), in_quotes(key_of(gguf, "attention.causal")));
  }
  return gguf;
}

/// Refuses a model's own keys that are in neither list: left out in silence they could change the results.
inline void refuse_unknown_keys(const Gguf& gguf) {
  const std::string prefix = key_of(gguf, "");
  for (const std::string_view key : gguf.keys()) {
    if (!key.starts_with(prefix)) { continue; }
    const std::string_view name = key.substr(prefix.size());
    const auto is_name = [&](std::string_view known) { return known == name; };
    if (!std::any_of(std::begin(read_keys), std::end(read_keys), is_name) &&
        !std::any_of(std::begin(harmless_keys), std::end(harmless_keys), is_name)) {
      fail("{}: has metadata {}, which this engine does not know; it may change what the model computes.", gguf.file(), in_quotes(key));
    }
  }
}

}  // namespace llama
