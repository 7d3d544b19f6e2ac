// examples/dispatch/main.cpp - run-time dispatch: one program that uses the widest vector instructions its machine has.
// SPDX-License-Identifier: MIT
//
// The library chooses its kernels by compiler flags. A program for many machines compiles one file several times (attention.cpp), as shared
// objects with hidden symbols: linked together statically, inline functions of the same name would be merged, whatever their flags.
#include <dlfcn.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "dispatch/attention.hpp"

namespace {

/// Variants that this machine can run, the fastest first.
std::vector<std::string> usable_variants() {
  std::vector<std::string> names;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni")) {
    names.emplace_back("avx512");
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) { names.emplace_back("avx2"); }
#endif
  names.emplace_back("baseline");
  return names;
}

const AttentionVariant* load(const std::string& name) {
  const std::string path = std::string(KVCOMPRESS_DISPATCH_FOLDER) + "/libattention_" + name + ".so";
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  void* symbol = library != nullptr ? dlsym(library, "attention_variant") : nullptr;
  if (symbol == nullptr) {
    std::fprintf(stderr, "%s\n", dlerror());
    std::exit(EXIT_FAILURE);
  }
  return reinterpret_cast<AttentionVariantFunction>(symbol)();
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
  const std::vector<std::string> names = usable_variants();
  const std::vector<float> expected = attend(*load(names.back()));
  for (const std::string& name : names) {
    const AttentionVariant& variant = *load(name);
    const std::vector<float> out = attend(variant);
    double worst = 0.0;
    double largest = 0.0;
    for (std::size_t i = 0; i < out.size(); ++i) {
      worst = std::fmax(worst, std::fabs(static_cast<double>(out[i]) - static_cast<double>(expected[i])));
      largest = std::fmax(largest, std::fabs(static_cast<double>(expected[i])));
    }
    std::printf("%-8s  %-12s  differs from the baseline by %.1e of the largest output%s\n", name.c_str(), variant.backend, worst / largest,
                name == names.front() ? "  <- this machine's choice" : "");
    if (worst > 2e-4 * largest) { return EXIT_FAILURE; }
  }
  return EXIT_SUCCESS;
}
