// examples/own/triforce.cpp - drafts over a view of the best chunks, verified over all rows, as TriForce's retrieval cache.
// SPDX-License-Identifier: MIT
#include <kvcompress/kvcompress.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>

#include "random_text.hpp"
using namespace kvcompress;

/// The mean keys of every `chunk` rows; a draft reads the first chunk and those whose mean has the largest product with its query, the sum over
/// the query heads of a KV head; what is not drafted reads everything. ("TriForce: Lossless Acceleration of Long Sequence Generation with
/// Hierarchical Speculative Decoding", its retrieval cache; there drafts overwrite its tail.) Bytes: 4 * key width a chunk.
struct ChunkMeans {
  static constexpr std::string_view name = "chunk_means";
  struct Options {
    std::size_t budget = 4096;
    std::size_t chunk = 8;
    static void fields(auto& options, auto&& field) {
      field("budget", options.budget);
      field("chunk", options.chunk);
    }
  };
  struct State {
    std::size_t chunk;
    std::size_t width;
    Vector<float> means;
    void reserve(std::size_t rows) { means.reserve(rows / chunk * width); }
    void resize(std::size_t rows) noexcept { means.resize(std::min(means.size(), rows / chunk * width)); }
    void move(std::size_t /*from*/, std::size_t to) noexcept { resize(to); }  // indexed anew
    void erase(std::size_t first, std::size_t /*count*/) noexcept { resize(first); }
    static void compact(std::size_t) noexcept {}
    void account(MemoryReport& report) const noexcept { report.add(&MemoryReport::indices, means); }
    [[nodiscard]] std::size_t indexed() const noexcept { return means.size() / width * chunk; }
    [[nodiscard]] Reads reads() const noexcept { return {indexed(), chunk, {}, {}}; }
    static void remember_first(const Vector<RowRange>&) noexcept {}
    static void persist(auto& self, auto& archive, std::size_t rows) {
      archive.vector(self.means);
      archive.check(self.means.size() % self.width == 0 && self.indexed() <= rows, "the means are not those of its rows");
    }
  };

  static void validate(const Options& options, const Shape&) {
    require(options.chunk > 0 && options.budget >= 2 * options.chunk, ErrorCode::option, "chunk_means: budget is ", options.budget,
            ", must be at least 2 chunks of at least 1 row");
  }
  static constexpr bool reads_all(const Options&, const Site&) noexcept { return true; }
  static constexpr bool wants_last_query(const Options&, const Site&) noexcept { return false; }
  static constexpr bool renumbers(const Options&, const Site&) noexcept { return false; }
  static State state(const Options& options, const Site& site, const Memory& memory) {
    return {options.chunk, site.shape.key_width(), Vector<float>(Allocator<float>(memory))};
  }
  static std::size_t bytes_for(const Options& options, const Site& site, std::size_t rows) noexcept {
    return rows / options.chunk * site.shape.key_width() * sizeof(float);
  }
  static void make_room_to_refresh(const Options&, State& state, std::size_t rows, Vector<float>& scratch) {
    reserve_growing(state.means, rows / state.chunk * state.width);
    scratch.resize(std::max(scratch.size(), state.width));
  }
  static void refresh(const Options& options, State& state, const RowTable& table, bool, std::size_t, auto&& read, Vector<float>& scratch) {
    make_room_to_refresh(options, state, table.rows(), scratch);
    for (std::size_t row = state.indexed(); row < table.rows() / state.chunk * state.chunk; ++row) {
      if (row % state.chunk == 0) { state.means.resize(state.means.size() + state.width); }
      read(row, scratch.data());
      float* mean = state.means.data() + state.means.size() - state.width;
      for (std::size_t c = 0; c < state.width; ++c) { mean[c] += scratch[c] / static_cast<float>(state.chunk); }
    }
  }
  static void select(const Options& options, const State& state, const Retrieving& in, Vector<RowRange>& ranges) {
    in.order.clear();
    in.scratch.assign(state.indexed() / state.chunk, 0.0F);
    for (std::size_t i = 0; i < in.scratch.size(); ++i) {
      if (in.visible.any(in.table, i * state.chunk, (i + 1) * state.chunk)) { in.order.push_back(static_cast<Position>(i)); }
      for (std::size_t q = 0; q < in.group; ++q) {
        in.scratch[i] = std::inner_product(in.queries + q * in.stride, in.queries + q * in.stride + state.width,
                                           state.means.data() + i * state.width, in.scratch[i]);
      }
    }
    if (!in.scratch.empty()) { in.scratch[0] = HUGE_VALF; }
    const auto end = in.order.begin() + static_cast<std::ptrdiff_t>(std::min(in.order.size(), options.budget / options.chunk));
    std::partial_sort(in.order.begin(), end, in.order.end(), [&](Position a, Position b) { return in.scratch[a] > in.scratch[b]; });
    std::sort(in.order.begin(), end);
    for (auto i = in.order.begin(); i < end; ++i) { ranges.push_back({*i * state.chunk, (*i + 1) * state.chunk}); }
  }
};
struct TriForceView {
  using Retrieval = ChunkMeans;
};

/// A toy model: a token has a key, a value and a query; the next one is that whose value is most like what attention found.
struct Toy {
  static constexpr std::size_t words = 48;
  RandomText of{{.query_heads = 4, .kv_heads = 2, .head_dim = 64}, words, 7};
  void append(KVCache<TriForceView>& cache, std::size_t word) { of.append(cache, 0, word, word + 1); }
  [[nodiscard]] std::size_t best(const float* out) {
    std::size_t best = 0;
    float most = -HUGE_VALF;
    for (std::size_t w = 0; w < words; ++w) {
      float alike = 0.0F;
      for (std::size_t h = 0; h < 4; ++h) { alike = std::inner_product(out + h * 64, out + h * 64 + 64, of.value(0, w, h / 2), alike); }
      if (alike > most) { best = w, most = alike; }
    }
    return best;
  }
};

int main() {
  Toy toy;
  for (float& x : toy.of.queries) { x *= 2.0F; }
  const std::size_t prompt = 1000;
  std::mt19937 random(3);
  std::vector<std::size_t> text(prompt);
  for (std::size_t& word : text) { word = random() % Toy::words; }
  KVCache<TriForceView> cache(toy.of.shape, {.retrieval = {.budget = 256}});
  for (std::size_t word : text) { toy.append(cache, word); }
  cache.end_prompt(0);
  KVCache<TriForceView> plain = cache.fork();

  const auto ask = [&](KVCache<TriForceView>& one, std::size_t word, const AttendOptions& options) {
    toy.append(one, word);
    return toy.best(toy.of.attend(one, 0, word, word + 1, options).data());
  };
  std::vector<std::size_t> expected{0};
  while (expected.size() < 61) { expected.push_back(ask(plain, expected.back(), {})); }

  const std::size_t gamma = 6;
  std::vector<std::size_t> written{0};
  std::size_t passes = 0;
  std::size_t read = 0;
  Plan plan;
  while (written.size() < 61) {
    const std::size_t position = prompt + written.size() - 1;
    // Drafts. Their view is chosen anew every few passes, before rows come that truncate will remove.
    std::vector<std::size_t> drafts{written.back()};
    if (passes % 4 == 0) {
      cache.select(0, toy.of.query_rows(0, drafts[0], drafts[0] + 1), plan, {.query_position = static_cast<Position>(position)});
    }
    read = 0;
    for (const RowRange& range : plan.ranges(0)) { read += range.size(); }
    while (drafts.size() <= gamma) { drafts.push_back(ask(cache, drafts.back(), {.record = Record::none, .plan = &plan})); }
    cache.truncate(static_cast<Position>(position));
    // Verification of all at once.
    RandomText step(toy.of.shape, drafts.size());
    for (std::size_t i = 0; i < drafts.size(); ++i) {
      std::copy_n(toy.of.key(0, drafts[i], 0), 2 * 64, step.key(0, i, 0));
      std::copy_n(toy.of.value(0, drafts[i], 0), 2 * 64, step.value(0, i, 0));
      std::copy_n(toy.of.query(0, drafts[i], 0), 4 * 64, step.query(0, i, 0));
    }
    step.append(cache, 0, 0, drafts.size());
    const std::vector<float> out = step.attend(cache, 0, 0, drafts.size());
    std::size_t accepted = 0;
    for (bool right = true; right && accepted < drafts.size(); ++accepted) {
      written.push_back(toy.best(out.data() + accepted * 4 * 64));
      right = accepted + 1 < drafts.size() && drafts[accepted + 1] == written.back();
    }
    cache.truncate(static_cast<Position>(position + accepted));
    cache.commit(0);
    ++passes;
  }
  written.resize(61);
  std::printf("60 words in %zu passes, of drafts that read %zu of %zu older rows; %s\n", passes, read, cache.tokens(),
              written == expected ? "the same as without drafts" : "not those of the model");
  return written == expected && passes < 60 && read < prompt / 3 ? 0 : 1;
}
