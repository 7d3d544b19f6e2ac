// bench/competitors/policies.cpp - our policies that are measured, and caches made of them.
// SPDX-License-Identifier: MIT
#include "competitors/policies.hpp"

#include <algorithm>

#include "registry/registry.hpp"
#include "runner/definition.hpp"

namespace bench {

using kvcompress::AnyCache;

const std::vector<Policy>& policies() {
  static const std::vector<Policy> all = {
      {.name = "f32", .spec = "f32", .reserves = true},
      {.name = "f16", .spec = "f16", .reserves = true},
      {.name = "kivi8", .spec = "kivi8", .reserves = true},
      {.name = "kivi4", .spec = "kivi4", .reserves = true},
      {.name = "kivi2", .spec = "kivi2", .reserves = true},
      {.name = "kivi4_fast", .spec = "kivi4:accumulation=fast", .tolerance = 5e-2, .reserves = true},
      {.name = "kivi2_fast", .spec = "kivi2:accumulation=fast", .tolerance = 5e-2, .reserves = true},
      {.name = "kivi4_g64", .spec = "kivi4:group=64", .reserves = true},
      {.name = "rot4", .spec = "rot4", .reserves = true},
      {.name = "lm4", .spec = "lm4", .reserves = true},
      {.name = "q8_0", .spec = "q8_0", .reserves = true},
      {.name = "q4_0", .spec = "q4_0", .reserves = true},
      {.name = "nvfp4", .spec = "nvfp4", .reserves = true},
      {.name = "gear4", .spec = "gear4"},  // rank 4, 2 % outliers
      {.name = "gear4_fast", .spec = "gear4:accumulation=fast", .tolerance = 5e-2},
      {.name = "streaming1024", .spec = "streaming:sinks=4,window=1020,in_cache_positions=false", .shortest = 2048},
      {.name = "h2o1024", .spec = "h2o:budget=1024", .shortest = 2048, .observes = true},
      {.name = "h2o1024+kivi4", .spec = "h2o:budget=1024+kivi4", .shortest = 2048, .observes = true},
      {.name = "snapkv1024", .spec = "snapkv:budget=1024", .shortest = 2048, .observes = true},
      {.name = "quest2048", .spec = "quest:budget=2048,dense_layers=0", .reads = Reads::pages, .shortest = 4096, .reserves = true},
      {.name = "quest2048+kivi4",
       .spec = "quest:budget=2048,dense_layers=0+kivi4",
       .reads = Reads::pages,
       .shortest = 4096,
       .reserves = true},
      {.name = "shadowkv2048_hits", .spec = "shadowkv:budget=2048", .reads = Reads::chunks, .shortest = 4096},
      {.name = "shadowkv2048_drift", .spec = "shadowkv:budget=2048", .reads = Reads::chunks, .shortest = 4096, .turn = 0.36},
      {.name = "shadowkv2048_misses", .spec = "shadowkv:budget=2048,reuse=false", .reads = Reads::chunks, .shortest = 4096},
      {.name = "xkv", .spec = "xkv", .reads = Reads::basis, .shortest = 4096, .longest = 16384, .layers = 4},
  };
  return all;
}

const Policy& policy(std::string_view name) {
  return *std::find_if(policies().begin(), policies().end(), [&](const Policy& one) { return one.name == name; });
}

AnyCache make_cache(const Policy& policy, const Case& c, const kvcompress::Memory& memory) {
  return examples::registry().make(
      policy.spec, {.layers = policy.layers, .query_heads = c.query_heads, .kv_heads = c.kv_heads, .head_dim = c.head_dim}, memory);
}

void append(AnyCache& cache, const Data& data, std::size_t layer, std::size_t first, std::size_t count, bool attend) {
  using namespace kvcompress;
  const Case& c = data.of();
  const std::vector<float> keys = data.keys(layer, first, count);
  const std::vector<float> values = data.values(layer, first, count);
  cache.append(layer, Rows::tokens_first(keys.data(), count, c.kv_heads, c.head_dim),
               Rows::tokens_first(values.data(), count, c.kv_heads, c.head_dim));
  if (!attend) { return; }
  const std::size_t seen = std::min<std::size_t>(count, 32);
  const std::vector<float> queries = data.queries(first + count - seen, seen);
  std::vector<float> out(queries.size());
  Workspace workspace(cache.shape());
  cache.attend(layer, Rows::tokens_first(queries.data(), seen, c.query_heads, c.head_dim),
               Output::tokens_first(out.data(), seen, c.query_heads, c.head_dim), workspace, {}, {});
}

void append_prompt(AnyCache& cache, const Policy& policy, const Data& data) {
  constexpr std::size_t at_once = 256;
  for (std::size_t layer = 0; layer < policy.layers; ++layer) {
    for (std::size_t t = 0; t < data.of().context; t += at_once) {
      const std::size_t count = std::min(at_once, data.of().context - t);
      append(cache, data, layer, t, count, policy.observes && t + count == data.of().context);
    }
  }
}

AnyCache compressed_prompt(const Policy& policy, const Data& data, const kvcompress::Memory& memory) {
  AnyCache cache = make_cache(policy, data.of(), memory);
  if (policy.reserves) { cache.reserve(data.of().context); }
  append_prompt(cache, policy, data);
  for (std::size_t layer = 0; layer < policy.layers; ++layer) { cache.end_prompt(layer); }
  for (std::size_t layer = 0; layer < policy.layers; ++layer) { append(cache, data, layer, data.of().context, 1); }
  return cache;
}

double error_of_attend(AnyCache& cache, const Data& data) {
  using namespace kvcompress;
  const Case& c = data.of();
  const std::vector<float> queries = data.queries(0, 1);
  std::vector<float> out(queries.size());
  Workspace workspace(cache.shape());
  cache.attend(0, Rows::tokens_first(queries.data(), 1, c.query_heads, c.head_dim),
               Output::tokens_first(out.data(), 1, c.query_heads, c.head_dim), workspace, {}, {});
  const std::size_t head = c.query_heads - 1;
  return relative_error({out.data() + head * c.head_dim, c.head_dim},
                        attention(queries.data() + head * c.head_dim, c.head_dim, [&](auto&& visit) {
                          const RowTable& table = cache.table(0, c.kv_heads - 1);
                          std::vector<float> row(2 * c.head_dim);
                          for (std::size_t r = 0; r < table.rows(); ++r) {
                            if (!table.alive(r)) { continue; }
                            cache.read(0, c.kv_heads - 1, r, row.data(), row.data() + c.head_dim);
                            visit(row.data(), row.data() + c.head_dim);
                          }
                        }));
}

std::size_t bytes_of_rows(const AnyCache& cache) {
  const kvcompress::MemoryReport memory = cache.memory();
  return memory.codes + memory.scales + memory.exact_rows + memory.factors + memory.outliers + memory.positions;
}

}  // namespace bench
