// examples/llama/tests/llama_cache_test.cpp - the engine on KVCache<Policy> against the engine on plain attention.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "kvcompress/kvcompress.hpp"
#include "llama/cache_attention.hpp"
#include "llama/engine.hpp"
#include "llama/perplexity.hpp"

namespace {

std::vector<llama::Token> story(const llama::Engine& engine, std::size_t tokens) {
  std::ifstream file(KVCOMPRESS_TEXT, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  std::vector<llama::Token> all = engine.vocabulary().encode(text);
  EXPECT_GE(all.size(), tokens);
  all.resize(tokens);
  return all;
}

TEST(CacheAttention, FullF32HasThePerplexityOfPlainAttention) {
  llama::Engine engine(KVCOMPRESS_MODEL, 2);
  const std::vector<llama::Token> tokens = story(engine, 1024);
  std::vector<double> factors;
  const kvcompress::Shape shape = llama::shape_of(engine.model(), factors);
  const auto nothing = [](const llama::Perplexity&) {};
  const auto plain = llama::perplexity(
      engine, tokens, 512, [&] { return std::make_unique<llama::PlainAttention>(engine.plain_attention()); }, nothing);
  const auto cached = llama::perplexity(
      engine, tokens, 512, [&] { return std::make_unique<llama::CacheAttention>(kvcompress::any_cache<kvcompress::Full<float>>(shape)); },
      nothing);
  EXPECT_NEAR(cached.value / plain.value, 1.0, 1e-5);
  EXPECT_EQ(cached.tokens, plain.tokens);
}

TEST(CacheAttention, DecodesTokenByTokenAsThePromptDid) {
  llama::Engine engine(KVCOMPRESS_MODEL, 2);
  const std::vector<llama::Token> tokens = story(engine, 96);
  std::vector<double> factors;
  const kvcompress::Shape shape = llama::shape_of(engine.model(), factors);
  const std::size_t vocabulary = engine.config().vocabulary;
  std::vector<float> at_once(32 * vocabulary);
  llama::PlainAttention plain = engine.plain_attention();
  engine.forward(tokens, 0, plain, at_once);
  llama::CacheAttention cached(kvcompress::any_cache<kvcompress::Full<float>>(shape));
  std::vector<float> logits(vocabulary);
  engine.forward(std::span(tokens).first(64), 0, cached, logits, true);
  for (std::size_t t = 64; t < tokens.size(); ++t) {
    engine.forward(std::span(tokens).subspan(t, 1), t, cached, logits);
    for (std::size_t i = 0; i < vocabulary; ++i) { ASSERT_NEAR(logits[i], at_once[(t - 64) * vocabulary + i], 1e-3F) << "token " << t; }
  }
}

}  // namespace
