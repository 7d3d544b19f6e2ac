// tests/package/low_rank_consumer.cpp - a program outside the project that uses the headers that need Eigen.
// SPDX-License-Identifier: MIT
#include <kvcompress/low_rank.hpp>
#include <kvcompress/reference/attention.hpp>

#include <vector>

using namespace kvcompress;

int main() {
  KVCache<ShadowKV<>> cache({.query_heads = 2, .kv_heads = 2, .head_dim = 16});
  const std::vector<float> rows(100 * 2 * 16, 0.5F);
  cache.append(0, Rows::tokens_first(rows.data(), 100, 2, 16), Rows::tokens_first(rows.data(), 100, 2, 16));
  cache.end_prompt(0);
  return cache.memory().slow_tier > 0 && reference::Matrix::Identity(2, 2).trace() == 2.0 ? 0 : 1;
}
