// tests/properties/accumulation_test.cpp - what near_exact and fast accumulation cost, beside exact accumulation and beside quantisation.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "kvcompress/kvcompress.hpp"
#include "kvcompress/policies/gear.hpp"
#include "support/policies.hpp"
#include "support/random_rows.hpp"
#include "support/sequence.hpp"

namespace accumulation_test {

using namespace kvcompress;
using namespace kvcompress::test;

constexpr std::size_t prompt = 700;
constexpr std::size_t tokens = 720;

/// Outputs of the tokens behind the prompt.
template <class P>
std::vector<float> outputs(const Text& text, const PolicyOptions<P>& options) {
  KVCache<P> cache(text.shape, options);
  cache.append(0, text.key_rows(0, prompt), text.value_rows(0, prompt));
  cache.end_prompt(0);
  std::vector<float> all;
  for (std::size_t t = prompt; t < tokens; ++t) {
    const Outputs out = step(cache, text, t, 1);
    all.insert(all.end(), out.begin(), out.end());
  }
  return all;
}
template <class P>
std::vector<float> outputs(const Text& text, Accumulation mode) {
  PolicyOptions<P> options{};
  options.storage.accumulation = mode;
  return outputs<P>(text, options);
}
/// Root of the squared distance, relative to the size of `from`.
double distance(const std::vector<float>& x, const std::vector<float>& from) {
  double sum = 0.0;
  double size = 0.0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    sum += std::pow(static_cast<double>(x[i]) - static_cast<double>(from[i]), 2.0);
    size += std::pow(static_cast<double>(from[i]), 2.0);
  }
  return std::sqrt(sum / size);
}
/// The worst of all heads' outputs, relative to its length.
double worst(const std::vector<float>& x, const std::vector<float>& from, std::size_t dim) {
  double worst = 0.0;
  for (std::size_t i = 0; i < x.size(); i += dim) {
    const auto head = [&](const std::vector<float>& all) {
      return std::vector<float>(all.begin() + static_cast<std::ptrdiff_t>(i), all.begin() + static_cast<std::ptrdiff_t>(i + dim));
    };
    worst = std::max(worst, distance(head(x), head(from)));
  }
  return worst;
}
/// The bounds that core/accumulation.hpp states.
struct Bounds {
  double near_exact;
  double fast;
};
template <int Bits>
Bounds bounds(std::size_t dim, bool spread) {
  if (!spread) { return {dim <= 576 ? 2e-4 : Bits == 8 ? 4e-4 : 3e-4, 5e-2}; }
  const double near = Bits == 8 && dim > 256 ? (dim <= 576 ? 5e-4 : 1.2e-3) : dim <= 576 ? 3e-4 : 4e-4;
  return {near, 6e-2};
}
/// Outputs in the three modes, with logits of spread 1, or 2.
template <class P, int Bits>
void check(const std::string& name, Text text, bool plain, bool spread) {
  for (float& x : text.queries) { x *= spread ? 1.0F : 0.5F; }
  const Bounds bound = bounds<Bits>(text.shape.head_dim, spread);
  const std::size_t dim = text.shape.head_dim;
  const auto exact = outputs<P>(text, Accumulation::exact);
  const auto near = outputs<P>(text, Accumulation::near_exact);
  std::printf("%-22s d %4zu, %zu queries: near_exact %.1e", name.c_str(), dim, text.shape.group(), worst(near, exact, dim));
  EXPECT_LE(worst(near, exact, dim), bound.near_exact) << name;
  EXPECT_GT(worst(near, exact, dim), 0.0) << "near_exact did what exact does";
  if constexpr (offers_fast<Bits>) {
    const auto fast = outputs<P>(text, Accumulation::fast);
    std::printf(", fast %.1e", worst(fast, exact, dim));
    EXPECT_LE(worst(fast, exact, dim), bound.fast) << name;
    if (plain) {
      const auto uncoded = outputs<Full<float>>(text, PolicyOptions<Full<float>>{});
      const double more = distance(fast, uncoded) / distance(exact, uncoded);
      std::printf(", which makes the error of the codes, %.1e, %.3f times what it is", distance(exact, uncoded), more);
      EXPECT_LT(more, 1.2) << name;
    }
  } else {
    PolicyOptions<P> options{};
    options.storage.accumulation = Accumulation::fast;
    EXPECT_THROW(KVCache<P>(text.shape, options), Error);
  }
  std::printf("\n");
}

template <class P, int Bits>
void check(const std::string& name) {
  for (const Shape& shape :
       {Shape{.query_heads = 4, .kv_heads = 1, .head_dim = 128}, Shape{.query_heads = 2, .kv_heads = 2, .head_dim = 80},
        Shape{.query_heads = 3, .kv_heads = 1, .head_dim = 64}}) {
    check<P, Bits>(name, Text(shape, tokens, 7), true, true);
    check<P, Bits>(name, Text(shape, tokens, 7), false, false);
  }
  for (const std::size_t dim : {512U, 576U, 1000U}) {
    const Text text({.query_heads = 4, .kv_heads = 1, .head_dim = dim}, tokens, 8);
    for (const bool spread : {false, true}) { check<P, Bits>(name, text, false, spread); }
  }
  for (const std::size_t outliers : {4U, 12U, 16U}) {  // channels whose keys are 60 times as large, with queries of one size, and of any
    for (const bool any : {false, true}) {
      Text text({.query_heads = 4, .kv_heads = 1, .head_dim = any ? 128U : 64U}, tokens, 9);
      const std::size_t dim = text.shape.head_dim;
      for (std::size_t i = 0; i < text.keys.size(); ++i) { text.keys[i] *= i % dim % 4 == 3 && i % dim / 4 < outliers ? 60.0F : 1.0F; }
      for (float& x : text.queries) { x = any ? x : std::copysign(2.0F, x); }
      check<P, Bits>(name + ", " + std::to_string(outliers) + " outliers", text, false, false);
    }
  }
}

TEST(Accumulation, KiviOfTwoBits) { check<Kivi<2, 32, 32>, 2>("kivi2"); }
TEST(Accumulation, KiviOfFourBits) { check<Kivi<4, 32, 32>, 4>("kivi4"); }
TEST(Accumulation, KiviOfFiveBits) { check<Kivi<5, 32, 32>, 5>("kivi5"); }
TEST(Accumulation, KiviOfEightBits) { check<Kivi<8, 32, 32>, 8>("kivi8"); }
TEST(Accumulation, GearOfTwoBits) { check<Gear<2>, 2>("gear2"); }
TEST(Accumulation, GearOfFourBits) { check<Gear<4>, 4>("gear4"); }

}  // namespace accumulation_test
