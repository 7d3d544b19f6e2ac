// examples/own_policy.cpp - a policy of your own, combined with KIVI and chosen by name; the README shows this program.
// SPDX-License-Identifier: MIT
#include <kvcompress/kvcompress.hpp>
#include <kvcompress/registry.hpp>

#include <cstdio>
#include <vector>
using namespace kvcompress;

/// Keeps the newest rows and those with the shortest keys, which tend to be attended most ("A Simple and Effective L2 Norm-Based
/// Strategy for KV Cache Compression").
struct ShortKeys : ScoredEviction {
  static constexpr std::string_view name = "short_keys";
  struct Options {
    std::size_t budget = 128;
    std::size_t recent = 32;
    static void fields(auto& options, auto&& field) { field("budget", options.budget), field("recent", options.recent); }
  };
  static void validate(const Options& o, const Shape&) {
    require(o.recent > 0 && o.recent <= o.budget, ErrorCode::option, "short_keys: recent is ", o.recent,
            ", must be 1 to budget = ", o.budget);
  }
  static void observe_row(const Options&, State& state, std::size_t row, std::span<const float> key, std::span<const float> /*value*/) {
    float length = 0.0F;
    for (const float x : key) { length += x * x; }
    state.set(row, 0, -length);
  }
  static void select(const Options& o, State& state, Selection& selection) {
    selection.keep_best(o.budget, o.recent, [&](std::size_t row) { return state.get(row, 0); });
  }
};
struct ShortKeysPolicy {
  using Eviction = ShortKeys;
};

int main() {
  Registry registry;
  registry.add<Combine<ShortKeysPolicy, Kivi<4>>>("short_keys", "kivi4");
  const auto cache = registry.make("short_keys:budget=200,recent=16+kivi4:residual=32", {.query_heads = 8, .kv_heads = 2, .head_dim = 64});
  std::vector<float> rows(500 * 2 * 64, 0.5F);
  cache->append(0, Rows::tokens_first(rows.data(), 500, 2, 64), Rows::tokens_first(rows.data(), 500, 2, 64));
  cache->end_prompt(0);
  std::printf("%zu of %zu rows kept\n", cache->kept(0, 0).size(), cache->tokens(0));
}
