// examples/own/zipcache.cpp - two precisions by the normalised attention of probe queries, as ZipCache decides which rows get fewer bits.
// SPDX-License-Identifier: MIT
#include <kvcompress/eviction/dispose.hpp>
#include <kvcompress/eviction/dispositions/demote.hpp>
#include <kvcompress/kvcompress.hpp>
#include <kvcompress/policies/tiers.hpp>

#include <algorithm>
#include <cstdio>

#include "random_text.hpp"
using namespace kvcompress;

/// The attention that a row gets from probe queries, those that are shown with Record::kept, divided by the number of probes that saw it: else the
/// first rows, which all see, would always win. ("ZipCache: Accurate and Efficient KV Cache Quantization with Salient Token Identification", the
/// definition of its paper.) Decides at the end of a prompt. Bytes: 8 a row.
struct ProbedAttention : ScoredRows {
  static constexpr std::string_view name = "probed_attention";
  static constexpr Needs may{.decides = Decides::once, .observes = Observes::kept_queries};
  static constexpr std::size_t row_bytes(const Options&, const Shape&) noexcept { return RowScores::row_bytes(2); }
  static State state(const Options&, const Site&, const Memory& memory) { return State(2, memory); }
  static void observe(const Options&, State& state, std::size_t /*head*/, std::span<const float> probabilities) noexcept {
    state.add(0, probabilities);
    for (std::size_t row = 0; row < probabilities.size(); ++row) {
      if (probabilities[row] > 0.0F) { state.set(row, 1, state.get(row, 1) + 1.0F); }  // the query saw it
    }
  }
  static std::span<const float> score(const Options&, const LaneView& lane, const RowTable&, const Moment&, std::span<float> out) {
    const State& state = lane.state<State>();
    for (std::size_t row = 0; row < out.size(); ++row) { out[row] = state.get(row, 0) / std::max(1.0F, state.get(row, 1)); }
    return out;
  }
};
struct ZipCacheLike {
  using Eviction = Evict<ProbedAttention, Uniform, Best, Demote>;
};

int main() {
  RandomText text({.query_heads = 4, .kv_heads = 2, .head_dim = 64}, 520);
  const std::size_t prompt = 500;
  const auto salient = [](std::size_t t) { return t % 10 == 7; };
  for (std::size_t t = 0; t < text.tokens; ++t) {
    for (std::size_t h = 0; h < 4; ++h) { text.query(0, t, h)[0] = 6.0F; }
    for (std::size_t h = 0; h < 2; ++h) { text.key(0, t, h)[0] = salient(t) ? 4.0F : 0.0F; }
  }
  KVCache<Combine<ZipCacheLike, Tiers<2>>> cache(text.shape, {.eviction = {{.budget = Budget::fraction(0.6)}}});
  text.append(cache, 0, 0, prompt);
  text.attend(cache, 0, 0, prompt);
  std::vector<Position> probes;  // a twentieth of the prompt at its end, and one in twenty of the rest
  for (Position p = 3; p < prompt; p += p < prompt / 20 * 19 ? 20 : 1) { probes.push_back(p); }
  std::vector<float> queries;
  for (const Position p : probes) { queries.insert(queries.end(), text.query(0, p, 0), text.query(0, p, 0) + std::ptrdiff_t{4 * 64}); }
  cache.observe(0, Rows::tokens_first(queries.data(), probes.size(), 4, 64), probes, {.record = Record::kept});
  cache.end_prompt(0);

  double worst = 0.0;
  for (std::size_t t = prompt; t < text.tokens; ++t) {
    text.append(cache, 0, t, t + 1);
    worst = std::max(worst, text.error(text.attend(cache, 0, t, t + 1), 0, t));
  }
  const std::size_t cold = cache.keys(0, 0).settled();
  std::size_t salient_cold = 0;
  for (std::size_t row = 0; row < cold; ++row) { salient_cold += salient(cache.table(0, 0).position(row)) ? 1U : 0U; }
  std::printf("%zu of %zu rows stay, %zu of them in 2 bits, %zu salient ones among these; worst relative error %.4f\n",
              cache.kept(0, 0).size(), cache.tokens(0), cold, salient_cold, worst);
  return cache.kept(0, 0).size() == text.tokens && cold >= 160 && cold <= 200 && salient_cold < 5 && worst < 0.2 ? 0 : 1;
}
