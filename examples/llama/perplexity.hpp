// examples/llama/perplexity.hpp - how well a model, seen through a KV cache, predicts a text.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <vector>

#include "engine.hpp"
#include "error.hpp"

namespace llama {

/// A perplexity and what it was measured on.
struct Perplexity {
  double value = 0.0;
  double error = 0.0;      // one standard error
  std::size_t chunks = 0;  // of `context` tokens
  std::size_t tokens = 0;  // scored
};

/// -log softmax(logits)[token]
inline double surprise(std::span<const float> logits, Token token) {
  const auto largest = static_cast<double>(*std::max_element(logits.begin(), logits.end()));
  double total = 0.0;
  for (const float logit : logits) { total += static_cast<double>(std::exp(logit - static_cast<float>(largest))); }
  return largest + std::log(total) - static_cast<double>(logits[token]);
}

/// The protocol of the model card: the tokens are cut into chunks of `context`, the remainder is dropped, the
/// first token of every chunk becomes the begin-of-sequence token, and the second half of every chunk is
/// scored. `make()` gives a pointer-like to a fresh Attention for each chunk; `on_chunk(perplexity)` is told
/// the figure so far.
template <class Make, class OnChunk>
Perplexity perplexity(Engine& engine, std::span<const Token> tokens, std::size_t context, Make&& make, OnChunk&& on_chunk) {
  if (context < 4 || context > engine.config().context) {
    fail("context is {}; the model takes 4 to {}.", context, engine.config().context);
  }
  if (tokens.size() < context) { fail("The text has {} tokens, less than one context of {}.", tokens.size(), context); }
  const std::size_t vocabulary = engine.config().vocabulary;
  const std::size_t first = context / 2;
  std::vector<float> logits((context - first) * vocabulary);  // (context - first, vocabulary)
  std::vector<Token> chunk(context);
  Perplexity result;
  double total = 0.0;
  double squares = 0.0;
  for (std::size_t start = 0; start + context <= tokens.size(); start += context) {
    std::copy_n(tokens.begin() + static_cast<std::ptrdiff_t>(start), context, chunk.begin());
    if (engine.vocabulary().adds_bos()) { chunk[0] = *engine.vocabulary().bos(); }
    auto attention = make();
    engine.forward(chunk, 0, *attention, logits);
    for (std::size_t i = first; i + 1 < context; ++i) {
      const double loss = surprise(std::span(logits).subspan((i - first) * vocabulary, vocabulary), chunk[i + 1]);
      total += loss;
      squares += loss * loss;
    }
    ++result.chunks;
    result.tokens += context - first - 1;
    const double count = static_cast<double>(result.tokens);
    const double mean = total / count;
    result.value = std::exp(mean);
    result.error = result.value * std::sqrt(std::max(0.0, squares / count - mean * mean) / (count - 1.0 + (count < 2.0)));
    on_chunk(result);
  }
  return result;
}

}  // namespace llama
