// examples/own/kvzip.cpp - the prompt is read twice, and rows stay that the second reading looked at, as in KVzip.
// SPDX-License-Identifier: MIT
#include <kvcompress/kvcompress.hpp>

#include <algorithm>
#include <cstdio>

#include "random_text.hpp"
using namespace kvcompress;

/// The most attention that a row got from any query that is shown with Record::kept: those that read the prompt again. ("KVzip: Query-Agnostic KV
/// Cache Compression with Context Reconstruction".) Decides at the end of a prompt. Bytes: 4 a row.
struct MostOfRepeat : ScoredRows {
  static constexpr std::string_view name = "most_of_repeat";
  static constexpr Needs may{.decides = Decides::once, .observes = Observes::kept_queries};
  static void observe(const Options&, State& state, std::size_t /*head*/, std::span<const float> probabilities) noexcept {
    for (std::size_t row = 0; row < probabilities.size(); ++row) {
      if (probabilities[row] > state.get(row, 0)) { state.set(row, 0, probabilities[row]); }
    }
  }
};
/// The best rows of all lanes of the model stay, wherever they are.
struct BestOfModel {
  static constexpr std::string_view name = "best_of_model";
  static constexpr Scope sees = Scope::model;
  struct Options {
    static void fields(auto&, auto&&) {}
  };
  static void allocate(const Options&, const Allocation& in, std::span<std::size_t> budgets) {
    struct Row {
      float score;
      std::size_t set;
    };
    Vector<Row> rows(Allocator<Row>(in.moment.scratch.rows.get_allocator()));
    const std::size_t least = in.protected_rows.sinks + in.protected_rows.recent;
    for (std::size_t set = 0; set < in.sets.size(); ++set) {
      for (std::size_t row = 0; row < in.scores[set].size(); ++row) {
        if (in.sets[set].rows.alive(row)) { rows.push_back({in.scores[set][row], set}); }
      }
    }
    const auto all = static_cast<std::size_t>(in.rows * static_cast<double>(in.sets.size()));
    std::stable_sort(rows.begin(), rows.end(), [](const Row& a, const Row& b) { return a.score > b.score; });
    std::fill(budgets.begin(), budgets.end(), std::size_t{0});
    for (std::size_t i = 0; i < std::min(all, rows.size()); ++i) { ++budgets[rows[i].set]; }
    for (std::size_t& budget : budgets) { budget = std::max(budget, std::max<std::size_t>(1, least)); }
  }
};
struct KVzipLike {
  using Eviction = Evict<MostOfRepeat, BestOfModel>;
};

int main() {
  RandomText text({.layers = 2, .query_heads = 4, .kv_heads = 2, .head_dim = 64}, 620);  // 300 tokens, the same again, 20 decoded ones
  const std::size_t prompt = 300;
  const auto told = [](std::size_t layer, std::size_t t) { return t % (layer == 0 ? 5 : 15) == 2; };  // what a second reading needs
  for (std::size_t layer = 0; layer < 2; ++layer) {
    for (std::size_t t = 0; t < text.tokens; ++t) {
      const bool again = t >= prompt && t < 2 * prompt;
      for (std::size_t h = 0; h < 2; ++h) {
        if (again) { std::copy_n(text.key(layer, t - prompt, h), 64, text.key(layer, t, h)); }
      }
      for (std::size_t h = 0; h < 4; ++h) {  // it looks for what it repeats
        if (again && told(layer, t - prompt)) {
          std::transform(text.key(layer, t - prompt, h / 2), text.key(layer, t - prompt, h / 2) + 64, text.query(layer, t, h),
                         [](float x) { return 2.0F * x; });
        }
      }
    }
  }
  KVCache<KVzipLike> cache(text.shape, {.eviction = {.budget = 50}});
  for (std::size_t layer = 0; layer < 2; ++layer) {
    text.append(cache, layer, 0, prompt);
    text.attend(cache, layer, 0, prompt);
  }
  for (std::size_t layer = 0; layer < 2; ++layer) {
    text.append(cache, layer, prompt, 2 * prompt);
    text.attend(cache, layer, prompt, 2 * prompt, {.record = Record::kept});
  }
  cache.truncate(static_cast<Position>(prompt));
  for (std::size_t layer = 0; layer < 2; ++layer) { cache.end_prompt(layer); }
  std::size_t rows = 0;
  std::size_t missed = 0;
  for (std::size_t layer = 0; layer < 2; ++layer) {
    for (std::size_t head = 0; head < 2; ++head) {
      const std::vector<Position> kept = cache.kept(layer, head);
      rows += kept.size();
      for (Position p = 0; p < prompt; ++p) { missed += told(layer, p) && !std::binary_search(kept.begin(), kept.end(), p) ? 1U : 0U; }
    }
  }
  const std::size_t first = cache.kept(0, 0).size();
  const std::size_t second = cache.kept(1, 0).size();
  for (std::size_t t = 0; t < 20; ++t) {
    for (std::size_t layer = 0; layer < 2; ++layer) {
      text.append(cache, layer, 2 * prompt + t, 2 * prompt + t + 1);
      text.attend(cache, layer, 2 * prompt + t, 2 * prompt + t + 1);
    }
  }
  std::printf("%zu rows stay in 4 lanes (%zu in the first of layer 0, %zu of layer 1), %zu of those told again are missed; %zu tokens\n",
              rows, first, second, missed, cache.tokens());
  return rows == 200 && missed == 0 && first > second && cache.kept(1, 1).size() >= 20 ? 0 : 1;
}
