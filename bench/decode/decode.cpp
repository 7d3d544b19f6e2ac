// bench/decode/decode.cpp - one decode step of one layer: attend over a compressed prompt, verified before it is timed.
// SPDX-License-Identifier: MIT
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "kvcompress/kvcompress.hpp"

namespace {

using namespace kvcompress;

constexpr std::size_t head_dim = 128;
constexpr std::size_t kv_heads = 8;
constexpr std::size_t query_heads = 32;

std::vector<float> gaussian(std::size_t count, unsigned seed) {
  std::mt19937 rng(seed);  // fixed seed: every run reads the same numbers
  std::normal_distribution<float> normal;
  std::vector<float> out(count);
  for (float& x : out) { x = normal(rng); }
  return out;
}

/// Attention in double over the rows as the cache decodes them: what attend has to match.
template <class P>
std::vector<double> definition(const KVCache<P>& cache, const std::vector<float>& queries) {
  std::vector<double> out(query_heads * head_dim);
  std::vector<float> row(head_dim);
  for (std::size_t head = 0; head < query_heads; ++head) {
    const std::size_t kv = head / (query_heads / kv_heads);
    const auto& table = cache.table(0, kv);
    std::vector<double> weights(table.rows());
    double sum = 0.0;
    for (std::size_t r = 0; r < table.rows(); ++r) {
      if (!table.alive(r)) { continue; }
      cache.keys(0, kv).read(r, row.data());
      double logit = 0.0;
      for (std::size_t c = 0; c < head_dim; ++c) { logit += static_cast<double>(queries[head * head_dim + c]) * static_cast<double>(row[c]); }
      sum += weights[r] = std::exp(logit / std::sqrt(static_cast<double>(head_dim)));
    }
    for (std::size_t r = 0; r < table.rows(); ++r) {
      cache.values(0, kv).read(r, row.data());
      for (std::size_t c = 0; c < head_dim; ++c) { out[head * head_dim + c] += weights[r] / sum * static_cast<double>(row[c]); }
    }
  }
  return out;
}

template <class P>
void decode(benchmark::State& state, const PolicyOptions<P>& options) {
  const auto tokens = static_cast<std::size_t>(state.range(0));
  KVCache<P> cache({.query_heads = query_heads, .kv_heads = kv_heads, .head_dim = head_dim}, options);
  const std::vector<float> rows = gaussian((tokens + 1) * kv_heads * head_dim, 1);
  const std::vector<float> values = gaussian((tokens + 1) * kv_heads * head_dim, 2);
  const std::vector<float> queries = gaussian(query_heads * head_dim, 3);
  std::vector<float> out(query_heads * head_dim);
  const auto append = [&](std::size_t first, std::size_t count) {
    const std::size_t offset = first * kv_heads * head_dim;
    cache.append(0, Rows::tokens_first(rows.data() + offset, count, kv_heads, head_dim),
                 Rows::tokens_first(values.data() + offset, count, kv_heads, head_dim));
  };
  const auto attend = [&] {
    cache.attend(0, Rows::tokens_first(queries.data(), 1, query_heads, head_dim), Output::tokens_first(out.data(), query_heads, head_dim));
  };
  append(0, tokens);
  attend();  // a query for the policies that observe; the others do not mind
  cache.end_prompt(0);
  append(tokens, 1);
  attend();
  const std::vector<double> expected = definition(cache, queries);
  double worst = 0.0;
  double largest = 0.0;
  for (std::size_t i = 0; i < out.size(); ++i) {
    worst = std::max(worst, std::abs(static_cast<double>(out[i]) - expected[i]));
    largest = std::max(largest, std::abs(expected[i]));
  }
  if (worst > 1e-4 * largest) { return state.SkipWithError("attend differs from its definition by more than 1e-4"); }
  for (auto _ : state) { attend(); }
  const MemoryReport memory = cache.memory();
  const auto read = static_cast<double>(memory.codes + memory.scales + memory.exact_rows);
  state.counters["bytes_read/s"] = benchmark::Counter(read, benchmark::Counter::kIsIterationInvariantRate, benchmark::Counter::kIs1024);
  state.counters["bits/value"] = cache.bits_per_value();
  state.counters["rel_err"] = worst / largest;
}

template <class P>
void add(const std::string& name, const PolicyOptions<P>& options = {}) {
  benchmark::RegisterBenchmark(("decode/" + name + "/d128/gqa4").c_str(), decode<P>, options)
      ->RangeMultiplier(4)->Range(1 << 10, 1 << 14)->Unit(benchmark::kMicrosecond);
}

}  // namespace

int main(int argc, char** argv) {
  add<Full<float>>("f32");
  add<Full<half>>("f16");
  add<Kivi<8>>("kivi8");
  add<Kivi<4>>("kivi4");
  add<Kivi<2>>("kivi2");
  add<StreamingLLM>("streaming1024", {.eviction = {.sinks = 4, .window = 1020, .in_cache_positions = false}});
  add<H2O>("h2o1024", {.eviction = {.budget = 1024}});
  add<SnapKV>("snapkv1024", {.eviction = {.budget = 1024}});
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) { return EXIT_FAILURE; }
  benchmark::AddCustomContext("kvcompress", std::string("SIMD backend ") + simd::backend);
  benchmark::RunSpecifiedBenchmarks();
  return EXIT_SUCCESS;
}
