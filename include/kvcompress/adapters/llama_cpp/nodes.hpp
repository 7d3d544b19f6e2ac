// include/kvcompress/adapters/llama_cpp/nodes.hpp - reads what llama.cpp's graph says about a layer: rows, queries, mask, rotary embedding.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "ggml.h"
#include "kvcompress/core/error.hpp"
#include "kvcompress/core/shape.hpp"
#include "kvcompress/core/views.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::llama_cpp {

/// What a node of a graph does: its operation and that operation's parameters.
class NodeWork {
 public:
  explicit NodeWork(const ggml_tensor& node) noexcept : op_(node.op) { std::memcpy(parameters_, node.op_params, sizeof parameters_); }
  void write_to(ggml_tensor* node) const noexcept {
    std::memcpy(node->op_params, parameters_, sizeof parameters_);
    node->op = op_;
  }

 private:
  ggml_op op_;
  std::int32_t parameters_[GGML_MAX_OP_PARAMS / sizeof(std::int32_t)];
};
/// That of a node that calls `function` on every thread of its graph.
[[nodiscard]] inline NodeWork node_that_calls(ggml_custom_op_t function, void* context) {
  const std::unique_ptr<ggml_context, decltype(&ggml_free)> nodes(ggml_init({2 * ggml_tensor_overhead(), nullptr, true}), ggml_free);
  require(nodes != nullptr, ErrorCode::memory, "llama_cpp: ggml makes no context");
  return NodeWork(*ggml_custom_4d(nodes.get(), GGML_TYPE_F32, 1, 1, 1, 1, nullptr, 0, function, GGML_N_TASKS_MAX, context));
}

/// The tensor that a view looks at, or the tensor itself.
[[nodiscard]] inline const ggml_tensor* root(const ggml_tensor* tensor) noexcept {
  return tensor->view_src != nullptr ? tensor->view_src : tensor;
}

/// Which part of llama.cpp's own cache a tensor is, by the name that llama.cpp gives it: cache_k_l7, cache_v_l7.
struct CacheTensor {
  int layer = -1;  ///< -1: not a tensor of the cache
  bool values = false;
};
[[nodiscard]] inline CacheTensor cache_tensor(const ggml_tensor* tensor) noexcept {
  if (tensor == nullptr) { return {}; }
  const char* name = root(tensor)->name;
  const bool of_cache = std::strncmp(name, "cache_k_l", 9) == 0 || std::strncmp(name, "cache_v_l", 9) == 0;
  return of_cache ? CacheTensor{std::atoi(name + 9), name[6] == 'v'} : CacheTensor{};
}

/// A float tensor of rows (tokens, heads, dim) as the library takes them; `token_bytes` and `head_bytes` are its strides.
[[nodiscard]] inline Rows rows_of(const ggml_tensor* tensor, std::size_t tokens, std::size_t heads, std::size_t dim,
                                  std::size_t token_bytes, std::size_t head_bytes) noexcept {
  return {static_cast<const float*>(tensor->data), tokens, heads, dim, token_bytes / sizeof(float), head_bytes / sizeof(float)};
}

/// The rotary embedding of a layer's keys, with factors of its own.
struct RotaryEmbedding {
  Rope rope{.theta = 0.0};
  std::vector<double> factors;  ///< what linked().frequency_factors points to
  bool known = true;            ///< false: it turns channels by more than one position (M-RoPE)

  [[nodiscard]] Rope linked() const noexcept {
    Rope all = rope;
    all.frequency_factors = factors.empty() ? nullptr : factors.data();
    return all;
  }
};

/// Reads the ROPE node whose result the keys are; keys that come from another node have no rotary embedding (learned positions, ALiBi).
/// YaRN's mixture of two frequencies becomes a divisor per channel pair; its factor on the magnitude stays in the keys, as it came.
[[nodiscard]] inline RotaryEmbedding rotary_embedding(const ggml_tensor* keys) {
  RotaryEmbedding found;
  if (keys->op != GGML_OP_ROPE) { return found; }
  constexpr int interleaved = 0;
  constexpr int half_split = 2;
  const int dims = keys->op_params[1];
  const int mode = keys->op_params[2];
  const int original_context = keys->op_params[4];
  float f[6];  // base, scale, YaRN's mixture, magnitude, fast and slow turns
  std::memcpy(f, keys->op_params + 5, sizeof f);
  found.known = mode == interleaved || mode == half_split;
  found.rope = {.theta = static_cast<double>(f[0]),
                .pairing = mode == interleaved ? RopePairing::interleaved : RopePairing::half_split,
                .rotary_dim = static_cast<std::size_t>(dims),
                .scale = static_cast<double>(f[1])};
  const auto pairs = static_cast<std::size_t>(dims) / 2;
  if (keys->src[2] != nullptr) {
    const auto* divisors = static_cast<const float*>(keys->src[2]->data);
    found.factors.assign(divisors, divisors + pairs);
  }
  if (f[2] != 0.0F) {
    if (found.factors.empty()) { found.factors.assign(pairs, 1.0); }
    const double pi = std::acos(-1.0);
    const auto pair_with = [&](float turns) {  // the channel pair that turns that often over the original context
      return dims * std::log(original_context / (static_cast<double>(turns) * 2.0 * pi)) / (2.0 * std::log(found.rope.theta));
    };
    const double first = std::max(0.0, std::floor(pair_with(f[4])));
    const double last = std::min(dims - 1.0, std::ceil(pair_with(f[5])));
    for (std::size_t i = 0; i < pairs; ++i) {
      const double ramp = 1.0 - std::clamp((static_cast<double>(i) - first) / std::max(0.001, last - first), 0.0, 1.0);
      const double mix = ramp * static_cast<double>(f[2]);
      found.factors[i] /= found.rope.scale * (1.0 - mix) + mix;
    }
    found.rope.scale = 1.0;
  }
  return found;
}

/// What a FLASH_ATTN_EXT node over llama.cpp's cache says.
struct AttentionNode {
  explicit AttentionNode(const ggml_tensor* attention)
      : node(attention), queries(attention->src[0]), keys(attention->src[1]), values(attention->src[2]), mask(attention->src[3]),
        sinks(attention->src[4] != nullptr ? static_cast<const float*>(attention->src[4]->data) : nullptr) {
    float f[3];
    std::memcpy(f, attention->op_params, sizeof f);
    scale = f[0], alibi = f[1], soft_cap = f[2];
  }

  [[nodiscard]] int layer() const noexcept { return cache_tensor(keys).layer; }
  [[nodiscard]] std::size_t tokens() const noexcept { return static_cast<std::size_t>(queries->ne[1] * queries->ne[3]); }
  [[nodiscard]] std::size_t query_heads() const noexcept { return static_cast<std::size_t>(queries->ne[2]); }
  [[nodiscard]] std::size_t kv_heads() const noexcept { return static_cast<std::size_t>(keys->ne[2]); }
  [[nodiscard]] std::size_t key_width() const noexcept { return static_cast<std::size_t>(keys->ne[0]); }
  [[nodiscard]] std::size_t value_width() const noexcept { return static_cast<std::size_t>(values->ne[0]); }
  /// Cells of llama.cpp's cache that one stream of sequences has in this layer.
  [[nodiscard]] std::int64_t cells() const noexcept { return root(keys)->ne[1]; }
  [[nodiscard]] Rows query_rows() const noexcept {
    return rows_of(queries, tokens(), query_heads(), key_width(), queries->nb[1], queries->nb[2]);
  }
  /// ALiBi's slope of each query head, as ggml makes them of the largest bias; none without it.
  [[nodiscard]] std::vector<float> alibi_slopes() const {
    std::vector<float> slopes(alibi > 0.0F ? query_heads() : 0);
    const auto power = static_cast<float>(std::bit_floor(query_heads()));
    for (std::size_t h = 0; h < slopes.size(); ++h) {
      const float turn = static_cast<float>(h) < power ? static_cast<float>(h + 1) : static_cast<float>(h) - power + 0.5F;
      slopes[h] = std::exp2(-alibi / power * turn);
    }
    return slopes;
  }
  /// Cells that the ubatch's `token` may see.
  [[nodiscard]] std::size_t visible_cells(std::size_t token) const noexcept {
    const ggml_fp16_t* row = mask_row(token);
    return static_cast<std::size_t>(mask->ne[0] - std::count(row, row + mask->ne[0], minus_infinity));
  }
  [[nodiscard]] bool sees(std::size_t token, std::int64_t cell) const noexcept {
    const std::int64_t in_stream = cell % cells();
    return in_stream < mask->ne[0] && mask_row(token)[in_stream] != minus_infinity;
  }

  const ggml_tensor* node;
  const ggml_tensor* queries;
  const ggml_tensor* keys;
  const ggml_tensor* values;
  const ggml_tensor* mask;  // f16 (cells, tokens): -infinity where a token does not see a cell, else 0, or with ALiBi the distance below 0
  const float* sinks;       // a logit per query head, or null
  float scale;
  float alibi;
  float soft_cap;

 private:
  static constexpr ggml_fp16_t minus_infinity = 0xFC00;
  [[nodiscard]] const ggml_fp16_t* mask_row(std::size_t token) const noexcept {
    const auto in_stream = static_cast<std::size_t>(queries->ne[1]);
    return reinterpret_cast<const ggml_fp16_t*>(static_cast<const char*>(mask->data) + token / in_stream * mask->nb[3] +
                                                token % in_stream * mask->nb[1]);
  }
};

}  // namespace kvcompress::llama_cpp
