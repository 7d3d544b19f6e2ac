// examples/dispatch/main.cpp - run-time dispatch: one program that uses the widest vector instructions its machine has.
// SPDX-License-Identifier: MIT
//
// The library chooses its kernels by compiler flags. A program for many machines compiles one file several times (attention.cpp); in each the
// library stands in an inline namespace of that instruction set, so that they are linked into one program and each runs its own code.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "dispatch/attention.hpp"

namespace {

/// Variants that this machine can run, the fastest first.
std::vector<const AttentionVariant*> usable_variants() {
  std::vector<const AttentionVariant*> variants;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni")) {
    variants.push_back(&attention_avx512);
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
    variants.push_back(&attention_avx2);
  }
#endif
  variants.push_back(&attention_baseline);
  return variants;
}

std::vector<float> gaussian(std::size_t count, unsigned seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal;
  std::vector<float> out(count);
  for (float& x : out) { x = normal(rng); }
  return out;
}

std::vector<float> attend(const AttentionVariant& variant) {
  constexpr std::size_t query_heads = 8;
  constexpr std::size_t kv_heads = 2;
  constexpr std::size_t head_dim = 64;
  constexpr std::size_t tokens = 512;
  const auto keys = gaussian(tokens * kv_heads * head_dim, 1);
  const auto values = gaussian(tokens * kv_heads * head_dim, 2);
  const auto queries = gaussian(query_heads * head_dim, 3);
  std::vector<float> out(query_heads * head_dim);
  void* cache = variant.create(query_heads, kv_heads, head_dim);
  variant.append(cache, keys.data(), values.data(), tokens);
  variant.end_prompt(cache);
  variant.append(cache, keys.data(), values.data(), 1);
  variant.attend(cache, queries.data(), out.data());
  variant.destroy(cache);
  return out;
}

}  // namespace

int main() {
  const std::vector<const AttentionVariant*> variants = usable_variants();
  const std::vector<float> expected = attend(*variants.back());
  for (const AttentionVariant* variant : variants) {
    const std::vector<float> out = attend(*variant);
    double worst = 0.0;
    double largest = 0.0;
    for (std::size_t i = 0; i < out.size(); ++i) {
      worst = std::fmax(worst, std::fabs(static_cast<double>(out[i]) - static_cast<double>(expected[i])));
      largest = std::fmax(largest, std::fabs(static_cast<double>(expected[i])));
    }
    std::printf("%-12s  differs from the baseline by %.1e of the largest output%s\n", variant->backend, worst / largest,
                variant == variants.front() ? "  <- this machine's choice" : "");
    if (worst > 2e-4 * largest) { return EXIT_FAILURE; }
  }
  return EXIT_SUCCESS;
}
