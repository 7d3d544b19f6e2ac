// tests/package/low_rank_consumer.cpp - a program outside the project that uses the headers that need Eigen.
// SPDX-License-Identifier: MIT
#include <kvcompress/low_rank.hpp>
#include <kvcompress/reference/attention.hpp>

#include <cstddef>

using namespace kvcompress;

int main() {  // compiles no factorisation, which takes most of a minute
  const std::size_t bytes = KVCache<ShadowKV<>>::bytes_for({.query_heads = 2, .kv_heads = 2, .head_dim = 16}, 1000);
  return bytes > 0 && reference::Matrix::Identity(2, 2).trace() == 2.0 ? 0 : 1;
}
