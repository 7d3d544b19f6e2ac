// examples/own_policy.cpp - a policy of your own, combined with KIVI and chosen by name; the README shows this program.
// SPDX-License-Identifier: MIT
#include <kvcompress/kvcompress.hpp>
#include <kvcompress/registry.hpp>

#include <cstdio>
#include <vector>
using namespace kvcompress;

/// Keeps the newest rows and those with the shortest keys, which tend to be attended most ("A Simple and Effective L2 Norm-Based
/// Strategy for KV Cache Compression").
struct ShortKeys : ScoredRows {
  static constexpr std::string_view name = "short_keys";
  static void observe_row(const Options&, State& state, std::size_t row, std::span<const float> key, std::span<const float> /*value*/) {
    float length = 0.0F;
    for (const float x : key) { length += x * x; }
    state.set(row, 0, -length);
  }
};
struct ShortKeysPolicy {
  using Eviction = Evict<ShortKeys>;  // keeps the best rows up to a budget; see eviction/evict.hpp for allocators and selectors
};

int main() {
  Registry registry;
  registry.add<ShortKeysPolicy>("short_keys");
  registry.add<Kivi<4>>("kivi4");
  AnyCache cache = registry.make("short_keys:budget=200,recent=16+kivi4:residual=32", {.query_heads = 8, .kv_heads = 2, .head_dim = 64});
  std::vector<float> rows(500 * 2 * 64, 0.5F);
  cache.append(0, Rows::tokens_first(rows.data(), 500, 2, 64), Rows::tokens_first(rows.data(), 500, 2, 64));
  cache.end_prompt(0);
  std::printf("%zu of %zu rows kept\n", cache.kept(0, 0).size(), cache.tokens(0));
}
