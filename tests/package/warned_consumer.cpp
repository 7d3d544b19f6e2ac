// tests/package/warned_consumer.cpp - a program outside the project, compiled with warnings: templates are warned about where they are used.
// SPDX-License-Identifier: MIT
#include <kvcompress/kvcompress.hpp>
#include <vector>

using namespace kvcompress;

int main() {
  const Shape shape{.query_heads = 2, .kv_heads = 2, .head_dim = 16};
  KVCache<Combine<H2O, Kivi<4>>> cache(shape);
  const std::vector<float> rows(100 * 2 * 16, 0.5F);
  std::vector<float> out(rows.size());
  cache.append(0, Rows::tokens_first(rows.data(), 100, 2, 16), Rows::tokens_first(rows.data(), 100, 2, 16));
  cache.attend(0, Rows::tokens_first(rows.data(), 100, 2, 16), Output::tokens_first(out.data(), 100, 2, 16));
  cache.end_prompt(0);
  return cache.tokens() == 100 ? 0 : 1;
}
