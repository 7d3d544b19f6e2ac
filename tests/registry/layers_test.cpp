// tests/registry/layers_test.cpp - layers that differ: Gemma-3-like windows and ropes, layers that read the rows of others; against the reference.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include "kvcompress/policies/full.hpp"
#include "kvcompress/policies/windowed.hpp"
#include "registry/registry.hpp"
#include "support/random_rows.hpp"
#include "support/saved.hpp"

namespace layers_test {

using namespace kvcompress;
using namespace kvcompress::test;

constexpr std::size_t prompt = 150;
constexpr std::size_t end = 230;

/// Four layers: local ones with a window and a rope of their own around a full one of other heads and widths, whose rows the last layer reads.
struct Model {
  std::vector<double> factors = std::vector<double>(8, 2.0);
  std::vector<Shape> each = std::vector<Shape>(
      4,
      Shape{
          .layers = 4, .query_heads = 4, .kv_heads = 2, .head_dim = 32, .keys = KeyForm::unrotated, .rope = {.theta = 1e4}, .window = 40});
  Shape shape{.layers = 4, .query_heads = 3, .kv_heads = 3, .head_dim = 7, .keys = KeyForm::unrotated};  // but for layers and keys not read
  std::vector<Text> texts;

  Model() {
    each[1].query_heads = 3;
    each[1].kv_heads = 1;
    each[1].key_dim = 64;
    each[1].rope = {.theta = 1e6, .rotary_dim = 16, .magnitude = 1.25, .frequency_factors = factors.data()};
    each[1].window = 0;
    each[2].window = 24;
    each[3] = each[1];
    each[3].store_of = 1;
    each[3].window = 60;
    shape.each = each.data();
    for (std::size_t layer = 0; layer < 4; ++layer) { texts.emplace_back(each[layer], end, static_cast<unsigned>(layer + 1)); }
    texts[3].keys = texts[1].keys;
    texts[3].values = texts[1].values;
  }
};

reference::Matrix embedded(reference::Matrix rows, const Shape& shape) {
  const auto count = rows.rows();
  const Rope& rope = shape.rope;
  const double factor = rope.frequency_factors == nullptr ? 1.0 : rope.frequency_factors[0];
  const auto width = static_cast<reference::Index>(2 * shape.rotary_pairs());
  rows = reference::rotate(rows, reference::consecutive(0, count), {.theta = rope.theta, .rotary_dim = width, .linear_factor = factor});
  rows.leftCols(width) *= rope.magnitude;
  return rows;
}
/// Attention of a layer over the whole text, in double.
Outputs expected(const Text& text) {
  Outputs out(text.tokens * text.output_width());
  const auto places = reference::consecutive(0, static_cast<reference::Index>(text.tokens));
  for (std::size_t head = 0; head < text.shape.query_heads; ++head) {
    const std::size_t lane = head / text.shape.group();
    const auto result =
        reference::attention(embedded(text.query_matrix(head), text.shape), embedded(text.key_matrix(lane), text.shape),
                             text.value_matrix(lane), places, places, {.window = static_cast<std::int64_t>(text.shape.window)});
    for (reference::Index t = 0; t < result.output.rows(); ++t) {
      for (reference::Index c = 0; c < result.output.cols(); ++c) {
        out[(static_cast<std::size_t>(t) * text.shape.query_heads + head) * text.shape.value_width() + static_cast<std::size_t>(c)] =
            static_cast<float>(result.output(t, c));
      }
    }
  }
  return out;
}

template <class Cache>
Outputs attend_layer(Cache& cache, const Model& model, std::size_t layer, std::size_t last, std::size_t count) {
  const Text& text = model.texts[layer];
  Outputs out(count * text.output_width(), -1.0F);
  cache.attend(layer, text.query_rows(last - count, count),
               Output::tokens_first(out.data(), count, text.shape.query_heads, text.shape.value_width()));
  return out;
}
/// The outputs of every layer, of a forward pass over the tokens [first, last).
template <class Cache>
void pass(Cache& cache, const Model& model, std::size_t first, std::size_t last, std::vector<Outputs>& out) {
  for (std::size_t layer = 0; layer < 4; ++layer) {
    const Text& text = model.texts[layer];
    if (model.shape.owns(layer)) { cache.append(layer, text.key_rows(first, last - first), text.value_rows(first, last - first)); }
    const Outputs own = attend_layer(cache, model, layer, last, last - first);
    out[layer].insert(out[layer].end(), own.begin(), own.end());
  }
}
/// A prompt and decoded tokens; halfway the cache is saved, loaded and forked if `save`.
template <class Cache>
std::vector<Outputs> live(Cache& cache, const Model& model, bool save = false) {
  std::vector<Outputs> out(4);
  pass(cache, model, 0, 100, out);
  pass(cache, model, 100, prompt, out);
  for (std::size_t layer = 0; layer < 4; ++layer) { cache.end_prompt(layer); }
  for (std::size_t t = prompt; t < end; ++t) {
    if (save && t == 190) {
      Cache other(model.shape, cache.options());
      load_from(other, saved(cache));
      cache = other.fork();
    }
    pass(cache, model, t, t + 1, out);
  }
  return out;
}
std::vector<Outputs> live_by_name(const std::string& policy, const Model& model, bool save = false) {
  AnyCache cache = examples::registry().make(policy, model.shape);
  return live(cache, model, save);
}

/// The text from `first` on, with the prompt's end on the way.
Outputs run_on(AnyCache& cache, const Text& text, std::size_t first) {
  Outputs all = step(cache, text, first, prompt - first);
  cache.end_prompt(0);
  for (std::size_t t = prompt; t < end; ++t) {
    const Outputs one = step(cache, text, t, 1);
    all.insert(all.end(), one.begin(), one.end());
  }
  return all;
}

TEST(Layers, AreAttendedAsTheReferenceDoes) {
  const Model model;
  const std::vector<Outputs> out = live_by_name("f32", model);
  for (std::size_t layer = 0; layer < 4; ++layer) { EXPECT_LT(deviation(out[layer], expected(model.texts[layer])), 3e-5) << layer; }
  EXPECT_EQ(live_by_name("f32", model, true), out) << "saved between and loaded";
}

TEST(Layers, RowsPastAWindowLeave) {
  const Model model;
  AnyCache cache = examples::registry().make("f32", model.shape);
  static_cast<void>(live(cache, model));
  for (std::size_t layer = 0; layer < 4; ++layer) { cache.commit(layer); }
  std::vector<std::size_t> sizes;
  for (std::size_t layer = 0; layer < 4; ++layer) { sizes.push_back(cache.kept(layer, 0).size()); }
  EXPECT_EQ(sizes, (std::vector<std::size_t>{39, end, 23, end}));
  EXPECT_EQ(cache.kept(2, 1).front(), end - 23);
  EXPECT_EQ(cache.shape().values_per_token(), 2U * 2U * 64U + 96U);
}

/// Whatever the policy, a layer gives what it gives in a cache of its own, and a saved cache goes on like the one that it was saved from.
TEST(Layers, AreWhatTheyAreAlone) {
  const Model model;
  for (const char* const policy :
       {"streaming:sinks=4,window=28+f32", "streaming:sinks=4,window=28,in_cache_positions=false+kivi2:residual=32",
        "h2o:budget=30,recent=10+f32", "snapkv:budget=30,window=8+kivi4:residual=32", "tova:budget=32", "snapkv:budget=30,window=8+adakv",
        "kivi4:residual=32", "gear4:buffer=8", "rot4", "quest:budget=32,page=8,dense_layers=0",
        "layers 0: h2o:budget=20; heads 1.0,2.1: f32; rest: snapkv:budget=30,window=8+kivi2:residual=32"}) {
    const std::vector<Outputs> out = live_by_name(policy, model);
    EXPECT_EQ(live_by_name(policy, model, true), out) << policy << ", saved between and loaded";
    if (std::string(policy).starts_with("layers")) { continue; }
    for (const std::size_t layer : {std::size_t{0}, std::size_t{2}}) {
      Shape shape = model.each[layer];
      shape.layers = 1;
      AnyCache alone = examples::registry().make(policy, shape);
      const Text& text = model.texts[layer];
      Outputs own = step(alone, text, 0, 100);
      const Outputs more = run_on(alone, text, 100);
      own.insert(own.end(), more.begin(), more.end());
      EXPECT_EQ(own, out[layer]) << policy << ", layer " << layer;
    }
  }
}

/// A prompt of a layer that others read ends with that of its last reader, whose queries count, too.
TEST(Layers, AStepEndsWithTheLastReader) {
  const Model model;
  AnyCache cache = examples::registry().make("snapkv:budget=50,window=8", model.shape);
  std::vector<Outputs> out(4);
  pass(cache, model, 0, prompt, out);
  for (std::size_t layer = 0; layer < 3; ++layer) { cache.end_prompt(layer); }
  EXPECT_EQ(cache.kept(1, 0).size(), prompt);
  EXPECT_EQ(cache.kept(2, 0).size(), 23U);  // those of its window, fewer than the budget
  cache.end_prompt(3);
  EXPECT_EQ(cache.kept(1, 0).size(), 50U);
  EXPECT_EQ(cache.kept(3, 0), cache.kept(1, 0));
  const auto scores = [&](bool with_reader) {
    AnyCache watched = examples::registry().make("h2o:budget=50,recent=10", model.shape);
    std::vector<Outputs> ignored(4);
    for (std::size_t layer = 0; layer < 4; ++layer) {
      const Text& text = model.texts[layer];
      if (layer < 3) { watched.append(layer, text.key_rows(0, prompt), text.value_rows(0, prompt)); }
      if (layer < 3 || with_reader) { static_cast<void>(attend_layer(watched, model, layer, prompt, prompt)); }
    }
    watched.end_prompt(3);
    return watched.kept(1, 0);
  };
  EXPECT_NE(scores(true), scores(false)) << "the reader's queries are observed";
}

TEST(Layers, ErrorsNameTheLayer) {
  const Model model;
  AnyCache cache = examples::registry().make("f16", model.shape);
  const auto expect = [](auto&& work, const std::string& sentence) {
    try {
      work();
      ADD_FAILURE() << "expected: " << sentence;
    } catch (const Error& error) { EXPECT_EQ(std::string(error.what()), "kvcompress: " + sentence); }
  };
  const Text& text = model.texts[3];
  expect([&] { cache.append(3, text.key_rows(0, 1), text.value_rows(0, 1)); },
         "append: layer is 3, must be 1, whose rows it reads: it has none of its own");
  expect([&] { cache.append(0, text.key_rows(0, 1), text.value_rows(0, 1)); }, "append: keys.heads() is 1, must be shape.kv_heads = 2");
  static_cast<void>(live(cache, model));
  for (std::size_t layer = 0; layer < 4; ++layer) { cache.commit(layer); }
  expect([&] { cache.truncate(200); }, "truncate: position is 200, must be at least the position of the last commit, 230 in layer 0");
  const auto made_of = [&](auto&& change) {
    Model other;
    change(other.each);
    static_cast<void>(examples::registry().make("f16", other.shape));
  };
  expect([&] { made_of([](auto& each) { each[3].store_of = 3; }); }, "shape.each[3].store_of is 3, must be an earlier layer, less than 3");
  expect([&] { made_of([](auto& each) { each[3].kv_heads = 3; }); },
         "shape.each[3].kv_heads is 3, must be that of layer 1, whose rows it reads: 1");
  expect([&] { made_of([](auto& each) { each[3].rope.theta = 1e4; }); },
         "shape.each[3].rope differs from that of layer 1, must be the same: it reads its rows");
  expect([&] { made_of([](auto& each) { each[2].layers = 5; }); }, "shape.each[2].layers is 5, must be shape.layers = 4");
  expect(
      [&] { KVCache<Full<>>({.window = 16}); },
      "shape.window is 16 in layer 0, must be 0: the type of the policy keeps every row. Combine<Windowed, ...> lets rows go that lie past "
      "a window");
}

TEST(Layers, TypedAndNamedAreOne) {
  const Model model;
  KVCache<Combine<Windowed, Full<float>>> typed(model.shape);
  AnyCache named = examples::registry().make("f32", model.shape);
  EXPECT_EQ(live(typed, model, true), live(named, model));
  EXPECT_TRUE(saved(typed) == saved(named));
}

}  // namespace layers_test
