// examples/dispatch/attention.cpp - compiled once for each instruction set, each time under another name: KVCOMPRESS_VARIANT.
// SPDX-License-Identifier: MIT
#include "dispatch/attention.hpp"

#include "kvcompress/kvcompress.hpp"

namespace {

using namespace kvcompress;
using Cache = KVCache<Kivi<4>>;

Cache& of(void* cache) { return *static_cast<Cache*>(cache); }
Rows rows(const Cache& cache, const float* data, std::size_t tokens, std::size_t heads) {
  return Rows::tokens_first(data, tokens, heads, cache.shape().head_dim);
}

}  // namespace

const AttentionVariant KVCOMPRESS_VARIANT{
    .backend = simd::backend,
    .create = [](std::size_t query_heads, std::size_t kv_heads, std::size_t head_dim) -> void* {
      return new Cache({.query_heads = query_heads, .kv_heads = kv_heads, .head_dim = head_dim});
    },
    .append =
        [](void* cache, const float* keys, const float* values, std::size_t tokens) {
  const std::size_t heads = of(cache).shape().kv_heads;
  of(cache).append(0, rows(of(cache), keys, tokens, heads), rows(of(cache), values, tokens, heads));
    },
    .end_prompt = [](void* cache) { of(cache).end_prompt(0); },
    .attend =
        [](void* cache, const float* queries, float* out) {
  const Shape& shape = of(cache).shape();
  of(cache).attend(0, rows(of(cache), queries, 1, shape.query_heads), Output::tokens_first(out, 1, shape.query_heads, shape.head_dim));
    },
    .destroy = [](void* cache) { delete static_cast<Cache*>(cache); },
    };
