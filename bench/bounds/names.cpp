// bench/bounds/names.cpp - what choosing parts by name costs: one cache of a type, one of the same parts by name, in turns.
// SPDX-License-Identifier: MIT
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <string>
#include <vector>

#include "kvcompress/policies/full.hpp"
#include "kvcompress/policies/kivi.hpp"
#include "registry/registry.hpp"

namespace {

using namespace kvcompress;

constexpr std::size_t pairs = 101;
bool missed = false;

/// One line: "NAME VALUE BOUND".
void print(const std::string& name, double value, double bound) {
  fmt::print("{} {:.3f} {:.2f}\n", name, value, bound);
  missed = missed || value > bound;
}
double seconds(auto&& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}
/// The median of by_name / by_type, measured side by side, who is first in turn.
double median_ratio(auto&& by_name, auto&& by_type) {
  std::vector<double> ratios;
  for (std::size_t i = 0; i < pairs; ++i) {
    double name = 0.0;
    double type = 0.0;
    if (i % 2 == 0) {
      name = seconds(by_name);
      type = seconds(by_type);
    } else {
      type = seconds(by_type);
      name = seconds(by_name);
    }
    ratios.push_back(name / type);
  }
  std::nth_element(ratios.begin(), ratios.begin() + pairs / 2, ratios.end());
  return ratios[pairs / 2];
}

template <class P>
void measure(const std::string& policy, std::size_t rows) {
  const Shape shape{.query_heads = 32, .kv_heads = 8, .head_dim = 128};
  std::vector<float> keys(rows * shape.kv_heads * shape.head_dim);
  std::vector<float> queries(shape.query_heads * shape.head_dim);
  unsigned state = 1;
  const auto fill = [&](std::vector<float>& numbers) {
    for (float& x : numbers) { x = static_cast<float>((state = state * 1664525U + 1013904223U) >> 8U) / 8388608.0F - 1.0F; }
  };
  fill(keys);
  fill(queries);
  const auto tokens = [&](std::size_t first, std::size_t count) {
    return Rows::tokens_first(keys.data() + first * shape.kv_heads * shape.head_dim, count, shape.kv_heads, shape.head_dim);
  };
  std::vector<float> out(queries.size());
  KVCache<P> typed(shape);
  AnyCache named = examples::registry().make(policy, shape);
  const auto start = [&](auto& cache) {
    cache.append(0, tokens(0, rows), tokens(0, rows));
    cache.end_prompt(0);
    cache.append(0, tokens(0, 1), tokens(0, 1));
  };
  start(typed);
  start(named);
  const std::size_t calls = std::max<std::size_t>(1, 4096 / rows);
  const auto attend = [&](auto& cache) {
    for (std::size_t i = 0; i < calls; ++i) {
      cache.attend(0, Rows::tokens_first(queries.data(), 1, shape.query_heads, shape.head_dim),
                   Output::tokens_first(out.data(), 1, shape.query_heads, shape.head_dim));
    }
  };
  const auto append = [&](auto& cache) {
    for (std::size_t i = 0; i < 64; ++i) {
      cache.append(0, tokens(i, 1), tokens(i, 1));
      cache.commit(0);
    }
  };
  const std::string what = "_by_name_" + policy + "_" + std::to_string(rows);
  print("attend" + what, median_ratio([&] { attend(named); }, [&] { attend(typed); }), 1.02);
  print("append" + what, median_ratio([&] { append(named); }, [&] { append(typed); }), 1.15);
}

}  // namespace

int main() {
  for (const std::size_t rows : {512U, 16384U}) {
    measure<Full<>>("f16", rows);
    measure<Kivi<4>>("kivi4", rows);
  }
  return missed ? 1 : 0;
}
