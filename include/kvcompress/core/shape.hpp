// include/kvcompress/core/shape.hpp - what a model's cache looks like: layers, heads, dimensions, rotary embedding.
// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "kvcompress/core/error.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// A token's place in the text, counted from 0. The largest value marks "no position".
using Position = std::uint32_t;
inline constexpr Position no_position = 0xFFFF'FFFFU;

/// Which channels a rotary embedding turns together.
enum class RopePairing {
  half_split,   ///< channel i with i + rotary_dim/2 (Hugging Face, GPT-NeoX)
  interleaved,  ///< channel 2i with 2i + 1 (Meta, GGUF "NORM")
};

/// A rotary position embedding: channel pair i turns by position * scale * theta^(-2i/rotary_dim).
struct Rope {
  double theta = 10000.0;  ///< base; 0 means that the model has no rotary embedding
  RopePairing pairing = RopePairing::half_split;
  std::size_t rotary_dim = 0;                 ///< leading channels that turn; 0 means the whole key
  double scale = 1.0;                         ///< linear position scaling: 1/4 for a context stretched four times
  const double* frequency_factors = nullptr;  ///< optional divisors per pair (Llama 3.1), rotary_dim/2 of them; a cache keeps a copy
};

/// The form in which keys and queries enter the cache.
enum class KeyForm { rotated, unrotated };
/// What the values of both enumerations are called in saved caches, in their order.
constexpr auto names_of(RopePairing) noexcept { return std::array{"half_split", "interleaved"}; }
constexpr auto names_of(KeyForm) noexcept { return std::array{"rotated", "unrotated"}; }

/// Sizes of a cache. `key_dim` and `value_dim` default to `head_dim`.
struct Shape {
  std::size_t layers = 1;
  std::size_t query_heads = 1;
  std::size_t kv_heads = 1;
  std::size_t head_dim = 128;
  std::size_t key_dim = 0;
  std::size_t value_dim = 0;
  KeyForm keys = KeyForm::rotated;
  Rope rope{};

  [[nodiscard]] std::size_t key_width() const noexcept { return key_dim != 0 ? key_dim : head_dim; }
  [[nodiscard]] std::size_t value_width() const noexcept { return value_dim != 0 ? value_dim : head_dim; }
  /// Query heads that share one KV head (GQA group).
  [[nodiscard]] std::size_t group() const noexcept { return query_heads / kv_heads; }
  /// Pairs of channels that the rotary embedding turns.
  [[nodiscard]] std::size_t rotary_pairs() const noexcept {
    return rope.theta == 0.0 ? 0 : (rope.rotary_dim != 0 ? rope.rotary_dim : key_width()) / 2;
  }
  /// Numbers that one token adds to the cache.
  [[nodiscard]] std::size_t values_per_token() const noexcept { return layers * kv_heads * (key_width() + value_width()); }

  void validate() const {
    const auto positive = [](const char* name, std::size_t value) {
      require(value > 0, ErrorCode::shape, "shape.", name, " is 0, must be at least 1");
    };
    positive("layers", layers);
    positive("query_heads", query_heads);
    positive("kv_heads", kv_heads);
    positive("head_dim", head_dim);
    require(query_heads % kv_heads == 0, ErrorCode::shape, "shape.query_heads is ", query_heads,
            ", must be a multiple of shape.kv_heads = ", kv_heads);
    require(rope.theta >= 0.0, ErrorCode::shape, "shape.rope.theta is ", rope.theta, ", must not be negative");
    require(rope.rotary_dim <= key_width() && rope.rotary_dim % 2 == 0, ErrorCode::shape, "shape.rope.rotary_dim is ", rope.rotary_dim,
            ", must be even and at most the key width ", key_width());
    require(rope.theta == 0.0 || rope.rotary_dim != 0 || key_width() % 2 == 0, ErrorCode::shape, "the key width is ", key_width(),
            ", must be even for a rotary embedding over the whole key");
  }
};

}  // namespace kvcompress
