// tests/low_rank/xkv_caches.hpp - small caches of xKV over random texts, the oldest rows of which are a prompt.
// SPDX-License-Identifier: MIT
#pragma once

#include <vector>

#include "kvcompress/policies/xkv.hpp"
#include "support/random_matrix.hpp"
#include "support/random_rows.hpp"

namespace kvcompress::test::xkv {

using reference::Index;
using reference::Matrix;
using Cache = KVCache<XKV<float>>;

inline constexpr std::size_t prompt = 90;
inline constexpr std::size_t dim = 8;
inline constexpr auto exact = low_rank::Factorisation::exact;

inline Shape shape_of(std::size_t layers) {
  return {.layers = layers, .query_heads = 4, .kv_heads = 2, .head_dim = dim, .keys = KeyForm::unrotated};
}
inline Index index(std::size_t n) { return static_cast<Index>(n); }

/// One text per layer, keys before their rotary embedding.
inline std::vector<Text> random_texts(std::size_t layers, std::size_t tokens, unsigned seed) {
  std::vector<Text> texts;
  for (std::size_t l = 0; l < layers; ++l) { texts.emplace_back(shape_of(layers), tokens, seed + static_cast<unsigned>(l)); }
  return texts;
}
inline void end_prompt(Cache& cache) {
  for (std::size_t layer = 0; layer < cache.shape().layers; ++layer) { cache.end_prompt(layer); }
}
inline Cache prompted(const std::vector<Text>& texts, const SharedBasisOptions& options, const Memory& memory = {}) {
  Cache cache(shape_of(texts.size()), {.storage = options}, memory);
  for (std::size_t layer = 0; layer < texts.size(); ++layer) {
    cache.append(layer, texts[layer].key_rows(0, prompt), texts[layer].value_rows(0, prompt));
  }
  end_prompt(cache);
  return cache;
}

/// A lane's rows as the cache decodes them; keys turned back.

}  // namespace kvcompress::test::xkv
