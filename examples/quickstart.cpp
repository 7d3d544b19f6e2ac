// examples/quickstart.cpp - a prompt and one more token through a compressed cache; the README shows this program.
// SPDX-License-Identifier: MIT
#include <kvcompress/kvcompress.hpp>

#include <cstdio>
#include <vector>
using namespace kvcompress;

int main() {
  KVCache<Combine<SnapKV, Kivi<4>>> cache({.layers = 2, .query_heads = 8, .kv_heads = 2, .head_dim = 64}, {.eviction = {.budget = 256}});
  std::vector<float> q(900 * 8 * 64, 0.1F), k(900 * 2 * 64, 0.2F), v(900 * 2 * 64, 0.3F), out(900 * 8 * 64);  // your engine's numbers
  const auto step = [&](std::size_t layer, std::size_t tokens) {
    cache.append(layer, Rows::tokens_first(k.data(), tokens, 2, 64), Rows::tokens_first(v.data(), tokens, 2, 64));
    cache.attend(layer, Rows::tokens_first(q.data(), tokens, 8, 64), Output::tokens_first(out.data(), tokens, 8, 64));
  };
  for (std::size_t layer = 0; layer < 2; ++layer) {
    step(layer, 900);         // the prompt, exact
    cache.end_prompt(layer);  // now it is compressed
    step(layer, 1);           // decoding, on the compressed form
  }
  std::printf("%zu tokens in %.2f bits per value\n", cache.tokens(), cache.bits_per_value());
}
