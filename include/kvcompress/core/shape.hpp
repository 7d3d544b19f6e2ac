// include/kvcompress/core/shape.hpp - what a model's cache looks like: layers, heads, dimensions, rotary embedding.
// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "kvcompress/core/bounds.hpp"
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
  double theta = 10000.0;  ///< base, at least 1; 0 means that the model has no rotary embedding, and the rest must be left as it is
  RopePairing pairing = RopePairing::half_split;
  std::size_t rotary_dim = 0;                 ///< leading channels that turn, even, at most the key width; 0 means the whole key
  double scale = 1.0;                         ///< linear position scaling, 1e-9 to 1e9: 1/4 for a context stretched four times
  const double* frequency_factors = nullptr;  ///< optional divisors per pair (Llama 3.1), at least 1e-9; a cache keeps a copy
};

/// The form in which keys and queries enter the cache.
enum class KeyForm { rotated, unrotated };
/// What the values of both enumerations are called in saved caches, in their order.
constexpr auto names_of(RopePairing) noexcept { return std::array{"half_split", "interleaved"}; }
constexpr auto names_of(KeyForm) noexcept { return std::array{"rotated", "unrotated"}; }

/// Sizes of a cache. `key_dim` and `value_dim` default to `head_dim`. Layers, heads and widths: 1 to `most` each; layers * kv_heads at most
/// `most_lanes`, the numbers that one token adds at most `most_values`, so that no number of bytes of up to `most_rows` rows overflows.
struct Shape {
  static constexpr std::size_t most = 1U << 16U;
  static constexpr std::size_t most_lanes = 1U << 20U;
  static constexpr std::size_t most_values = 1U << 28U;

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
    const auto check = [](const char* name, std::size_t value) {
      require(value > 0, ErrorCode::shape, "shape.", name, " is 0, must be at least 1");
      require(value <= most, ErrorCode::shape, "shape.", name, " is ", value, ", must be at most ", most);
    };
    check("layers", layers);
    check("query_heads", query_heads);
    check("kv_heads", kv_heads);
    check("head_dim", head_dim);
    check("key_dim", key_width());
    check("value_dim", value_width());
    require(layers * kv_heads <= most_lanes, ErrorCode::shape, "shape.layers * shape.kv_heads is ", layers * kv_heads, ", must be at most ",
            most_lanes);
    require(values_per_token() <= most_values, ErrorCode::shape, "shape.layers * shape.kv_heads * (the key width + the value width) is ",
            values_per_token(), ", must be at most ", most_values);
    require(query_heads % kv_heads == 0, ErrorCode::shape, "shape.query_heads is ", query_heads,
            ", must be a multiple of shape.kv_heads = ", kv_heads);
    check_named("shape.keys", keys);
    check_rope();
  }

 private:
  static bool between(double x, double least, double most_of_it) noexcept { return x >= least && x <= most_of_it; }  // false for NaN
  void check_rope() const {
    require(rope.theta == 0.0 || between(rope.theta, 1.0, 1e300), ErrorCode::shape, "shape.rope.theta is ", rope.theta,
            ", must be 1 to 1e300, or 0 for no rotary embedding");
    check_named("shape.rope.pairing", rope.pairing);
    require(between(rope.scale, 1e-9, 1e9), ErrorCode::shape, "shape.rope.scale is ", rope.scale, ", must be 1e-9 to 1e9");
    require(rope.rotary_dim <= key_width() && rope.rotary_dim % 2 == 0, ErrorCode::shape, "shape.rope.rotary_dim is ", rope.rotary_dim,
            ", must be even and at most the key width ", key_width());
    require(rope.theta == 0.0 || rope.rotary_dim != 0 || key_width() % 2 == 0, ErrorCode::shape, "the key width is ", key_width(),
            ", must be even for a rotary embedding over the whole key");
    require(rope.theta != 0.0 || (rope.rotary_dim == 0 && rope.scale == 1.0 && rope.frequency_factors == nullptr), ErrorCode::shape,
            "shape.rope.theta is 0, must be at least 1 where shape.rope.rotary_dim, scale or frequency_factors are given");
    for (std::size_t i = 0; rope.frequency_factors != nullptr && i < (rope.rotary_dim != 0 ? rope.rotary_dim : key_width()) / 2; ++i) {
      require(between(rope.frequency_factors[i], 1e-9, 1e300), ErrorCode::shape, "shape.rope.frequency_factors[", i, "] is ",
              rope.frequency_factors[i], ", must be 1e-9 to 1e300");
    }
  }
};

}  // namespace kvcompress
