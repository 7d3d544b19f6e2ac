// tests/registry/clauses_test.cpp - policies by layer and KV head, and keys and values held in different ways, by name.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <cstdio>
#include <cstring>
#include <fstream>

#include "registry/refused.hpp"
#include "registry/registry.hpp"
#include "support/random_rows.hpp"
#include "support/saved.hpp"

namespace clauses_test {

using namespace kvcompress;
using namespace kvcompress::test;
using examples::registry;

const Shape shape{.layers = 4, .query_heads = 4, .kv_heads = 2, .head_dim = 32};
constexpr std::size_t prompt = 140;
constexpr std::size_t end = 170;

/// All outputs, (layers, tokens, query heads, width).
Outputs live(AnyCache& cache, const Text& text) {
  Outputs all;
  const auto keep = [&](const Outputs& out) { all.insert(all.end(), out.begin(), out.end()); };
  for (std::size_t layer = 0; layer < shape.layers; ++layer) { keep(step(cache, text, 0, prompt, layer)); }
  for (std::size_t layer = 0; layer < shape.layers; ++layer) { cache.end_prompt(layer); }
  for (std::size_t t = prompt; t < end; ++t) {
    for (std::size_t layer = 0; layer < shape.layers; ++layer) { keep(step(cache, text, t, 1, layer)); }
  }
  for (std::size_t layer = 0; layer < shape.layers; ++layer) { cache.commit(layer); }
  return all;
}

/// What each lane of a policy with clauses gives is what it gives where all lanes have its clause.
TEST(Clauses, EveryLaneDoesWhatItsClauseSays) {
  const Text text(shape, end, 3);
  const std::string exact = "f16";
  const std::string windowed = "streaming:sinks=8,window=56,in_cache_positions=false";
  const std::string coded = "h2o:budget=64+kivi4:residual=32";
  const std::string read = "gear4:buffer=8+quest:budget=32,page=8,dense_layers=0";
  const std::string policy = "layers 0 : " + exact + "; heads 1.0,2.0-1 :" + windowed + "; heads 1-3.1 : " + coded + ";rest: " + read;
  const std::string of_lane[] = {exact, exact, windowed, coded, windowed, windowed, read, coded};
  AnyCache mixed = registry().make(policy, shape);
  const Outputs out = live(mixed, text);
  const std::size_t width = text.output_width();
  for (std::size_t lane = 0; lane < 8; ++lane) {
    const std::size_t layer = lane / 2;
    // Where KV heads differ, GEAR has the form that h2o needs, too.
    const std::string alone = of_lane[lane] == read ? "layers 0-2: f16; heads 3.1: f32; rest: " + read : of_lane[lane];
    AnyCache same = registry().make(alone, shape);
    const Outputs expected = live(same, text);
    EXPECT_EQ(mixed.kept(layer, lane % 2), same.kept(layer, lane % 2)) << lane;
    std::size_t at = 0;
    for (const std::size_t tokens : std::vector<std::size_t>{prompt, end - prompt}) {
      for (std::size_t t = 0; t < tokens; ++t) {
        const std::size_t token = tokens == prompt ? at + (layer * prompt + t) * width : at + (t * shape.layers + layer) * width;
        const float* a = out.data() + token + lane % 2 * (width / 2);
        const float* b = expected.data() + token + lane % 2 * (width / 2);
        ASSERT_EQ(std::memcmp(a, b, width / 2 * sizeof(float)), 0) << "lane " << lane << ", token " << t;
      }
      at += tokens * shape.layers * width;
    }
  }
  AnyCache loaded = registry().make(policy, shape);
  load_from(loaded, saved(mixed));
  EXPECT_TRUE(saved(loaded) == saved(mixed));
  EXPECT_TRUE(step(loaded, text, 0, 1, 3) == step(mixed, text, 0, 1, 3));
}

TEST(Clauses, OneClauseForAllLanesIsThePolicyWithoutClauses) {
  const Text text(shape, end, 4);
  AnyCache plain = registry().make("snapkv:budget=64+gear4", shape);
  AnyCache clause = registry().make("rest: gear4+snapkv:budget=64", shape);
  EXPECT_TRUE(live(clause, text) == live(plain, text));
  EXPECT_TRUE(saved(clause) == saved(plain));
}

TEST(Clauses, KeysAndValuesMayBeHeldInDifferentWays) {
  const Text text(shape, end, 5);
  AnyCache both = registry().make("kivi4:residual=64", shape);
  AnyCache same = registry().make("keys=kivi4:residual=64,values=kivi4:residual=64", shape);
  EXPECT_TRUE(live(same, text) == live(both, text));
  EXPECT_TRUE(saved(same) == saved(both));
  AnyCache apart = registry().make("h2o:budget=100+keys=f16,values=kivi2:residual=32", shape);
  AnyCache turned = registry().make("values=kivi2:residual=32+keys=full+h2o:budget=100", shape);
  EXPECT_TRUE(live(apart, text) == live(turned, text));
  std::vector<float> key(32);
  std::vector<float> value(32);
  AnyCache exact = registry().make("f16", shape);
  AnyCache only_values = registry().make("values=kivi2:residual=32", shape);
  static_cast<void>(live(exact, text));
  static_cast<void>(live(only_values, text));
  std::vector<float> exact_key(32);
  std::vector<float> exact_value(32);
  exact.read(0, 0, 5, exact_key.data(), exact_value.data());
  only_values.read(0, 0, 5, key.data(), value.data());
  EXPECT_EQ(key, exact_key);
  EXPECT_NE(value, exact_value);
}

/// A file that is gone at the end.
struct GateFile {
  std::string path;
  GateFile(const std::string& name, const std::string& text) : path(::testing::TempDir() + name) { std::ofstream(path) << text; }
  GateFile(const GateFile&) = delete;
  GateFile& operator=(const GateFile&) = delete;
  ~GateFile() { std::remove(path.c_str()); }
};

TEST(Clauses, HeadsMayStandInAFile) {
  const GateFile file("duo.tsv", "0.9\t0.1\n0.2\t0.45\n\n1.3\t-0.1\r\n0.55\t0.8\n");
  const auto choices = [](const std::string& policy) { return registry().options(policy, shape).eviction.chosen.of_lane; };
  using Lanes = std::vector<std::uint16_t>;
  const std::string streams = ": streaming:sinks=8,window=56; rest: f16";
  EXPECT_EQ(choices("heads " + file.path + streams), (Lanes{0, 1, 1, 1, 0, 1, 0, 0}));
  EXPECT_EQ(choices("heads " + file.path + " >=0.5: f16; rest: streaming"), (Lanes{0, 1, 1, 1, 0, 1, 0, 0}));
  EXPECT_EQ(choices("heads " + file.path + "<0.2" + streams), (Lanes{0, 1, 0, 0, 0, 1, 0, 0}));
  const std::vector<float> gates{0.9F, 0.1F, 0.2F, 0.45F, 1.3F, -0.1F, 0.55F, 0.8F};
  const std::vector<bool> full = DuoAttention::full_lanes(gates, 0.75);
  const Lanes by_share = choices("heads " + file.path + ">=75%: f16; rest: streaming");
  for (std::size_t lane = 0; lane < 8; ++lane) { EXPECT_EQ(by_share[lane] == by_share[4], full[lane]) << lane; }
  EXPECT_EQ(choices("heads 0.0," + file.path + streams), (Lanes{0, 0, 0, 0, 1, 0, 1, 1}));
  const Text text(shape, end, 6);
  AnyCache from_file = registry().make("heads " + file.path + streams, shape);
  AnyCache spelt = registry().make("heads 0.1,1.0-1,2.1" + streams, shape);
  EXPECT_TRUE(live(from_file, text) == live(spelt, text));
  EXPECT_TRUE(saved(from_file) == saved(spelt));
}

TEST(Clauses, ErrorsNameFileLineAndValue) {
  const auto expect = [](const std::string& gates, const std::string& bound, const std::string& sentence, bool names_path = true) {
    const GateFile file("gates.tsv", gates);
    const std::string policy = "heads " + file.path + bound + ": streaming; rest: f16";
    expect_refused(policy, shape, "policy \"" + policy + "\": " + (names_path ? file.path + ": " : "\"" + file.path) + sentence);
  };
  const std::string rest = "1 0\n1 0\n";
  expect("1 0\n1 0 1\n" + rest, "", "line 2 has 3 numbers, must have one for each of the 2 KV heads of layer 1");
  expect("1 0\n1 x\n" + rest, "", "line 2 has \"x\", must be a number of -1e30 to 1e30");
  expect("1 0\n1 nan\n" + rest, "", "line 2 has \"nan\", must be a number of -1e30 to 1e30");
  expect(rest, "", "there are 2 lines, must be one for each of 4 layers");
  expect(rest + rest + rest, "", "line 5 is one more layer, must be the last of 4");
  expect(rest + rest, "<many",
         "<many\" ends with \"<many\", must end with a bound like <0.5 or >=0.5, or a share of the lanes like <50% or >=50%", false);
  expect(rest + rest, "<150%", "<150%\" has the share 150%, must be 0% to 100%", false);
  expect_refused(
      "heads none.tsv: f16; rest: f32", shape,
      "policy \"heads none.tsv: f16; rest: f32\": none.tsv: cannot be opened (No such file or directory), must be a file of gates");
  const GateFile same("same.tsv", "1 1\n1 1\n1 1\n1 1\n");
  expect_refused("heads " + same.path + ": f16; rest: f32", shape,
                 "policy \"heads " + same.path + ": f16; rest: f32\": \"heads " + same.path +
                     "\" has no lane left, must name one that no clause before it has");
}

void expect_error(const std::string& policy, const std::string& sentence) { expect_refused(policy, shape, sentence); }

TEST(Clauses, ErrorsNameTheClause) {
  const auto expect = [](const std::string& policy, const std::string& sentence) {
    expect_error(policy, "policy \"" + policy + "\"" + sentence);
  };
  expect("layers 0-9: f16; rest: f32", ": layer is 9, must be less than 4");
  expect("heads 0.2: f16; rest: f32", ": KV head is 2, must be less than 2");
  expect("layers 0-1: f16", " says nothing of layer 2, KV head 0, must name every lane, or end with rest");
  expect("rest: f16; layers 1: f32", ": \"layers 1\" has no lane left, must name one that no clause before it has");
  expect("layers 2-1: f16", ": layer 2 is the first of a range, must be at most its last, 1");
  expect("heads 3: f16; rest: f32", ": \"3\" is no KV head, must be a layer and a KV head of it, like 3.0 or 3.0-2");
  expect("layers a: f16; rest: f32", ": \"a\" is no layer, must be a number or a range like 0-2");
  expect("layers 0,: f16", ": \"layers 0,\" ends without a number, must name lanes");
  expect("f16; rest: f32", ": \"f16\" does not say for which lanes it is, must begin with layers 0-1:, heads 0.1,3.0-2: or rest:");
  expect("keys=shadowkv+values=f16", ": keys=shadowkv is given, which is storage and retrieval, must be a storage alone");
  expect("keys=f16+kivi4", " names two storages: f16 and kivi4");
  expect("layers 0: h2o+quest; rest: f16", ": h2o with f16 with quest: " + std::string(detail::Rules::observes_all_sentence));
  expect_error("rest: ", "policy \"\" has an empty part");
  expect_error("layers 0: xkv; rest: f16",
               "storage: layer 1 is held otherwise than layer 0, must be held alike: they are encoded together");
  expect_error(
      "layers 0: snapkv+xkv; rest: xkv",
      "keep_all is chosen for KV head 0 of layer 1, must be what layer 0 has: the storage encodes their lanes together, which must "
      "hold the same rows");
}

}  // namespace clauses_test
