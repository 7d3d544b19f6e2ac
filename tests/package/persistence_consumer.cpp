// tests/package/persistence_consumer.cpp - a program outside the project that saves a cache and loads it into another.
// SPDX-License-Identifier: MIT
#include <kvcompress/kvcompress.hpp>
#include <kvcompress/persistence/streams.hpp>

#include <sstream>
#include <vector>

using namespace kvcompress;

int main() {
  const Shape shape{.query_heads = 2, .kv_heads = 2, .head_dim = 16};
  KVCache<StreamingLLM> cache(shape);
  const std::vector<float> rows(100 * 2 * 16, 0.5F);
  cache.append(0, Rows::tokens_first(rows.data(), 100, 2, 16), Rows::tokens_first(rows.data(), 100, 2, 16));
  std::stringstream file;
  save(cache, sink(file));
  KVCache<StreamingLLM> again(shape);
  load(again, source(file));
  return again.tokens() == 100 ? 0 : 1;
}
