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
  static_cast<void>(step(cache, text, 0, prompt));
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
/// Relative to the largest output.
double worst(const std::vector<float>& x, const std::vector<float>& from) {
  double apart = 0.0;
  double largest = 0.0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    apart = std::max(apart, std::abs(static_cast<double>(x[i]) - static_cast<double>(from[i])));
    largest = std::max(largest, std::abs(static_cast<double>(from[i])));
  }
  return apart / largest;
}

template <class P, int Bits>
void check(const std::string& name) {
  for (const Shape& shape :
       {Shape{.query_heads = 4, .kv_heads = 1, .head_dim = 128}, Shape{.query_heads = 2, .kv_heads = 2, .head_dim = 80},
        Shape{.query_heads = 3, .kv_heads = 1, .head_dim = 64}}) {
    const Text text(shape, tokens, 7);
    const auto plain = outputs<Full<float>>(text, PolicyOptions<Full<float>>{});
    const auto exact = outputs<P>(text, Accumulation::exact);
    const auto near = outputs<P>(text, Accumulation::near_exact);
    std::printf("%-6s d %3zu, %zu queries: codes %.1e, near_exact %.1e", name.c_str(), shape.head_dim, shape.group(),
                distance(exact, plain), worst(near, exact));
    EXPECT_LE(worst(near, exact), 2e-4) << name;
    EXPECT_GT(worst(near, exact), 0.0) << "near_exact did what exact does";
    if constexpr (offers_fast<Bits>) {
      const auto fast = outputs<P>(text, Accumulation::fast);
      const double more = distance(fast, plain) / distance(exact, plain);
      std::printf(", fast %.1e, which makes the error of the output %.3f times that of exact", worst(fast, exact), more);
      EXPECT_LE(worst(fast, exact), 5e-2) << name;
      EXPECT_LT(more, 1.2) << name;
    } else {
      PolicyOptions<P> options{};
      options.storage.accumulation = Accumulation::fast;
      EXPECT_THROW(KVCache<P>(shape, options), Error);
    }
    std::printf("\n");
  }
}

TEST(Accumulation, KiviOfTwoBits) { check<Kivi<2, 32, 32>, 2>("kivi2"); }
TEST(Accumulation, KiviOfFourBits) { check<Kivi<4, 32, 32>, 4>("kivi4"); }
TEST(Accumulation, KiviOfFiveBits) { check<Kivi<5, 32, 32>, 5>("kivi5"); }
TEST(Accumulation, KiviOfEightBits) { check<Kivi<8, 32, 32>, 8>("kivi8"); }
TEST(Accumulation, GearOfTwoBits) { check<Gear<2>, 2>("gear2"); }
TEST(Accumulation, GearOfFourBits) { check<Gear<4>, 4>("gear4"); }

}  // namespace
