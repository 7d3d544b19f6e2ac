// include/kvcompress/policies/xkv.hpp - xKV: keys and values of a group of layers in one low-rank token basis.
// SPDX-License-Identifier: MIT
#pragma once

#include <type_traits>

#include "kvcompress/low_rank/latents.hpp"
#include "kvcompress/low_rank/shared_basis.hpp"
#include "kvcompress/policies/combine.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// xKV's storage; see XKV.
template <class T, class F = T>
struct SharedBasisStorage {
  using Keys = SharedBasisKeys<T, F>;
  using Values = SharedBasisValues<T>;
  using Options = SharedBasisOptions;

  static RowRange layers_with(const Options& options, const Shape& shape, std::size_t layer) noexcept {
    return options.group_of(shape.layers, layer);
  }
  static void validate(const Options& options) {
    require(options.layers_per_group > 0, ErrorCode::option, "xkv: layers_per_group is 0, must be at least 1");
    require(options.first_layer <= options.last_layer, ErrorCode::option, "xkv: first_layer is ", options.first_layer,
            ", must be at most last_layer = ", options.last_layer);
    check_bounds("xkv: rank_keys", options.rank_keys);
    check_bounds("xkv: rank_values", options.rank_values);
    check_bounds("xkv: fold_in", options.fold_in);
    check_named("xkv: factorisation", options.factorisation);
  }
};

/// "xKV: Cross-Layer SVD for KV-Cache Compression"; abdelfattah-lab/xKV@bfe5d7201a09. At the end of a prompt the keys (before their rotary
/// embedding) of all heads of a group of layers, side by side, become one matrix of low rank: per token one row of a basis that all of
/// them share, per lane its coefficients; values likewise. The factorisation happens when the last layer of a group ends its prompt, so
/// the exact rows of a group are alive together. Rows decoded later stay exact. T (half, bfloat16, float) holds the values' factors and
/// exact rows, F the keys' factors: bfloat16 beside 16-bit rows, as in the official code, which hardware multiplies two at a time.
/// Deviations: the official code multiplies the factors back; here attention works on them: values by (p A) B, keys multiplied out and
/// rotated in tiles. fold_in is ours. Selective reconstruction, which the paper names and the code lacks, is `Combine<XKV<>, Landmarks>`
/// (our reading) or `Combine<XKV<>, Quest>`. For multi-head latent attention there is XKVLatents.
///
/// Keeps: every row. Observes: nothing. Loses: what is outside the best subspace of that rank (Eckart-Young). Bytes per group of C channels:
/// (rank_keys + rank_values) * (tokens + C) * sizeof(T), and the decoded rows. Reading is dearer than the bytes say: every layer reads the
/// whole basis, keys cost 2 * rank * dim operations per row.
/// A later end_prompt leaves its rows exact, as decoded ones. Evicted rows go in whole blocks of 128.
template <class T = half, class F = std::conditional_t<sizeof(T) == 2, bfloat16, T>>
struct XKV {
  using Storage = SharedBasisStorage<T, F>;
};

/// The storage of XKVLatents.
template <class T>
struct LatentStorage {
  using Keys = LatentRows<T>;
  using Values = LatentValues<T>;
  using Options = LatentOptions;

  static RowRange layers_with(const Options& options, const Shape& shape, std::size_t layer) noexcept {
    return options.group_of(shape.layers, layer);
  }
  static void validate(const Options& options) {
    SharedBasisStorage<T>::validate(options);
    require(options.latent > 0, ErrorCode::option, "xkv: latent is 0, must be the width of a latent");
  }
  static void validate_shape(const Options& options, const Shape& model) {
    for (std::size_t layer = 0; layer < model.kinds(); ++layer) { validate_layer(options, model.of(layer)); }
  }
  static void validate_layer(const Options& options, const Shape& shape) {
    require(shape.kv_heads == 1, ErrorCode::shape, "xkv: shape.kv_heads is ", shape.kv_heads, ", must be 1: latents are one head");
    require(options.latent <= shape.key_width(), ErrorCode::option, "xkv: latent is ", options.latent, ", must be at most the key width ",
            shape.key_width());
    require(shape.value_width() == options.latent, ErrorCode::shape, "xkv: the value width is ", shape.value_width(),
            ", must be latent = ", options.latent);
    require(shape.rope.theta == 0.0 || shape.keys == KeyForm::rotated, ErrorCode::shape, "xkv: shape.rope.theta is ", shape.rope.theta,
            ", must be 0 where keys come unrotated: rows hold keys and values at once");
  }
};

/// xKV over the latents of multi-head latent attention (DeepSeek): kv_heads = 1, a key is [latent, decoupled rotary key], a value is the
/// latent itself (value_dim = latent; append reads it from the key and ignores `values`, for which the leading channels of the keys will
/// do). Queries come absorbed: [W_uk^T q, rotary query]. The latent is held as it comes, before its norm in the official code; the rotary
/// key is exact. The cache must not rotate: rope.theta = 0, or KeyForm::rotated without in-cache positions.
/// Bytes per group of C latent channels: rank * (tokens + C) * sizeof(T), and the rotary keys. Attention multiplies nothing out.
template <class T = half>
struct XKVLatents {
  using Storage = LatentStorage<T>;
};

}  // namespace kvcompress
