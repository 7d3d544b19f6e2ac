// include/kvcompress/core/shape.hpp - what a model's cache looks like: layers, heads, dimensions, rotary embedding.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
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
  std::size_t rotary_dim = 0;  ///< leading channels that turn, even, at most the key width; 0 means the whole key
  double scale = 1.0;          ///< linear position scaling, 1e-9 to 1e9: 1/4 for a context stretched four times
  double magnitude = 1.0;      ///< factor on the channels that turn, of queries and of keys, 0.01 to 100: YaRN's and LongRoPE's attention
                               ///< factor; other than 1 only where keys come unrotated, rotated ones have it already
  const double* frequency_factors = nullptr;  ///< optional divisors per pair (Llama 3.1), at least 1e-9; a cache keeps a copy
};

/// The form in which keys and queries enter the cache.
enum class KeyForm { rotated, unrotated };
/// What the values of both enumerations are called in saved caches, in their order.
constexpr auto names_of(RopePairing) noexcept { return std::array{"half_split", "interleaved"}; }
constexpr auto names_of(KeyForm) noexcept { return std::array{"rotated", "unrotated"}; }

/// Sizes of a cache. `key_dim` and `value_dim` default to `head_dim`. Layers, heads and widths: 1 to `most` each; at most `most_lanes` lanes,
/// the numbers that one token adds at most `most_values`, so that no number of bytes of up to `most_rows` rows overflows.
///
/// Layers that differ have a shape each (Gemma's local layers beside full ones, Gemma 3n's that read the rows of others):
///
///     std::vector<Shape> each(26, {.layers = 26, .query_heads = 4, .kv_heads = 1, .head_dim = 256, .rope = {.theta = 1e6}});
///     each[0].window = 512, each[0].rope.theta = 1e4;
///     KVCache<Combine<Windowed, Kivi<4>>> cache({.layers = 26, .each = each.data()});
struct Shape {
  static constexpr std::size_t most = 1U << 16U;
  static constexpr std::size_t most_lanes = 1U << 20U;
  static constexpr std::size_t most_values = 1U << 28U;
  static constexpr std::size_t own_rows = static_cast<std::size_t>(-1);

  std::size_t layers = 1;
  std::size_t query_heads = 1;
  std::size_t kv_heads = 1;
  std::size_t head_dim = 128;
  std::size_t key_dim = 0;
  std::size_t value_dim = 0;
  KeyForm keys = KeyForm::rotated;
  Rope rope{};
  /// A query sees the rows less than this far behind it, and those that no later one sees leave at a commit: 1 to 2^31, or 0 for all rows.
  std::size_t window = 0;
  /// In `each`: the earlier layer whose rows this one reads, of the same sizes and rope; nothing is appended to it.
  std::size_t store_of = own_rows;
  /// One shape for every layer, each with the same `layers` and `keys` as this one, of which nothing else is read then; null: all are alike.
  /// A cache keeps a copy.
  const Shape* each = nullptr;

  /// The shape of a layer.
  [[nodiscard]] const Shape& of(std::size_t layer) const noexcept { return each == nullptr ? *this : each[layer]; }
  /// How many layers are to be looked at to see every shape there is.
  [[nodiscard]] std::size_t kinds() const noexcept { return each == nullptr ? 1 : layers; }
  [[nodiscard]] std::size_t key_width() const noexcept { return key_dim != 0 ? key_dim : head_dim; }
  [[nodiscard]] std::size_t value_width() const noexcept { return value_dim != 0 ? value_dim : head_dim; }
  /// Query heads that share one KV head (GQA group).
  [[nodiscard]] std::size_t group() const noexcept { return query_heads / kv_heads; }
  /// Pairs of channels that the rotary embedding turns.
  [[nodiscard]] std::size_t rotary_pairs() const noexcept {
    return rope.theta == 0.0 ? 0 : (rope.rotary_dim != 0 ? rope.rotary_dim : key_width()) / 2;
  }
  /// The sum of count(shape) over the layers before `end`: what lies before it in an array over layers.
  [[nodiscard]] std::size_t sum_before(std::size_t end, auto&& count) const {
    if (each == nullptr) { return end * count(*this); }
    std::size_t sum = 0;
    for (std::size_t layer = 0; layer < end; ++layer) { sum += count(each[layer]); }
    return sum;
  }
  [[nodiscard]] std::size_t sum(auto&& count) const { return sum_before(layers, count); }
  /// KV heads of all layers.
  [[nodiscard]] std::size_t lanes() const noexcept {
    return sum([](const Shape& layer) { return layer.kv_heads; });
  }
  /// The layer whose rows a layer reads: its own, or those of another.
  [[nodiscard]] std::size_t store(std::size_t layer) const noexcept {
    return each == nullptr || each[layer].store_of == own_rows ? layer : each[layer].store_of;
  }
  /// Whether a layer has rows of its own.
  [[nodiscard]] bool owns(std::size_t layer) const noexcept { return store(layer) == layer; }
  /// Layers that read the rows of a layer that owns some, itself among them, and the last of them.
  [[nodiscard]] std::size_t readers(std::size_t layer) const noexcept {
    std::size_t count = 1;
    for (std::size_t other = layer + 1; each != nullptr && other < layers; ++other) { count += store(other) == layer ? 1U : 0U; }
    return count;
  }
  [[nodiscard]] std::size_t last_reader(std::size_t layer) const noexcept {
    std::size_t last = layer;
    for (std::size_t other = layer + 1; each != nullptr && other < layers; ++other) { last = store(other) == layer ? other : last; }
    return last;
  }
  /// How far behind a query of any of them a row may be seen: the widest window, or 0 where one sees all.
  [[nodiscard]] std::size_t widest_window(std::size_t layer) const noexcept {
    std::size_t widest = of(layer).window;
    for (std::size_t other = layer + 1; each != nullptr && other < layers; ++other) {
      if (store(other) == layer) { widest = widest == 0 || each[other].window == 0 ? 0 : std::max(widest, each[other].window); }
    }
    return widest;
  }
  /// Numbers that one token adds to the cache.
  [[nodiscard]] std::size_t values_per_token() const noexcept {
    return sum(
        [](const Shape& layer) { return layer.store_of != own_rows ? 0 : layer.kv_heads * (layer.key_width() + layer.value_width()); });
  }

  void validate() const {
    check_size("layers", layers);
    check_named("shape.keys", keys);
    if (each == nullptr) {
      require(store_of == own_rows, ErrorCode::shape, "shape.store_of is ", store_of, ", must be given in shape.each alone");
      check_layer();
    }
    for (std::size_t layer = 0; each != nullptr && layer < layers; ++layer) { check_each(layer); }
    require(lanes() <= most_lanes, ErrorCode::shape, "shape.layers * shape.kv_heads is ", lanes(), ", must be at most ", most_lanes);
    require(values_per_token() <= most_values, ErrorCode::shape, "shape.layers * shape.kv_heads * (the key width + the value width) is ",
            values_per_token(), ", must be at most ", most_values);
  }

 private:
  static void check_size(const char* name, std::size_t value) {
    require(value > 0, ErrorCode::shape, "shape.", name, " is 0, must be at least 1");
    require(value <= most, ErrorCode::shape, "shape.", name, " is ", value, ", must be at most ", most);
  }
  /// One of `each`.
  void check_each(std::size_t layer) const {
    const Shape& own = each[layer];
    require(own.layers == layers, ErrorCode::shape, "shape.each[", layer, "].layers is ", own.layers, ", must be shape.layers = ", layers);
    require(own.keys == keys, ErrorCode::shape, "shape.each[", layer, "].keys is ",
            names_of(KeyForm{})[own.keys == KeyForm::rotated ? 0 : 1], ", must be that of shape");
    require(own.each == nullptr, ErrorCode::shape, "shape.each[", layer, "].each is given, must be null");
    own.check_layer();
    if (own.store_of == own_rows) { return; }
    require(own.store_of < layer, ErrorCode::shape, "shape.each[", layer, "].store_of is ", own.store_of,
            ", must be an earlier layer, less than ", layer);
    const Shape& from = each[own.store_of];
    require(from.store_of == own_rows, ErrorCode::shape, "shape.each[", layer, "].store_of is ", own.store_of,
            ", must be a layer with rows of its own, which that one reads from layer ", from.store_of);
    const auto equal = [&](const char* name, std::size_t here, std::size_t there) {
      require(here == there, ErrorCode::shape, "shape.each[", layer, "].", name, " is ", here, ", must be that of layer ", own.store_of,
              ", whose rows it reads: ", there);
    };
    equal("query_heads", own.query_heads, from.query_heads);
    equal("kv_heads", own.kv_heads, from.kv_heads);
    equal("key width", own.key_width(), from.key_width());
    equal("value width", own.value_width(), from.value_width());
    require(own.turns_like(from), ErrorCode::shape, "shape.each[", layer, "].rope differs from that of layer ", own.store_of,
            ", must be the same: it reads its rows");
  }
  /// What a layer has.
  void check_layer() const {
    check_size("query_heads", query_heads);
    check_size("kv_heads", kv_heads);
    check_size("head_dim", head_dim);
    check_size("key_dim", key_width());
    check_size("value_dim", value_width());
    require(query_heads % kv_heads == 0, ErrorCode::shape, "shape.query_heads is ", query_heads,
            ", must be a multiple of shape.kv_heads = ", kv_heads);
    require(window <= (std::size_t{1} << 31U), ErrorCode::shape, "shape.window is ", window, ", must be at most ", std::size_t{1} << 31U);
    check_rope();
  }

 public:
  /// Whether its rotary embedding is that of another shape.
  [[nodiscard]] bool turns_like(const Shape& other) const noexcept {
    const Rope& a = rope;
    const Rope& b = other.rope;
    if (rotary_pairs() != other.rotary_pairs()) { return false; }
    if (rotary_pairs() == 0) { return true; }
    if (a.theta != b.theta || a.pairing != b.pairing || a.scale != b.scale || a.magnitude != b.magnitude) { return false; }
    for (std::size_t i = 0; i < rotary_pairs(); ++i) {
      const auto factor = [i](const Rope& one) { return one.frequency_factors == nullptr ? 1.0 : one.frequency_factors[i]; };
      if (factor(a) != factor(b)) { return false; }
    }
    return true;
  }

 private:
  static bool between(double x, double least, double most_of_it) noexcept { return x >= least && x <= most_of_it; }  // false for NaN
  void check_rope() const {
    require(rope.theta == 0.0 || between(rope.theta, 1.0, 1e300), ErrorCode::shape, "shape.rope.theta is ", rope.theta,
            ", must be 1 to 1e300, or 0 for no rotary embedding");
    check_named("shape.rope.pairing", rope.pairing);
    require(between(rope.scale, 1e-9, 1e9), ErrorCode::shape, "shape.rope.scale is ", rope.scale, ", must be 1e-9 to 1e9");
    require(between(rope.magnitude, 0.01, 100.0) && (rope.magnitude == 1.0 || (keys == KeyForm::unrotated && rope.theta != 0.0)),
            ErrorCode::shape, "shape.rope.magnitude is ", rope.magnitude, ", must be 0.01 to 100, and 1 where the cache turns no keys");
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
