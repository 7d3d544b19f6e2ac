// tests/registry/parts_test.cpp - allocators and selectors behind evictions by name: what they give, and what is refused.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <algorithm>
#include <initializer_list>
#include <iterator>
#include <memory>

#include "any/lives.hpp"
#include "kvcompress/eviction/evict.hpp"
#include "kvcompress/eviction/scored.hpp"
#include "registry/refused.hpp"
#include "registry/registry.hpp"

namespace parts_test {

using namespace kvcompress;
using namespace kvcompress::test;

using examples::registry;

const Shape shape{.layers = 2, .query_heads = 4, .kv_heads = 2, .head_dim = 32};

/// Two names of the same: they live the same life, and their saved files are the same.
void expect_alike(const std::string& parts, const std::string& preset) {
  SCOPED_TRACE(parts);
  AnyCache made_of_parts = registry().make(parts, shape);
  AnyCache whole = registry().make(preset, shape);
  expect_same(made_of_parts, whole, shape);
}
TEST(PartsByName, AreWhatPresetsAreMadeOf) {
  expect_alike("snapkv:window=8,budget=30%+adakv:floor=0.3", "adakv:window=8,budget=30%,floor=0.3");
  expect_alike("snapkv:budget=50,window=8+pyramidkv:beta=8", "pyramidkv:budget=50,window=8,beta=8");
  expect_alike("kivi4:residual=32+snapkv:budget=60,window=8+in_layer+chunkkv:length=10",
               "chunkkv:budget=60,window=8,length=10+kivi4:residual=32");
  expect_alike("snapkv:budget=60,window=8,decode_budget=20+criticalkv:first_share=0.3+adakv",
               "criticaladakv:budget=60,window=8,decode_budget=20,first_share=0.3");
  expect_alike("adakv:budget=50,window=8+uniform+criticalkv", "criticalkv:budget=50,window=8");
  expect_alike("tova:budget=50+in_layer+best", "tova:budget=50");  // its heads agree anyway
}

// The storage decides when the last layer of a group has ended its prompt: what earlier layers have seen is still there then.
TEST(PartsByName, EveryLayerOfAGroupIsHeard) {
  const Text text(shape, 150, 9);
  const Text other(shape, 150, 10);
  for (const std::string policy : {"expected_attention", "cap", "non_causal_attention", "compactor", "grid_logits", "snapkv"}) {
    const auto kept = [&](const Text& asked_first) {
      AnyCache cache = registry().make(policy + ":budget=50+xkv:layers_per_group=2,rank_keys=16,rank_values=16", shape);
      for (std::size_t layer = 0; layer < 2; ++layer) {
        const Text& asked = layer == 0 ? asked_first : text;
        std::vector<float> out(150 * asked.output_width());
        cache.append(layer, text.key_rows(0, 150), text.value_rows(0, 150));
        cache.attend(layer, asked.query_rows(0, 150), Output::tokens_first(out.data(), 150, shape.query_heads, shape.head_dim));
        cache.end_prompt(layer);
      }
      return cache.kept(1, 0);
    };
    EXPECT_NE(kept(text), kept(other)) << policy;
  }
}
/// Rows that lane (0, 0) keeps of a prompt of 150 tokens.
std::vector<Position> kept_of(const std::string& policy) {
  const Text text(shape, 150, 11);
  AnyCache cache = registry().make(policy, shape);
  for (std::size_t layer = 0; layer < shape.layers; ++layer) {
    static_cast<void>(step(cache, text, 0, 150, layer));
    cache.end_prompt(layer);
  }
  return cache.kept(0, 0);
}
TEST(PartsByName, SampledRowsAreOftenTheBest) {
  const std::vector<Position> best = kept_of("keydiff:budget=60,sinks=3,recent=5");
  const auto sampled = [&](const std::string& options) { return kept_of("keydiff:budget=60,sinks=3,recent=5+sampled" + options); };
  EXPECT_EQ(sampled(":best_share=1"), best);
  EXPECT_EQ(sampled(":best_share=0,temperature=0.000001"), best);
  const std::vector<Position> drawn = sampled(":best_share=0.5,seed=1");
  EXPECT_EQ(drawn, sampled(":best_share=0.5,seed=1"));
  EXPECT_NE(drawn, sampled(":best_share=0.5,seed=2"));
  EXPECT_NE(drawn, best);
  const auto in_common = [&](const std::vector<Position>& rows) {
    std::vector<Position> both;
    std::set_intersection(rows.begin(), rows.end(), best.begin(), best.end(), std::back_inserter(both));
    return both.size();
  };
  EXPECT_GE(in_common(drawn), 8U + 26U);
  EXPECT_GT(in_common(drawn), in_common(sampled(":best_share=0,temperature=1000000")));
  for (const std::vector<Position>& rows : {drawn, sampled(":best_share=0,temperature=1000000")}) {
    EXPECT_EQ(rows.size(), 60U);
    EXPECT_EQ((std::vector<Position>{rows[0], rows[1], rows[2]}), (std::vector<Position>{0, 1, 2}));
    EXPECT_EQ(rows[55], 145U);
  }
}
TEST(PartsByName, AThresholdKeepsWhatScoresEnough) {
  const auto rows = [&](const std::string& threshold) {
    return kept_of("largest_window:budget=150,sinks=2,recent=4,window=16+threshold:threshold=" + threshold).size();
  };
  EXPECT_EQ(rows("0"), 150U);
  EXPECT_EQ(rows("2"), 6U);
  std::size_t before = 150;
  for (const char* const threshold : {"0.01", "0.03", "0.1"}) {
    const std::size_t own = rows(threshold);
    EXPECT_LT(own, before) << threshold;
    EXPECT_GT(own, 6U) << threshold;
    before = own;
  }
  EXPECT_EQ(kept_of("largest_window:budget=20,window=16+threshold:threshold=0").size(), 20U);
  expect_refused("keydiff+threshold:threshold=inf", shape, "threshold: threshold is inf, must be finite");
}

// What a prompt's queries say does not depend on how it is cut, and is saved and loaded with it while it is open.
TEST(PartsByName, QueriesOfAPromptAreKeptUntilItEnds) {
  const Text text(shape, 160, 12);
  for (const std::string policy : {"cap", "non_causal_attention:chunk=32", "compactor:chunk=32", "grid_logits", "rkv:window=8",
                                   "windowkv:suffix=8", "largest_window:window=8", "global_local"}) {
    const std::string name = policy + (policy.find(':') == std::string::npos ? ":" : ",") + "budget=50";
    const auto kept = [&](std::initializer_list<std::size_t> pieces, bool reloads) {
      auto cache = std::make_unique<AnyCache>(registry().make(name, shape));
      for (std::size_t layer = 0; layer < shape.layers; ++layer) {
        std::size_t first = 0;
        for (const std::size_t count : pieces) {
          static_cast<void>(step(*cache, text, first, count, layer));
          first += count;
          if (!reloads) { continue; }
          auto loaded = std::make_unique<AnyCache>(registry().make(name, shape));
          load_from(*loaded, test::saved(*cache));
          cache = std::move(loaded);
        }
        cache->end_prompt(layer);
      }
      std::vector<Position> all;
      for (std::size_t lane = 0; lane < shape.layers * shape.kv_heads; ++lane) {
        const auto own = cache->kept(lane / shape.kv_heads, lane % shape.kv_heads);
        if (!name.starts_with("windowkv")) { EXPECT_EQ(own.size(), 50U) << name; }
        all.insert(all.end(), own.begin(), own.end());
      }
      return all;
    };
    const std::vector<Position> whole = kept({160}, false);
    EXPECT_EQ(kept({60, 90, 10}, false), whole) << name;
    EXPECT_EQ(kept({60, 90, 10}, true), whole) << name;
    EXPECT_LE(whole.size(), 4U * 50U) << name;
  }
}
TEST(PartsByName, KeepTheBudgetsThatTheyShareOut) {
  const Text text(shape, 210, 8);
  const auto kept = [&](const std::string& policy) {
    AnyCache cache = registry().make(policy, shape);
    for (std::size_t layer = 0; layer < shape.layers; ++layer) {
      static_cast<void>(step(cache, text, 0, 150, layer));
      cache.end_prompt(layer);
    }
    std::vector<std::size_t> rows;
    for (std::size_t layer = 0; layer < shape.layers; ++layer) {
      static_cast<void>(step(cache, text, 150, 1, layer));
      cache.commit(layer);
      for (std::size_t head = 0; head < shape.kv_heads; ++head) { rows.push_back(cache.kept(layer, head).size()); }
    }
    return rows;
  };
  const auto even = kept("h2o:budget=60");
  EXPECT_EQ(even, std::vector<std::size_t>(4, 60));
  EXPECT_EQ(kept("h2o:budget=60+uniform+best"), even);
  const auto pyramid = kept("tova:budget=60+pyramidkv:beta=4");
  EXPECT_GT(pyramid.front(), 60U);
  EXPECT_LT(pyramid.back(), 60U);
  const auto ada = kept("h2o:budget=60+adakv");
  EXPECT_EQ(ada[0] + ada[1], 120U);
  EXPECT_NE(ada[0], ada[1]);
  const auto chunks = kept("knorm:budget=60+in_layer+chunkkv:length=12");
  EXPECT_EQ(chunks[0], chunks[1]);
  EXPECT_LE(chunks[0], 60U);
}

TEST(PartsByName, HeadsThatAgreeKeepTheSameRows) {
  const Text text(shape, 210, 9);
  for (const auto& [policy, same] : {std::pair{"knorm:budget=60+kivi4", false}, {"knorm:budget=60+in_layer+kivi4", true}}) {
    AnyCache cache = registry().make(policy, shape);
    live(cache, text, shape);
    EXPECT_EQ(cache.kept(1, 0) == cache.kept(1, 1), same) << policy;
  }
  EXPECT_NO_THROW(static_cast<void>(registry().make("h2o:budget=90+in_layer+gear4", shape)));
}

TEST(PartsByName, LayersThatShareABudgetWaitForTheLast) {
  const Text text(shape, 210, 10);
  for (const std::string policy :
       {"cake:budget=40,window=8", "snapkv:budget=40,window=8+kvcompose:structured=false", "cake:budget=40,window=8+kivi4:residual=32",
        "h2o:budget=40+in_layer+kvcompose+gear4",
        "snapkv:budget=40,window=8+kvcompose+shadowkv:budget=8,chunk=4,local_chunks=1,outlier_chunks=1,rank=8"}) {
    SCOPED_TRACE(policy);
    AnyCache cache = registry().make(policy, shape);
    AnyCache backwards = registry().make(policy, shape);
    for (std::size_t layer = 0; layer < shape.layers; ++layer) { static_cast<void>(step(cache, text, 0, 150, layer)); }
    for (std::size_t layer = 0; layer < shape.layers; ++layer) { static_cast<void>(step(backwards, text, 0, 150, layer)); }
    cache.end_prompt(0);
    EXPECT_EQ(cache.kept(0, 0).size(), 150U) << "nothing goes before the last layer has ended its prompt";
    EXPECT_THROW(cache.append(0, text.key_rows(150, 1), text.value_rows(150, 1)), Error);
    AnyCache waiting(shape, cache.options());
    load_from(waiting, saved(cache));
    AnyCache fork = cache.fork();
    std::size_t held = 0;
    for (AnyCache* one : {&cache, &waiting, &fork}) { one->end_prompt(1); }
    backwards.end_prompt(1);
    backwards.end_prompt(0);
    for (std::size_t layer = 0; layer < shape.layers; ++layer) {
      for (std::size_t head = 0; head < shape.kv_heads; ++head) {
        held += cache.kept(layer, head).size();
        EXPECT_EQ(backwards.kept(layer, head), cache.kept(layer, head));
        EXPECT_EQ(waiting.kept(layer, head), cache.kept(layer, head));
        EXPECT_EQ(fork.kept(layer, head), cache.kept(layer, head));
      }
    }
    EXPECT_LE(held, 160U);
    EXPECT_GE(held, 150U);
    for (std::size_t layer = 0; layer < shape.layers; ++layer) {
      for (std::size_t t = 150; t < 180; ++t) {
        const Outputs out = step(cache, text, t, 1, layer);
        EXPECT_EQ(step(waiting, text, t, 1, layer), out);
        EXPECT_EQ(step(backwards, text, t, 1, layer), out);
      }
    }
  }
}

void expect_error(const std::string& policy, const std::string& sentence) { expect_refused(policy, shape, sentence); }
TEST(PartsByName, AreRefusedWhereTheyHaveNoPlace) {
  expect_error("eg_chunkkv+kivi4",
               "policy \"eg_chunkkv+kivi4\": eg_chunkkv is given, an eviction's selector, must stand behind an eviction that scores rows, "
               "like snapkv+eg_chunkkv");
  expect_error("streaming+adakv",
               "policy \"streaming+adakv\": adakv is given, an eviction's allocator, must stand behind an eviction that scores rows, which "
               "streaming does not");
  expect_error("snapkv+adakv+pyramidkv", "policy \"snapkv+adakv+pyramidkv\" names two allocators: adakv and pyramidkv");
  expect_error("snapkv+chunkkv+best", "policy \"snapkv+chunkkv+best\" names two selectors: chunkkv and best");
  expect_error("adakv+snapkv", "policy \"adakv+snapkv\" names two evictions: adakv and snapkv");
  expect_error("snapkv+adakv:beta=3", "adakv has no option \"beta\", must be one of floor, rule, normalize");
  expect_error("snapkv+adakv:floor=2", "ada: floor is 2, must be 0 to 1");
  expect_error("adakv:floor=0.1+pyramidkv",
               "adakv has no option \"floor\", must be one of budget, sinks, recent, decode_budget, window, kernel, pooling, reduction");
  expect_error("snapkv+in_layer:x=1", "in_layer has no option \"x\", must be without options");
  expect_error("h2o:in_cache_positions=true+adakv", "h2o: in_cache_positions is true, must be false with an allocator or a selector");
  expect_error("snapkv:budget=1000000B+adakv",
               "window_attention: budget is 1000000 bytes, must be rows or a fraction with the allocator ada");
  expect_error("snapkv+cake",
               "window_attention: the allocator is cascading, must be one that goes by scores: window_attention says nothing of lanes as a "
               "whole");
  expect_error("cake+xkv", "policy \"cake+xkv\": cake with xkv: " + std::string(detail::Rules::encoded_together_sentence));
  expect_error("snapkv+kvcompose+xkv", "policy \"snapkv+kvcompose+xkv\": snapkv with xkv: " + std::string(detail::Rules::model_sentence));
  expect_error("keys=adakv+kivi4", "policy \"keys=adakv+kivi4\": keys=adakv is given, which is eviction, must be a storage alone");
}

/// Rows that stay by definition: whole sentences by their mean score, then the best rows of the best one that did not fit.
std::vector<Position> best_sentences(const std::vector<double>& scores, const std::vector<Position>& ends, std::size_t budget) {
  std::vector<std::vector<Position>> sentences(1);
  for (Position p = 0; p < scores.size(); ++p) {
    sentences.back().push_back(p);
    if (std::find(ends.begin(), ends.end(), p) != ends.end()) { sentences.emplace_back(); }
  }
  std::erase_if(sentences, [](const auto& sentence) { return sentence.empty(); });
  const auto mean = [&](const std::vector<Position>& sentence) {
    double sum = 0.0;
    for (const Position p : sentence) { sum += scores[p]; }
    return sum / static_cast<double>(sentence.size());
  };
  std::sort(sentences.begin(), sentences.end(), [&](const auto& a, const auto& b) { return mean(a) > mean(b); });
  std::vector<Position> kept;
  std::vector<Position> torn;
  for (const auto& sentence : sentences) {
    if (kept.size() + sentence.size() <= budget) {
      kept.insert(kept.end(), sentence.begin(), sentence.end());
    } else if (torn.empty()) {
      torn = sentence;
    }
  }
  std::sort(torn.begin(), torn.end(), [&](Position a, Position b) { return scores[a] > scores[b]; });
  for (std::size_t i = 0; kept.size() < budget && i < torn.size(); ++i) { kept.push_back(torn[i]); }
  std::sort(kept.begin(), kept.end());
  return kept;
}

TEST(PartsByName, SentencesStayWhole) {
  const Text text(shape, 150, 12);
  const std::vector<Position> ends{6, 20, 21, 40, 63, 64, 80, 97, 120, 133, 149};
  const std::vector<std::uint8_t> kinds(150, 0);
  const auto made = [] { return registry().make("knorm:budget=60+sentences+f32", shape); };
  const auto add = [&](AnyCache& cache, std::size_t first, std::size_t count) {
    for (std::size_t layer = 0; layer < shape.layers; ++layer) {
      cache.append(layer, text.key_rows(first, count), text.value_rows(first, count));
    }
  };
  const auto expect = [](auto&& work, const std::string& sentence) {
    try {
      work();
      ADD_FAILURE() << "expected: " << sentence;
    } catch (const Error& error) { EXPECT_EQ(std::string(error.what()), "kvcompress: " + sentence); }
  };
  AnyCache cache = made();
  add(cache, 0, 150);
  const std::string needs = ", since key_norm needs to know where sentences end: describe them first";
  expect([&] { cache.end_prompt(0); }, "end_prompt(layer = 0): 0 tokens are described, must be 150" + needs);
  const auto tell = [&](AnyCache& to, std::size_t count) {  // in two calls
    const auto half = std::find_if(ends.begin(), ends.end(), [](Position p) { return p >= 70; });
    const auto last = std::find_if(ends.begin(), ends.end(), [&](Position p) { return p >= count; });
    to.describe(0, {kinds.data(), 70}, {ends.data(), static_cast<std::size_t>(half - ends.begin())});
    to.describe(70, {kinds.data(), count - 70}, {&*half, static_cast<std::size_t>(last - half)});
  };
  tell(cache, 150);
  cache.truncate(100);
  add(cache, 100, 50);
  expect([&] { cache.end_prompt(0); }, "end_prompt(layer = 0): 100 tokens are described, must be 150" + needs);
  tell(cache, 150);
  AnyCache loaded = made();
  load_from(loaded, saved(cache));
  EXPECT_TRUE(saved(loaded) == saved(cache));
  AnyCache copy = cache.fork();
  for (AnyCache* one : {&cache, &loaded, &copy}) { one->end_prompt(1); }
  for (std::size_t head = 0; head < shape.kv_heads; ++head) {
    std::vector<double> scores;
    for (reference::Index t = 0; t < 150; ++t) { scores.push_back(-text.key_matrix(head).row(t).norm()); }
    const std::vector<Position> expected = best_sentences(scores, ends, 60);
    EXPECT_EQ(expected.size(), 60U);
    for (const AnyCache* one : {&cache, &loaded, &copy}) { EXPECT_EQ(one->kept(1, head), expected) << head; }
  }
  expect([&] { cache.describe(151, {kinds.data(), 1}); }, "describe: first is 151, must be at most the 150 tokens described so far");
  const std::vector<Position> outside{160};
  expect(
      [&] {
    cache.describe(150, {kinds.data(), 3}, outside);
      },
      "describe: boundaries[0] is 160, must be the position of one of the 3 tokens from 150 on, and more than the one before");
  const std::uint8_t kind = 200;
  expect([&] { cache.describe(150, {&kind, 1}); }, "describe: kinds[0] is 200, must be at most 127");
}

TEST(PartsByName, WhatIsKnownOfTokensMovesWithThem) {
  Tokens tokens(Memory{});
  const std::vector<std::uint8_t> kinds{0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
  const std::vector<Position> ends{3, 7};
  tokens.describe(0, kinds, ends);
  Tokens back(tokens);
  back.shift(6, 10, -4);
  EXPECT_EQ(back.size(), 6U);
  EXPECT_TRUE(back.kind(2) == 6 && back.kind(5) == 9 && back.kind(1) == 1 && back.ends(3) && !back.ends(7) && back.kind(6) == 0);
  tokens.shift(2, 4, 3);
  EXPECT_EQ(tokens.size(), 10U);
  EXPECT_TRUE(tokens.kind(2) == 0 && tokens.kind(3) == 0 && tokens.kind(5) == 2 && tokens.ends(6) && !tokens.ends(3) &&
              tokens.kind(9) == 9);
}

/// Every third row.
struct Chosen : ComputedRows {
  static constexpr std::string_view name = "chosen";
  static std::span<const float> score(const Options&, const LaneView&, const RowTable& rows, const Moment&, std::span<float> out) {
    for (std::size_t r = 0; r < rows.rows(); ++r) { out[r] = rows.position(r) % 3 == 0 ? 1.0F : 0.0F; }
    return out;
  }
};
struct EveryThird {
  using Eviction = Evict<Chosen>;
};
/// Rows 0 and 3 stay. 1 is like 0, 2 like 3; 4 is like no one, so that 5, which is like 3, does not reach it; 6 stays.
TEST(MergeNeighbours, RunsOfLikeRowsBecomeOne) {
  const Shape one{.query_heads = 1, .kv_heads = 1, .head_dim = 2};
  const float keys[][2] = {{1, 0}, {2, 0.2F}, {0.1F, 1}, {0, 2}, {-1, 0.1F}, {0, 1}, {-1, -1}};
  Registry names = examples::registry();
  names.add<EveryThird>("chosen");
  for (const bool gaussian : {true, false}) {
    AnyCache cache = names.make(std::string("chosen:budget=3+f32+merge_neighbours") + (gaussian ? "" : ":weights=average"), one);
    float values[7][2];
    for (std::size_t r = 0; r < 7; ++r) { values[r][0] = static_cast<float>(r), values[r][1] = 1.0F; }
    cache.append(0, Rows::tokens_first(&keys[0][0], 7, 1, 2), Rows::tokens_first(&values[0][0], 7, 1, 2));
    cache.end_prompt(0);
    ASSERT_EQ(cache.kept(0, 0), (std::vector<Position>{0, 3, 6}));
    const float weight = gaussian ? std::exp(-1.0F) : 1.0F;  // of one row that is merged: its distance is the mean
    float key[2];
    float value[2];
    for (std::size_t r = 0; r < 3; ++r) {
      const std::size_t own = 3 * r;
      const std::size_t other = r == 0 ? 1 : r == 1 ? 2 : 6;
      const float share = r == 2 ? 0.0F : weight / (1.0F + weight);
      cache.read(0, 0, r, key, value);
      for (std::size_t c = 0; c < 2; ++c) {
        EXPECT_NEAR(key[c], keys[own][c] + share * (keys[other][c] - keys[own][c]), 1e-6F) << r;
        EXPECT_NEAR(value[c], values[own][c] + share * (values[other][c] - values[own][c]), 1e-6F) << r;
      }
    }
  }
}

}  // namespace parts_test
