// tests/persistence/round_trip_test.cpp - every registered policy, saved in every phase: the loaded cache goes on bit for bit.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <functional>

#include "kvcompress/policies/h2o.hpp"
#include "registry/registry.hpp"
#include "support/counting_memory.hpp"
#include "support/random_rows.hpp"
#include "support/saved.hpp"

namespace round_trip_test {

using namespace kvcompress;
using namespace kvcompress::test;
using examples::registry;

const Shape small{.layers = 2, .query_heads = 4, .kv_heads = 2, .head_dim = 32};
constexpr std::size_t prompt = 148;
constexpr std::size_t middle = 172;  // a second prompt begins
constexpr std::size_t end = 232;

/// The settings under which each policy evicts, chooses and encodes within these few tokens.
std::string with_settings(std::string name) {
  const auto set = [&](const std::string& part, const std::string& settings) {
    if (const std::size_t at = name.find(part); at < name.size()) { name.insert(at + part.size(), ":" + settings); }
  };
  set("streaming",
      name.find("shadowkv") < name.size() || name.find("landmarks") < name.size() ? "window=80,in_cache_positions=false" : "window=80");
  set("h2o", "budget=80");
  set("snapkv", "budget=80,decode_budget=20");
  set("quest", "budget=32,dense_layers=0");
  set("landmarks", "budget=16,outlier_chunks=2,fold_in=16");
  set("shadowkv", "budget=16,outlier_chunks=2,rank=16");
  set("gear2", "merge=2,buffer=8");
  set("gear4", "merge=2,buffer=8");
  set("xkv", "fold_in=16");
  for (const std::string kivi : {"kivi2", "kivi3", "kivi4", "kivi8"}) { set(kivi, "residual=32"); }
  return name;
}

/// What happens to a cache, in steps between which it is saved.
using Step = std::function<void(AnyCache&, Outputs&)>;
std::vector<Step> story(const Text& text) {
  std::vector<Step> steps;
  const auto see = [&](std::size_t layer, std::size_t first, std::size_t count) {
    steps.push_back([&text, layer, first, count](AnyCache& cache, Outputs& all) {
      const Outputs out = step(cache, text, first, count, layer);
      all.insert(all.end(), out.begin(), out.end());
    });
  };
  const auto close = [&](std::size_t layer) { steps.push_back([layer](AnyCache& cache, Outputs&) { cache.end_prompt(layer); }); };
  for (const std::size_t layer : {0U, 1U}) { see(layer, 0, 60); }
  for (const std::size_t layer : {0U, 1U}) { see(layer, 60, prompt - 60); }
  for (const std::size_t layer : {0U, 1U}) { close(layer); }
  for (std::size_t t = prompt; t < middle; ++t) {
    for (const std::size_t layer : {0U, 1U}) { see(layer, t, 1); }
  }
  for (const std::size_t layer : {0U, 1U}) { see(layer, middle, 20); }
  for (const std::size_t layer : {0U, 1U}) { close(layer); }
  for (std::size_t t = middle + 20; t < end; ++t) {
    for (const std::size_t layer : {0U, 1U}) { see(layer, t, 1); }
  }
  return steps;
}

void expect_same(const AnyCache& loaded, const AnyCache& saved_one, const std::string& where) {
  for (std::size_t layer = 0; layer < small.layers; ++layer) {
    EXPECT_EQ(loaded.tokens(layer), saved_one.tokens(layer)) << where;
    for (std::size_t head = 0; head < small.kv_heads; ++head) { EXPECT_EQ(loaded.kept(layer, head), saved_one.kept(layer, head)) << where; }
  }
  EXPECT_EQ(loaded.fetched(), saved_one.fetched()) << where;
  const MemoryReport a = loaded.memory();
  const MemoryReport b = saved_one.memory();
  for (const auto purpose : {&MemoryReport::codes, &MemoryReport::scales, &MemoryReport::exact_rows, &MemoryReport::factors,
                             &MemoryReport::outliers, &MemoryReport::positions, &MemoryReport::policy_state, &MemoryReport::slow_tier}) {
    EXPECT_EQ(a.*purpose, b.*purpose) << where;
  }
}

/// A part alone is saved at every place. Combinations, whose number is the product of the parts, are saved at one place each, in turn: so every part is
/// saved in every phase, with one partner or another.
std::vector<std::size_t> places_of(const std::string& name, std::size_t index, const std::vector<std::size_t>& places) {
  return name.find('+') == std::string::npos ? places : std::vector{places[index % places.size()]};
}

TEST(RoundTrip, EveryPolicyGoesOnBitForBitFromEveryPhase) {
  const Text text(small, end, 81);
  const std::vector<Step> steps = story(text);
  // Nothing there; one layer of a prompt; all of it; one layer closed; all closed; one layer a token ahead; decoding; the second prompt.
  const std::vector<std::size_t> places{
      0, 1, 4, 5, 6, 7, 6 + 2 * (middle - prompt) - 6, 6 + 2 * (middle - prompt) + 1, 6 + 2 * (middle - prompt) + 3};
  const std::vector<std::string> policies = registry().policies();
  for (std::size_t index = 0; index < policies.size(); ++index) {
    const std::string name = with_settings(policies[index]);
    auto cache = registry().make(name, small);
    Outputs expected;
    std::size_t done = 0;
    for (const std::size_t place : places_of(name, index, places)) {
      while (done < place) { steps[done++](cache, expected); }
      const std::string where = name + " at step " + std::to_string(place);
      const File file = saved(cache);
      CountingMemory memory;
      {
        auto loaded = registry().make(name, small, memory.handle());
        load_from(loaded, file);
        expect_same(loaded, cache, where);
        EXPECT_LE(loaded.memory().total(), AnyCache(cache).memory().total()) << where;
        EXPECT_EQ(loaded.memory().total(), memory.bytes) << where;
        EXPECT_TRUE(saved(loaded) == file) << where;
        auto fork = cache.fork();  // a copy would hold the scales that GEAR's lanes share once for each
        Outputs of_fork;
        Outputs of_loaded;
        for (std::size_t next = place; next < steps.size(); ++next) {
          steps[next](fork, of_fork);
          steps[next](loaded, of_loaded);
        }
        ASSERT_TRUE(of_loaded == of_fork) << where;
        expect_same(loaded, fork, where);
        EXPECT_TRUE(saved(loaded) == saved(fork)) << where;
      }
      EXPECT_EQ(memory.live, 0U) << where;
    }
  }
}

TEST(RoundTrip, AFileIsAboutAsLongAsTheCacheIsLarge) {
  const Shape one{.query_heads = 8, .kv_heads = 8, .head_dim = 128};
  const Text text(one, 2048, 82);
  for (const std::string name : {"f32", "f16", "kivi2", "kivi4", "kivi8", "gear2", "gear4", "h2o:budget=512", "h2o:budget=512+kivi4",
                                 "snapkv:budget=512", "streaming:window=508", "quest", "landmarks", "xkv", "shadowkv"}) {
    auto cache = registry().make(name, one);
    static_cast<void>(step(cache, text, 0, 2048 - 64));
    cache.append(0, text.key_rows(2048 - 64, 64), text.value_rows(2048 - 64, 64));
    static_cast<void>(attend(cache, text, 2048, 64));
    cache.end_prompt(0);
    const MemoryReport memory = cache.memory();
    const std::size_t file = saved(cache).size();
    RecordProperty(name, std::to_string(file) + " of " + std::to_string(memory.total() - memory.scratch));
    EXPECT_LE(file, memory.total() - memory.scratch) << name;
    EXPECT_GE(file * 100, (memory.total() - memory.scratch - memory.spare - memory.indices) * 99) << name;
  }
}

TEST(RoundTrip, ForksAreSavedAndLoadedApart) {
  const Text text(small, end, 83);
  for (const std::string name :
       {"f16", "h2o:budget=80+kivi4:residual=32", "gear4:buffer=8", "xkv", "shadowkv:budget=16,outlier_chunks=2,rank=16"}) {
    auto cache = registry().make(name, small);
    for (const std::size_t layer : {0U, 1U}) { static_cast<void>(step(cache, text, 0, prompt, layer)); }
    const File open = saved(cache);
    for (const std::size_t layer : {0U, 1U}) { cache.end_prompt(layer); }
    const File closed = saved(cache);
    auto fork = cache.fork();
    EXPECT_TRUE(saved(fork) == closed) << name;
    load_from(fork, open);
    EXPECT_TRUE(saved(fork) == open) << name;
    EXPECT_TRUE(saved(cache) == closed) << name;
    EXPECT_EQ(fork.memory().shared, 0U) << name;
  }
}

TEST(RoundTrip, WhatIsReservedStaysReserved) {
  const Text text(small, 60, 84);
  auto cache = registry().make("f16", small);
  static_cast<void>(step(cache, text, 0, 60));
  CountingMemory memory;
  auto loaded = registry().make("f16", small, memory.handle());
  loaded.reserve(200);
  load_from(loaded, saved(cache));
  loaded.end_prompt(0);
  memory.restart();
  for (std::size_t t = 0; t < 50; ++t) { loaded.append(0, text.key_rows(t, 1), text.value_rows(t, 1)); }
  EXPECT_EQ(memory.calls, 0U);
}

TEST(RoundTrip, AFileIsLoadedIntoWhateverSlowTierThereIs) {
  const Text text(small, prompt, 85);
  const std::string in_memory = "shadowkv:budget=16,outlier_chunks=2,rank=16";
  auto cache = registry().make(in_memory, small);
  for (const std::size_t layer : {0U, 1U}) {
    static_cast<void>(step(cache, text, 0, prompt, layer));
    cache.end_prompt(layer);
  }
  auto in_files = registry().make(in_memory + ",directory=" + ::testing::TempDir(), small);
  load_from(in_files, saved(cache));
  EXPECT_EQ(in_files.memory().slow_file, cache.memory().slow_tier);
  EXPECT_EQ(in_files.memory().slow_tier, 0U);
  EXPECT_TRUE(saved(in_files) == saved(cache));
}

TEST(RoundTrip, ACacheTruncatedBelowItsPromptIsSavedInEveryPhase) {
  const Text text(small, prompt + 20, 87);
  for (const std::string name : {"f16", "f32", "kivi4:residual=128", "gear4:buffer=100"}) {
    for (const Position position : {0U, 1U, 60U}) {
      for (const std::size_t open : {0U, 5U}) {
        auto cache = registry().make(name, small);
        for (const std::size_t layer : {0U, 1U}) {
          static_cast<void>(step(cache, text, 0, 90, layer));
          cache.end_prompt(layer);
          if (open > 0) { static_cast<void>(step(cache, text, 90, open, layer)); }
        }
        try {
          cache.truncate(position);
        } catch (const Error& error) {  // GEAR's prompt is encoded
          EXPECT_EQ(error.code(), ErrorCode::position);
          continue;
        }
        auto loaded = registry().make(name, small);
        load_from(loaded, saved(cache));
        for (std::size_t t = position; t < 80; ++t) {
          for (const std::size_t layer : {0U, 1U}) {
            ASSERT_TRUE(step(loaded, text, t, 1, layer) == step(cache, text, t, 1, layer)) << name << ": " << t;
          }
        }
        EXPECT_TRUE(saved(loaded) == saved(cache)) << name;
      }
    }
  }
}

TEST(RoundTrip, SavingAndLoadingTakeOneChunkOfMemory) {
  const Shape shape{.query_heads = 2, .kv_heads = 2, .head_dim = 64};
  const Text text(shape, 20'000, 88);
  for (const std::string name : {"f16", "kivi8", "h2o:budget=100%", "shadowkv:budget=64,outlier_chunks=2,rank=8"}) {
    CountingMemory memory;
    auto cache = registry().make(name, shape, memory.handle());
    for (std::size_t t = 0; t < text.tokens; t += 2000) { cache.append(0, text.key_rows(t, 2000), text.value_rows(t, 2000)); }
    static_cast<void>(attend(cache, text, text.tokens, 1));
    if (name != "h2o:budget=100%") { cache.end_prompt(0); }
    memory.restart();
    const std::size_t held = memory.bytes;
    const File file = saved(cache);
    EXPECT_LE(memory.peak - held, archive::chunk_bytes + (std::size_t{64} << 10U)) << name;
    EXPECT_GT(file.size(), 8 * archive::chunk_bytes) << name;
    CountingMemory other;
    auto loaded = registry().make(name, shape, other.handle());
    load_from(loaded, file);
    EXPECT_LE(other.peak - other.bytes, archive::chunk_bytes + (std::size_t{256} << 10U)) << name;
    EXPECT_TRUE(saved(loaded) == file) << name;
  }
}

/// Tentative rows whose observations can still be taken back.
TEST(RoundTrip, SpeculativeQueriesCanBeTakenBackAfterLoading) {
  const Text text(small, 90, 86);
  PolicyOptions<H2O> options{.eviction = {.budget = 40}};
  options.speculation = 4;
  KVCache<H2O> cache(small, options);
  static_cast<void>(run(cache, text, 60, 70));
  static_cast<void>(step(cache, text, 70, 3));
  KVCache<H2O> loaded(small, options);
  load_from(loaded, saved(cache));
  for (KVCache<H2O>* one : {&cache, &loaded}) { one->truncate(71); }
  for (std::size_t t = 71; t < 90; ++t) { ASSERT_TRUE(step(loaded, text, t, 1) == step(cache, text, t, 1)) << t; }
  EXPECT_TRUE(saved(loaded) == saved(cache));
}

/// What queries of the prompt said, and the choice of its last one, which waits for the other layers.
TEST(RoundTrip, PaddingAndWhatWaitsIsLoaded) {
  const Text text(small, prompt + 10, 87);
  for (const std::string name :
       {"streaming:sinks=2,window=30+kivi4:residual=32", "snapkv:budget=40,window=8", "xkv+landmarks:behaviour=offload"}) {
    auto cache = registry().make(name, small);
    const AttendOptions padded{.start = 20};
    static_cast<void>(step(cache, text, 0, prompt, 0, padded));
    auto loaded = registry().make(name, small);
    load_from(loaded, saved(cache));
    for (AnyCache* one : {&cache, &loaded}) { one->end_prompt(0); }
    load_from(loaded, saved(cache));
    for (AnyCache* one : {&cache, &loaded}) {
      static_cast<void>(step(*one, text, 0, prompt, 1, padded));
      one->end_prompt(1);
    }
    EXPECT_EQ(loaded.kept(0, 1), cache.kept(0, 1)) << name;
    const Position oldest = loaded.kept(0, 1).front();  // xKV evicts nothing, StreamingLLM's sinks begin behind the padding
    if (name.starts_with("snapkv")) {
      EXPECT_GE(oldest, 20U);
    } else {
      EXPECT_EQ(oldest, name.starts_with("xkv") ? 0U : 20U) << name;
    }
    for (std::size_t t = prompt; t < prompt + 10; ++t) {
      for (const std::size_t layer : {0U, 1U}) { ASSERT_TRUE(step(loaded, text, t, 1, layer) == step(cache, text, t, 1, layer)) << name; }
    }
    EXPECT_TRUE(saved(loaded) == saved(cache)) << name;
  }
}

}  // namespace round_trip_test
