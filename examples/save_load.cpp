// examples/save_load.cpp - a compressed prompt that is saved once and loaded by whoever goes on from it; the README shows this program.
// SPDX-License-Identifier: MIT
#include <kvcompress/kvcompress.hpp>
#include <kvcompress/persistence/streams.hpp>

#include <cstdio>
#include <fstream>
#include <vector>
using namespace kvcompress;

int main() {
  const Shape shape{.query_heads = 8, .kv_heads = 2, .head_dim = 64};
  KVCache<Kivi<4>> cache(shape);
  const std::vector<float> rows(900 * 2 * 64, 0.5F);  // your engine's numbers
  cache.append(0, Rows::tokens_first(rows.data(), 900, 2, 64), Rows::tokens_first(rows.data(), 900, 2, 64));
  cache.end_prompt(0);
  std::ofstream out("prompt.kvcache", std::ios::binary);
  save(cache, sink(out));
  out.close();

  KVCache<Kivi<4>> again(shape);
  std::ifstream in("prompt.kvcache", std::ios::binary);
  load(again, source(in));
  std::printf("%zu tokens loaded, %zu bytes held\n", again.tokens(), again.memory().total());
  KVCache<Kivi<2>> other(shape);
  try {
    in.seekg(0);
    load(other, source(in));
  } catch (const Error& error) {
    std::puts(error.what());  // kvcompress: load: policy.keys.bits is 4 in the file, 2 here
  }
}
