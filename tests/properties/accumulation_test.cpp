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

namespace {

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
/// Outputs in the three modes; the bounds are those of core/accumulation.hpp.
template <class P, int Bits>
void check(const std::string& name, const Text& text, bool plain) {
  const std::size_t dim = text.shape.head_dim;
  const auto exact = outputs<P>(text, Accumulation::exact);
  const auto near = outputs<P>(text, Accumulation::near_exact);
  std::printf("%-22s d %4zu, %zu queries: near_exact %.1e", name.c_str(), dim, text.shape.group(), worst(near, exact, dim));
  EXPECT_LE(worst(near, exact, dim), Bits == 8 && dim > 576 ? 3e-4 : 2e-4) << name;
  EXPECT_GT(worst(near, exact, dim), 0.0) << "near_exact did what exact does";
  if constexpr (offers_fast<Bits>) {
    const auto fast = outputs<P>(text, Accumulation::fast);
    std::printf(", fast %.1e", worst(fast, exact, dim));
    EXPECT_LE(worst(fast, exact, dim), 5e-2) << name;
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
    check<P, Bits>(name, Text(shape, tokens, 7), true);
  }
  for (const std::size_t dim : {512U, 576U, 1000U}) {
    check<P, Bits>(name, Text({.query_heads = 4, .kv_heads = 1, .head_dim = dim}, tokens, 8), false);
  }
  for (const std::size_t dim : {64U, 128U}) {
    for (const std::size_t outliers : {4U, 12U, 16U}) {  // channels whose keys are 60 times as large, with queries of one size, and of any
      for (const bool any : {false, true}) {
        Text text({.query_heads = 4, .kv_heads = 1, .head_dim = dim}, tokens, 9);
        for (std::size_t i = 0; i < text.keys.size(); ++i) { text.keys[i] *= i % dim % 4 == 3 && i % dim / 4 < outliers ? 60.0F : 1.0F; }
        for (float& x : text.queries) { x = any ? 0.5F * x : std::copysign(1.0F, x); }
        check<P, Bits>(name + ", " + std::to_string(outliers) + " outliers", text, false);
      }
    }
  }
}

TEST(Accumulation, KiviOfTwoBits) { check<Kivi<2, 32, 32>, 2>("kivi2"); }
TEST(Accumulation, KiviOfFourBits) { check<Kivi<4, 32, 32>, 4>("kivi4"); }
TEST(Accumulation, KiviOfFiveBits) { check<Kivi<5, 32, 32>, 5>("kivi5"); }
TEST(Accumulation, KiviOfEightBits) { check<Kivi<8, 32, 32>, 8>("kivi8"); }
TEST(Accumulation, GearOfTwoBits) { check<Gear<2>, 2>("gear2"); }
TEST(Accumulation, GearOfFourBits) { check<Gear<4>, 4>("gear4"); }

}  // namespace
