// examples/own/cake.cpp - rows by mean and variance of the last queries' attention, layers by its entropy and variance, as in CAKE.
// SPDX-License-Identifier: MIT
#include <kvcompress/kvcompress.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>

#include "random_text.hpp"
using namespace kvcompress;

/// Of the last `window` queries of a prompt: a row is worth the mean of its probabilities and `gamma` times their variance, averaged over the query
/// heads of its KV head and over `kernel` neighbours. Of a lane it says the entropy of all of them and the sum of their variances, the window's own
/// rows left out. ("CAKE: Cascading and Adaptive KV Cache Eviction with Layer Preferences"; antgroup/cakekv@c4675ce.) Bytes: 8 group a row.
struct MeanAndVariance : ScoredRows {
  static constexpr std::string_view name = "mean_and_variance";
  static constexpr Needs may{.decides = Decides::once, .observes = Observes::last_prompt_queries};
  struct Options {
    std::size_t window = 32;
    std::size_t kernel = 5;
    double gamma = 200.0;
    static void fields(auto& options, auto&& field) {
      field("window", options.window);
      field("kernel", options.kernel);
      field("gamma", options.gamma);
    }
  };
  struct State : RowScores {  // sums and sums of squares of every query head
    using RowScores::RowScores;
    double entropy = 0.0;
    float queries = 0.0F;  // of all heads
    static void persist(auto& self, auto& archive, std::size_t rows) {
      RowScores::persist(self, archive, rows);
      archive.number(self.entropy);
      archive.number(self.queries);
    }
  };
  static void validate(const Options& options, const Shape&) {
    require(options.window > 1 && options.kernel % 2 == 1, ErrorCode::option, "cake: window is ", options.window, ", kernel ",
            options.kernel, ", must be at least 2 and odd");
  }
  static std::size_t row_bytes(const Options&, const Shape& shape) noexcept { return RowScores::row_bytes(2 * shape.group()); }
  static State state(const Options&, const Site& site, const Memory& memory) { return State(2 * site.shape.group(), memory); }
  static std::size_t window(const Options& options) noexcept { return options.window; }
  static void start(const Options&, State& state) noexcept {
    state.forget();
    state.entropy = 0.0;
    state.queries = 0.0F;
  }
  static void observe(const Options& options, State& state, std::size_t head, std::span<const float> probabilities) noexcept {
    const std::size_t before = probabilities.size() - std::min(options.window, probabilities.size());
    for (std::size_t row = 0; row < probabilities.size(); ++row) {
      const float p = probabilities[row];
      state.set(row, 2 * head, state.get(row, 2 * head) + p);
      state.set(row, 2 * head + 1, state.get(row, 2 * head + 1) + p * p);
      if (row < before) { state.entropy -= static_cast<double>(p) * std::log(static_cast<double>(p) + 1e-10); }
    }
    state.queries += 1.0F;
  }
  static std::span<const float> score(const Options& options, const LaneView& lane, const RowTable&, const Moment&, std::span<float> out) {
    const State& state = lane.state<State>();
    const std::size_t group = lane.site.shape.group();
    for (std::size_t row = 0; row < out.size(); ++row) {
      out[row] = 0.0F;
      for (std::size_t h = 0; h < group; ++h) {
        out[row] += mean(state, row, h, group) + static_cast<float>(options.gamma) * variance(state, row, h, group);
      }
    }
    return out;
  }
  static void join(const Options& options, RowSet& set, std::span<float> scores, const Moment&) {
    const Vector<float> own(scores.begin(), scores.end(), set.order.get_allocator());
    const auto reach = static_cast<std::ptrdiff_t>(options.kernel / 2);
    const auto count = static_cast<std::ptrdiff_t>(own.size());
    for (std::ptrdiff_t row = 0; row < count; ++row) {  // zeros beyond the ends
      scores[static_cast<std::size_t>(row)] =
          std::accumulate(own.begin() + std::max<std::ptrdiff_t>(0, row - reach), own.begin() + std::min(count, row + reach + 1), 0.0F) /
          static_cast<float>(options.kernel);
    }
  }
  static LaneFacts facts(const Options& options, const LaneView& lane, const RowTable& rows, const Moment&) {
    const State& state = lane.state<State>();
    const std::size_t group = lane.site.shape.group();
    double sum = 0.0;
    for (std::size_t row = 0; row + options.window < rows.rows(); ++row) {
      for (std::size_t h = 0; h < group; ++h) { sum += static_cast<double>(variance(state, row, h, group)); }
    }
    return {state.entropy, sum};
  }
  static std::size_t recent(const Options& options, std::size_t budget) noexcept { return std::min(options.window, budget); }

 private:
  static float mean(const State& state, std::size_t row, std::size_t head, std::size_t group) noexcept {
    return state.get(row, 2 * head) / (state.queries / static_cast<float>(group));
  }
  static float variance(const State& state, std::size_t row, std::size_t head, std::size_t group) noexcept {
    const float m = mean(state, row, head, group);
    const float queries = state.queries / static_cast<float>(group);
    return std::max(0.0F, (state.get(row, 2 * head + 1) - queries * m * m) / (queries - 1.0F));
  }
};
/// Layers share the rows beside the window by entropy^(1/tau1) * variance^(1/tau2), lanes of a layer alike.
struct Preference {
  static constexpr std::string_view name = "preference";
  static constexpr Scope sees = Scope::model;
  static constexpr bool needs_facts = true;
  struct Options {
    double tau1 = 1.0;
    double tau2 = 1.0;
    static void fields(auto& options, auto&& field) {
      field("tau1", options.tau1);
      field("tau2", options.tau2);
    }
  };
  static void allocate(const Options& options, const Allocation& in, std::span<std::size_t> budgets) {
    Vector<double> preferred(budgets.size(), 0.0, in.moment.scratch.sums.get_allocator());  // of the layer of a set
    std::size_t fact = 0;
    Vector<LaneFacts> of_layer(Allocator<LaneFacts>(in.moment.scratch.sums.get_allocator()));
    for (const RowSet& set : in.sets) {
      for (const LaneView& lane : set.lanes) {
        of_layer.resize(std::max(of_layer.size(), lane.site.layer + 1));
        of_layer[lane.site.layer][0] += in.facts[fact][0];
        of_layer[lane.site.layer][1] += in.facts[fact++][1];
      }
    }
    for (std::size_t i = 0; i < budgets.size(); ++i) {
      const LaneFacts& layer = of_layer[in.sets[i].lanes.front().site.layer];
      preferred[i] = std::pow(layer[0], 1.0 / options.tau1) * std::pow(layer[1], 1.0 / options.tau2);
    }
    const double all = std::accumulate(preferred.begin(), preferred.end(), 0.0);
    const double window = static_cast<double>(in.protected_rows.sinks + in.protected_rows.recent);
    for (std::size_t i = 0; i < budgets.size(); ++i) {
      const double rows = window + (in.rows - window) * static_cast<double>(budgets.size()) * preferred[i] / all;
      budgets[i] = std::min(static_cast<std::size_t>(rows), in.sets[i].rows.live());
    }
  }
};
struct CakeLike {
  using Eviction = Evict<MeanAndVariance, Preference>;
};

int main() {
  RandomText text({.layers = 2, .query_heads = 4, .kv_heads = 2, .head_dim = 64}, 420);
  const std::size_t prompt = 400;
  const std::size_t told = 150;  // a row that some queries of the window look for and others do not: it varies
  for (std::size_t t = 0; t < text.tokens; ++t) {
    for (std::size_t h = 0; h < 4; ++h) {
      for (std::size_t c = 0; c < 64; ++c) { text.query(1, t, h)[c] *= 2.0F; }  // attention of layer 1 is sharper and shifts more
      if (t % 2 == 0) { std::copy_n(text.key(0, told, h / 2), 64, text.query(0, t, h)); }
    }
  }
  KVCache<CakeLike> cache(text.shape, {.eviction = {.budget = 80}});
  for (std::size_t layer = 0; layer < 2; ++layer) {
    text.append(cache, layer, 0, prompt);
    text.attend(cache, layer, 0, prompt);
    cache.end_prompt(layer);
  }
  double worst = 0.0;
  const std::size_t rows[2] = {cache.kept(0, 0).size(), cache.kept(1, 0).size()};
  for (std::size_t t = prompt; t < text.tokens; ++t) {
    for (std::size_t layer = 0; layer < 2; ++layer) {
      text.append(cache, layer, t, t + 1);
      worst = std::max(worst, text.error(text.attend(cache, layer, t, t + 1), layer, t));
    }
  }
  // The definition, in double: entropy and variance of both layers.
  double preference[2] = {};
  for (std::size_t layer = 0; layer < 2; ++layer) {
    double entropy = 0.0;
    double variances = 0.0;
    for (std::size_t h = 0; h < 4; ++h) {
      std::vector<double> sums(prompt - 32), squares(prompt - 32);
      for (std::size_t t = prompt - 32; t < prompt; ++t) {
        const std::vector<double> p = text.probabilities(layer, t, h);
        for (std::size_t row = 0; row < prompt - 32; ++row) {
          entropy -= p[row] * std::log(p[row] + 1e-10);
          sums[row] += p[row];
          squares[row] += p[row] * p[row];
        }
      }
      for (std::size_t row = 0; row < prompt - 32; ++row) { variances += (squares[row] - sums[row] * sums[row] / 32.0) / 31.0; }
    }
    preference[layer] = entropy * variances;
  }
  const double expected = 32.0 + 2.0 * 48.0 * preference[0] / (preference[0] + preference[1]);
  const std::vector<Position> kept = cache.kept(0, 0);
  const bool there = std::binary_search(kept.begin(), kept.end(), static_cast<Position>(told));
  std::printf("%zu and %zu rows of the two layers stay, %.2f in the first by definition; row %zu %s\n", rows[0], rows[1], expected, told,
              there ? "stays" : "went");
  return there && std::abs(expected - static_cast<double>(rows[0])) <= 1.0 && rows[0] + rows[1] <= 160 && rows[0] + rows[1] >= 158 ? 0 : 1;
}
