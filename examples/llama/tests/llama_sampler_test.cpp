// examples/llama/tests/llama_sampler_test.cpp - the draws follow the probabilities and the seed.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "llama/sampler.hpp"
#include "tiny_gguf.hpp"

namespace {

using llama::Token;

TEST(LlamaSampler, DrawsByProbability) {
  const std::vector<float> logits = {std::log(0.1F), std::log(0.6F), std::log(0.3F)};
  EXPECT_EQ(llama::Sampler({}).pick(logits), Token{1});
  llama::Sampler sampler({1.0, 1.0, 5});
  std::vector<int> drawn(3);
  for (int i = 0; i < 20000; ++i) { ++drawn[sampler.pick(logits)]; }
  EXPECT_NEAR(drawn[0], 2000, 200);
  EXPECT_NEAR(drawn[1], 12000, 400);
  llama::Sampler narrow({1.0, 0.8, 5});
  for (int i = 0; i < 1000; ++i) { EXPECT_NE(narrow.pick(logits), Token{0}) << "0.6 + 0.3 reach 0.8"; }
}

TEST(LlamaSampler, TheSeedDecides) {
  const std::vector<float> logits(50, 0.0F);
  const auto draw = [&](std::uint64_t seed) {
    llama::Sampler sampler({1.0, 0.9, seed});
    std::vector<Token> tokens;
    for (int i = 0; i < 20; ++i) { tokens.push_back(sampler.pick(logits)); }
    return tokens;
  };
  EXPECT_EQ(draw(1), draw(1));
  EXPECT_NE(draw(1), draw(2));
}

TEST(LlamaSampler, SaysWhatIsWrong) {
  EXPECT_EQ(tiny::sentence_of([] { llama::Sampler({-1.0, 1.0, 1}); }), "temperature is -1; it must be 0 to 1000.");
  EXPECT_EQ(tiny::sentence_of([] { llama::Sampler({1.0, 0.0, 1}); }), "top_p is 0; it must be above 0 and at most 1.");
  const std::vector<float> damaged = {0.0F, std::nanf("")};
  EXPECT_NE(tiny::sentence_of([&] { llama::Sampler({}).pick(damaged); }), "");
}

}  // namespace
