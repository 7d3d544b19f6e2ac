// examples/own/lserve.cpp - by a file of gates, some KV heads keep sinks and a window, the others all rows in pages, as in LServe.
// SPDX-License-Identifier: MIT
#include <kvcompress/core/loaded_numbers.hpp>
#include <kvcompress/kvcompress.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <sstream>

#include "random_text.hpp"
using namespace kvcompress;

/// A gate per KV head of the model, layer by layer: those of at least `threshold` are retrieval heads, the others stream.
struct Gates {
  LoadedNumbers numbers{};
  double threshold = 0.5;
  [[nodiscard]] bool streams(const Site& site) const { return static_cast<double>(numbers.all()[site.lane()]) < threshold; }
  void validate(const Shape& shape) const { numbers.check("lserve: gates", shape.lanes(), "layers * kv_heads"); }
  static Gates load(std::istream& file) {
    std::vector<float> numbers;
    for (float gate = 0.0F; file >> gate;) { numbers.push_back(gate); }
    return {LoadedNumbers(numbers)};
  }
};
/// Streaming heads keep the first `sinks` rows and the newest `window`, others all. Observes nothing.
struct StreamingHeads {
  static constexpr std::string_view name = "streaming_heads";
  static constexpr Needs may{};
  struct Options {
    Gates gates{};
    std::size_t sinks = 64;
    std::size_t window = 256;
    static void fields(auto& options, auto&& field) {
      field("sinks", options.sinks);
      field("window", options.window);
      field("threshold", options.gates.threshold);
    }
    static void unnamed_fields(auto& options, auto&& field) { field("gates", options.gates.numbers); }
  };
  using State = NoState;
  static void validate(const Options& options, const Shape& shape) {
    options.gates.validate(shape);
    require(options.window > 0, ErrorCode::option, "lserve: window is 0, must be at least 1");
  }
  static constexpr bool renumbers(const Options&) noexcept { return false; }
  static constexpr std::size_t row_bytes(const Options&, const Shape&) noexcept { return 0; }
  static State state(const Options&, const Site&, const Memory&) noexcept { return {}; }
  static void select(const Options& options, std::span<RowSet> sets, const Moment&) {
    for (RowSet& set : sets) {
      if (!options.gates.streams(set.lanes.front().site) || set.rows.live() <= options.sinks + options.window) { continue; }
      const Position first_gone = set.oldest(options.sinks);
      const Position first_kept = set.newest(options.window - 1);
      for (std::size_t row = 0; row < set.rows.rows(); ++row) {
        const Position p = set.rows.position(row);
        if (p >= first_gone && p < first_kept) { set.drop[row] = static_cast<unsigned char>(Fate::drop); }
      }
    }
  }
};
/// Quest's pages in the other heads, chosen for 4 tokens at once.
struct PagesOfHeads : PageBounds<half> {
  static constexpr std::string_view name = "pages_of_heads";
  struct Options : PageBounds<half>::Options {
    Gates gates{};
    static void fields(auto& options, auto&& field) {
      PageBounds<half>::Options::fields(options, field);
      field("threshold", options.gates.threshold);
    }
    static void unnamed_fields(auto& options, auto&& field) { field("gates", options.gates.numbers); }
  };
  static void validate(const Options& options, const Shape& shape) {
    PageBounds<half>::validate(options, shape);
    options.gates.validate(shape);
  }
  static bool reads_all(const Options& options, const Site& site) { return options.gates.streams(site); }
};
struct LServeLike {
  using Eviction = StreamingHeads;
  using Retrieval = PagesOfHeads;
};

int main(int argc, char** argv) {
  std::istringstream built_in("0.9 0.1\n0.2 0.8\n");  // layer 0: head 1 streams; layer 1: head 0
  std::ifstream file(argc > 1 ? argv[1] : "");
  const Gates gates = Gates::load(argc > 1 ? static_cast<std::istream&>(file) : built_in);
  RandomText text({.layers = 2, .query_heads = 4, .kv_heads = 2, .head_dim = 64}, 530);
  const std::size_t prompt = 500;
  const std::size_t needle = 203;
  for (std::size_t layer = 0; layer < 2; ++layer) {
    for (std::size_t h = 0; h < 2; ++h) { text.key(layer, needle, h)[0] = 10.0F; }
    for (std::size_t t = prompt; t < text.tokens; ++t) {  // all look for that row
      for (std::size_t h = 0; h < 4; ++h) {
        std::fill_n(text.query(layer, t, h), 64, 0.0F);
        text.query(layer, t, h)[0] = 20.0F;
      }
    }
  }
  KVCache<LServeLike> cache(text.shape, {.eviction = {.gates = gates, .sinks = 16, .window = 64},
                                         .retrieval = {{.budget = 64, .dense_layers = 0, .reuse = 4}, gates}});
  bool right = true;
  for (std::size_t layer = 0; layer < 2; ++layer) {
    text.append(cache, layer, 0, prompt);
    text.attend(cache, layer, 0, prompt);
    cache.end_prompt(layer);
    double found[2] = {};
    std::vector<float> out;
    for (std::size_t t = prompt; t < text.tokens; ++t) {
      text.append(cache, layer, t, t + 1);
      out = text.attend(cache, layer, t, t + 1);
      for (std::size_t h = 0; h < 4; ++h) {  // how much of the needle's value is in the output
        double product = 0.0;
        double length = 0.0;
        for (std::size_t c = 0; c < 64; ++c) {
          const double v = static_cast<double>(text.value(layer, needle, h / 2)[c]);
          product += v * static_cast<double>(out[h * 64 + c]);
          length += v * v;
        }
        found[h / 2] += product / length / 60.0;
      }
    }
    Plan plan;
    cache.select(layer, text.query_rows(layer, text.tokens - 1, text.tokens), plan);
    for (std::size_t head = 0; head < 2; ++head) {
      const bool streams = gates.streams(Site(layer, head, text.shape));
      std::size_t read = 0;  // a plan has fewer rows of a head that attend reads in full
      for (const RowRange& range : plan.ranges(head)) { read += range.size(); }
      read = streams ? cache.kept(layer, head).size() : read;
      std::printf("layer %zu, head %zu %s: %zu rows stay, a query reads %zu, %.3f of the row it looks for\n", layer, head,
                  streams ? "streams" : "retrieves", cache.kept(layer, head).size(), read, found[head]);
      // The step that is open has one row more than the window.
      right = right && (streams ? cache.kept(layer, head).size() == 81 && found[head] < 0.3
                                : cache.kept(layer, head).size() == text.tokens && read <= 80 && found[head] > 0.9);
    }
  }
  return right ? 0 : 1;
}
