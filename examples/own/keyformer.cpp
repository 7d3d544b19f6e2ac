// examples/own/keyformer.cpp - sums of attention under noise, as in Keyformer: rows that were unlucky early get another chance.
// SPDX-License-Identifier: MIT
#include <kvcompress/kvcompress.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "random_text.hpp"
using namespace kvcompress;

/// Adds up softmax((logits + noise) / tau), noise Gumbel's, one number per query and row; tau grows with the queries of a lane. Logits are known
/// up to a constant, the logarithm of the probabilities, which is all that a softmax needs. ("Keyformer: KV Cache Reduction through Key Tokens
/// Selection for Efficient Generative Inference"; d-matrix-ai/keyformer-llm@f327831. There tau grows with decoded tokens.) The newest 30 % of the
/// budget stay. Bytes: 8 a row.
struct NoisyAttention : ScoredRows {
  static constexpr std::string_view name = "noisy_sums";
  static constexpr Needs may{.observes = Observes::every_query};
  struct Options {
    double tau = 1.0;
    double step = 0.0;   ///< more of it per query
    double noise = 1.0;  ///< 0: none
    std::size_t seed = 1;
    double recent = 0.3;
    static void fields(auto& options, auto&& field) {
      field("tau", options.tau);
      field("step", options.step);
      field("noise", options.noise);
      field("seed", options.seed);
      field("recent_share", options.recent);
    }
  };
  struct State : RowScores {
    State(const Site& site, const Memory& memory) : RowScores(1, memory), lane(site.lane()), found(Allocator<float>(memory)) {}
    std::size_t lane;
    std::size_t queries = 0;  // of all heads
    Vector<float> found;      // holds nothing between calls
    void reserve(std::size_t rows) {
      RowScores::reserve(rows);
      found.reserve(rows);
    }
    void account(MemoryReport& report) const noexcept {
      RowScores::account(report);
      report.add(&MemoryReport::scratch, found);
    }
    static void persist(auto& self, auto& archive, std::size_t rows) {
      RowScores::persist(self, archive, rows);
      archive.number(self.queries);
    }
  };
  static void validate(const Options& options, const Shape&) {
    require(options.tau > 0.0 && options.step >= 0.0, ErrorCode::option, "keyformer: tau is ", options.tau, ", step ", options.step,
            ", must be above 0 and not below");
  }
  static std::size_t row_bytes(const Options&, const Shape&) noexcept { return RowScores::row_bytes(2); }
  static State state(const Options&, const Site& site, const Memory& memory) { return State(site, memory); }
  static void observe(const Options& options, State& state, std::size_t /*head*/, std::span<const float> probabilities) {
    state.found.assign(probabilities.begin(), probabilities.end());
    const auto tau = static_cast<float>(options.tau + options.step * static_cast<double>(state.queries));
    const auto noise = static_cast<float>(options.noise);
    float largest = -HUGE_VALF;
    for (std::size_t row = 0; row < state.found.size(); ++row) {
      float& x = state.found[row];
      x = (std::log(x) + noise * gumbel(options.seed + state.lane * 7919, state.queries, row)) / tau;  // of rows not seen: -infinity
      largest = std::max(largest, x);
    }
    float sum = 0.0F;
    for (float& x : state.found) { sum += x = std::exp(x - largest); }
    for (float& x : state.found) { x /= sum; }
    state.add(0, state.found);
    ++state.queries;
  }
  static std::size_t recent(const Options& options, std::size_t budget) noexcept {
    return static_cast<std::size_t>(options.recent * static_cast<double>(budget));
  }

 private:
  /// The same for the same lane, query and row, whatever came before.
  static float gumbel(std::uint64_t seed, std::uint64_t query, std::uint64_t row) noexcept {
    std::uint64_t x = seed * 0x9E37'79B9'7F4A'7C15U + query * 0xBF58'476D'1CE4'E5B9U + row;
    for (const unsigned shift : {30U, 27U, 31U}) { x = (x ^ (x >> shift)) * 0x94D0'49BB'1331'11EBU; }
    return -std::log(-std::log((static_cast<float>(x >> 40U) + 0.5F) / 16'777'216.0F));
  }
};
struct KeyformerLike {
  using Eviction = Evict<NoisyAttention>;
};

std::vector<Position> kept_of(RandomText& text, std::size_t prompt, const NoisyAttention::Options& scorer) {
  KVCache<KeyformerLike> cache(text.shape, {.eviction = {.budget = 60, .scorer = scorer}});
  text.append(cache, 0, 0, prompt);
  text.attend(cache, 0, 0, prompt);
  cache.end_prompt(0);
  for (std::size_t t = prompt; t < text.tokens; ++t) {
    text.append(cache, 0, t, t + 1);
    text.attend(cache, 0, t, t + 1);
  }
  cache.commit(0);
  return cache.kept(0, 0);
}

int main() {
  RandomText text({.query_heads = 4, .kv_heads = 2, .head_dim = 64}, 220);
  const std::vector<Position> noisy = kept_of(text, 100, {});
  const std::vector<Position> again = kept_of(text, 100, {});
  const std::vector<Position> other = kept_of(text, 100, {.seed = 2});
  const std::vector<Position> plain = kept_of(text, 100, {.noise = 0.0});
  KVCache<H2O> h2o(text.shape, {.eviction = {.budget = 60, .recent = 18}});
  text.append(h2o, 0, 0, 100);
  text.attend(h2o, 0, 0, 100);
  h2o.end_prompt(0);
  for (std::size_t t = 100; t < text.tokens; ++t) {
    text.append(h2o, 0, t, t + 1);
    text.attend(h2o, 0, t, t + 1);
  }
  h2o.commit(0);
  const bool newest = noisy[60 - 18] == text.tokens - 18;
  std::printf("without noise the rows of H2O: %s; the same for a seed: %s; others for another: %s; newest 18 stay: %s\n",
              plain == h2o.kept(0, 0) ? "yes" : "no", noisy == again ? "yes" : "no", noisy != other && noisy != plain ? "yes" : "no",
              newest ? "yes" : "no");
  return plain == h2o.kept(0, 0) && noisy == again && noisy != other && noisy != plain && newest ? 0 : 1;
}
