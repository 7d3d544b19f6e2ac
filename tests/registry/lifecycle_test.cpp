// tests/registry/lifecycle_test.cpp - policies by name through begin_prompt, and what reserve took through every other verb.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <functional>

#include "registry/registry.hpp"
#include "support/counting_memory.hpp"
#include "support/random_rows.hpp"
#include "support/saved.hpp"

namespace lifecycle_test {

using namespace kvcompress;
using namespace kvcompress::test;
using examples::registry;

const Shape two_layers{.layers = 2, .query_heads = 4, .kv_heads = 2, .head_dim = 16};

class BeginPrompt : public ::testing::TestWithParam<const char*> {
 protected:
  static constexpr std::size_t first = 620;  // tokens of the first prompt, and some decoded ones
  static constexpr std::size_t second = 200;
  /// A cache that has seen a prompt and five tokens, the last of them open.
  [[nodiscard]] AnyCache talked() const {
    auto cache = registry().make(GetParam(), two_layers);
    for (std::size_t layer = 0; layer < 2; ++layer) {
      static_cast<void>(step(cache, text, 0, first - 70 - 5, layer));
      static_cast<void>(step(cache, text, first - 70 - 5, 70, layer));
    }
    for (std::size_t layer = 0; layer < 2; ++layer) { cache.end_prompt(layer); }
    for (std::size_t t = first - 5; t < first; ++t) {
      for (std::size_t layer = 0; layer < 2; ++layer) { static_cast<void>(step(cache, text, t, 1, layer)); }
    }
    return cache;
  }
  const Text text{two_layers, first + second + 20, 5};
};

TEST_P(BeginPrompt, AnyPiecesOfALaterPromptGiveWhatOneAppendGives) {
  auto whole = talked();
  Outputs expected;
  for (std::size_t layer = 0; layer < 2; ++layer) {
    const Outputs out = step(whole, text, first, second, layer);
    expected.insert(expected.end(), out.begin(), out.end());
  }
  for (std::size_t layer = 0; layer < 2; ++layer) { whole.end_prompt(layer); }
  const File file = saved(whole);
  for (const std::size_t piece : {200U, 64U, 1U}) {
    auto cache = talked();
    Outputs all;
    for (std::size_t layer = 0; layer < 2; ++layer) {
      cache.begin_prompt(layer);
      for (std::size_t done = 0; done < second; done += piece) {
        if (done == 128) {  // the open prompt can be forked, saved and loaded
          auto fork = cache.fork();
          cache = registry().make(GetParam(), two_layers);
          load_from(cache, saved(fork));
        }
        const Outputs out = step(cache, text, first + done, std::min(piece, second - done), layer);
        all.insert(all.end(), out.begin(), out.end());
      }
    }
    for (std::size_t layer = 0; layer < 2; ++layer) { cache.end_prompt(layer); }
    EXPECT_TRUE(all == expected) << "outputs in pieces of " << piece;
    for (std::size_t head = 0; head < 2; ++head) { EXPECT_EQ(cache.kept(0, head), whole.kept(0, head)) << piece; }
    EXPECT_TRUE(saved(cache) == file) << "state after pieces of " << piece;
  }
}

TEST_P(BeginPrompt, TruncatingAnOpenPromptForgetsItsLastRows) {
  auto never = talked();
  auto cache = talked();
  for (AnyCache* one : {&never, &cache}) {
    for (std::size_t layer = 0; layer < 2; ++layer) {
      one->begin_prompt(layer);
      static_cast<void>(step(*one, text, first, 70, layer));
    }
  }
  for (std::size_t layer = 0; layer < 2; ++layer) { cache.append(layer, text.key_rows(0, 9), text.value_rows(0, 9)); }
  cache.truncate(first + 70);
  EXPECT_TRUE(saved(cache) == saved(never));
}

TEST_P(BeginPrompt, PhasesAreNamed) {
  auto cache = registry().make(GetParam(), two_layers);
  const auto expect_phase = [&](const std::string& sentence, const std::function<void()>& verb) {
    const File before = saved(cache);
    try {
      verb();
      ADD_FAILURE() << "no error, expected: " << sentence;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::phase);
      EXPECT_EQ(error.what(), "kvcompress: " + sentence);
    }
    EXPECT_TRUE(saved(cache) == before);
  };
  expect_phase("begin_prompt(layer = 0) while its prompt is open: end_prompt(layer) first", [&] { cache.begin_prompt(0); });
  for (std::size_t layer = 0; layer < 2; ++layer) { static_cast<void>(step(cache, text, 0, 90, layer)); }
  for (std::size_t layer = 0; layer < 2; ++layer) { cache.end_prompt(layer); }
  cache.begin_prompt(1);
  expect_phase("commit(layer = 1) before end_prompt(layer)", [&] { cache.commit(1); });
  expect_phase("end_prompt(layer = 1) without rows since the last commit", [&] { cache.end_prompt(1); });
}

INSTANTIATE_TEST_SUITE_P(Policies, BeginPrompt,
                         ::testing::Values("f16", "kivi4:accumulation=exact", "gear4:accumulation=exact", "snapkv:budget=128,window=64",
                                           "snapkv:budget=128,window=64+kivi4:accumulation=exact", "h2o:budget=128", "streaming:window=124",
                                           "quest:budget=64,dense_layers=0", "xkv:layers_per_group=2,fold_in=16",
                                           "landmarks:budget=64,outlier_chunks=2,fold_in=16", "shadowkv:budget=64,outlier_chunks=2,rank=8"),
                         [](const auto& of) {
  std::string name = of.param;
  std::erase_if(name, [](char c) { return std::isalnum(static_cast<unsigned char>(c)) == 0; });
  return name;
});

/// Decoding allocates once per block; with room for 1200 tokens, only what a fork shares is taken anew.
TEST(Reserve, RoomStaysThroughEveryVerb) {
  const Shape shape{.query_heads = 4, .kv_heads = 2, .head_dim = 32};
  const Text text(shape, 1600, 6);
  constexpr std::size_t prompt = 300;
  for (const std::string name : {"f16", "kivi4", "kivi2:residual=32"}) {
    CountingMemory memory;
    const auto decode = [&](AnyCache& cache, const char* verb) {
      const std::size_t before = cache.tokens(0);
      memory.restart();
      for (std::size_t t = before; t < before + 1200; ++t) {
        cache.append(0, text.key_rows(t, 1), text.value_rows(t, 1));
        cache.commit(0);
      }
      EXPECT_LE(memory.calls, 12U) << name << " after " << verb;
    };
    const auto with_prompt = [&] {
      auto cache = registry().make(name, shape, memory.handle());
      cache.reserve(1600);
      static_cast<void>(step(cache, text, 0, prompt));
      cache.end_prompt(0);
      return cache;
    };
    {
      auto cache = with_prompt();
      decode(cache, "end_prompt");
    }
    {
      auto cache = with_prompt();
      auto fork = cache.fork();
      decode(cache, "fork");
      fork.append(0, text.key_rows(prompt, 1), text.value_rows(prompt, 1));  // the fork takes its own room here
      decode(fork, "its first write");
    }
    {
      AnyCache copy(with_prompt());
      copy = AnyCache(copy);
      decode(copy, "copy");
    }
    {
      auto cache = with_prompt();
      cache.clear();
      static_cast<void>(step(cache, text, 0, prompt));
      cache.end_prompt(0);
      decode(cache, "clear");
    }
    {
      auto cache = with_prompt();
      cache.append(0, text.key_rows(prompt, 40), text.value_rows(prompt, 40));
      cache.truncate(prompt);
      decode(cache, "truncate");
    }
    {
      auto cache = with_prompt();
      cache.remove(100, 200);
      cache.append(0, text.key_rows(prompt, 1), text.value_rows(prompt, 1));  // positions are spelt out now
      decode(cache, "remove");
    }
    {
      auto cache = with_prompt();
      auto loaded = registry().make(name, shape, memory.handle());
      loaded.reserve(1600);
      load_from(loaded, saved(cache));
      decode(loaded, "load");
    }
  }
}

/// Three beams, each a cache: after every token a beam goes on as a fork of its parent.
TEST(Beams, AreReorderedByForks) {
  constexpr std::size_t prompt = 100;
  constexpr std::size_t steps = 40;
  std::vector<Text> texts;
  for (unsigned beam = 0; beam < 3; ++beam) { texts.emplace_back(two_layers, prompt + steps, 21 + beam); }
  const std::size_t parents[][3] = {{2, 0, 0}, {0, 1, 2}, {1, 1, 0}};
  for (const std::string policy : {"f16", "kivi4:residual=32", "h2o:budget=60", "snapkv:budget=60+quest:budget=16,page=8,dense_layers=0"}) {
    AnyCache prompted = registry().make(policy, two_layers);
    for (std::size_t layer = 0; layer < 2; ++layer) {
      static_cast<void>(step(prompted, texts[0], 0, prompt, layer));
      prompted.end_prompt(layer);
    }
    const auto see = [&](AnyCache& cache, std::size_t beam, std::size_t t) {
      for (std::size_t layer = 0; layer < 2; ++layer) { static_cast<void>(step(cache, texts[beam], t, 1, layer)); }
    };
    std::vector<AnyCache> beams;
    std::vector<std::vector<std::size_t>> said(3);  // which text each of a beam's tokens is of
    for (std::size_t beam = 0; beam < 3; ++beam) { beams.push_back(prompted.fork()); }
    for (std::size_t t = 0; t < steps; ++t) {
      std::vector<AnyCache> next;
      std::vector<std::vector<std::size_t>> says;
      for (std::size_t beam = 0; beam < 3; ++beam) {
        see(beams[beam], beam, prompt + t);
        said[beam].push_back(beam);
      }
      for (const std::size_t parent : parents[t % 3]) {
        next.push_back(beams[parent].fork());
        says.push_back(said[parent]);
      }
      beams = std::move(next);
      said = std::move(says);
    }
    EXPECT_NE(said[0], said[2]);
    for (std::size_t beam = 0; beam < 3; ++beam) {
      AnyCache alone = prompted.fork();
      for (std::size_t t = 0; t < steps; ++t) { see(alone, said[beam][t], prompt + t); }
      EXPECT_TRUE(saved(beams[beam]) == saved(alone)) << policy << " beam " << beam;
    }
  }
}

}  // namespace lifecycle_test
