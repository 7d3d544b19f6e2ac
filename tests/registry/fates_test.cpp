// tests/registry/fates_test.cpp - rows that stand for others, and what becomes of rows that go: by name, over every storage.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <cmath>
#include <iostream>

#include "kvcompress/eviction/dispose.hpp"
#include "kvcompress/eviction/dispositions/mean_row.hpp"
#include "kvcompress/eviction/dispositions/merge_nearest.hpp"
#include "kvcompress/eviction/sink_window.hpp"
#include "kvcompress/policies/h2o.hpp"
#include "registry/registry.hpp"
#include "support/counting_memory.hpp"
#include "support/policies.hpp"
#include "support/random_rows.hpp"
#include "support/saved.hpp"

namespace fates_test {

using namespace kvcompress;
using namespace kvcompress::test;

const Shape shape{.query_heads = 4, .kv_heads = 2, .head_dim = 32};

/// First and newest rows of a prompt; later ones stay.
struct WindowOnce : SinkWindow {
  static constexpr std::string_view name = "window_once";
  static constexpr Needs may{.decides = Decides::once};
  static void select(const Options& options, std::span<RowSet> sets, const Moment& moment) {
    if (moment.end_of_prompt) { SinkWindow::select(options, sets, moment); }
  }
};
struct WindowOncePart {
  using Eviction = WindowOnce;
};
const Registry& registry() {
  static const Registry all = [] {
    Registry more = examples::registry();
    more.add<WindowOncePart>("window_once");
    return more;
  }();
  return all;
}
AnyCache make(const std::string& policy, const Shape& of = shape, const Memory& memory = {}) { return registry().make(policy, of, memory); }

/// Tokens [0, 8) and those from 8 + `equal` on take turns among few patterns of numbers that codes of `bits` bits hold as they are; those between
/// are all alike.
Text with_equal_rows(std::size_t equal, std::size_t tokens, int bits = 8) {
  Text text(shape, tokens, 5);
  const float step = 1.0F / static_cast<float>(1 << bits);
  const float top = static_cast<float>((1 << bits) - 1) * step;
  for (std::size_t t = 0; t < tokens; ++t) {
    const std::size_t pattern = t < 8 || t >= 8 + equal ? 1 + t % 3 : 0;
    for (std::size_t c = 0; c < 64; ++c) {
      text.keys[t * 64 + c] = (c * 7 + pattern * 5) % 11 < 4 ? top : 0.0F;
      text.values[t * 64 + c] = (c * 5 + pattern * 3) % 7 < 3 || c % 32 == 0 ? top : 0.0F;
    }
  }
  return text;
}
/// A prompt of `prompt` tokens, then one more token and its log-sum-exp.
Outputs one_more(AnyCache& cache, const Text& text, std::size_t prompt, std::vector<float>& log_sum_exp, const AttendOptions& how = {}) {
  cache.append(0, text.key_rows(0, prompt), text.value_rows(0, prompt));
  cache.end_prompt(0);
  log_sum_exp.assign(shape.query_heads, 0.0F);
  AttendOptions options = how;
  options.log_sum_exp = log_sum_exp.data();
  return step(cache, text, prompt, 1, 0, options);
}

TEST(LogWeight, ARowThatStandsForManyIsAttendedAsThatMany) {
  const std::pair<std::string, int> storages[]{{"f32", 8},
                                               {"f16", 8},
                                               {"bf16", 7},
                                               {"kivi2:residual=32,accumulation=exact", 2},
                                               {"kivi3:residual=32,accumulation=exact", 3},
                                               {"kivi4:residual=32,accumulation=exact", 4},
                                               {"kivi8:residual=32,accumulation=exact", 8}};
  for (const std::size_t equal : {2U, 64U, 1000U}) {
    for (const auto& [storage, bits] : storages) {
      for (const AttendOptions& how : {AttendOptions{}, AttendOptions{.scale = 0.5F, .soft_cap = 2.0F}}) {
        const std::size_t prompt = 8 + equal + 88;
        const Text text = with_equal_rows(equal, prompt + 1, bits);
        AnyCache all = make(storage);
        AnyCache few = make("window_once:sinks=8,window=88,in_cache_positions=false+mean_row+" + storage);
        std::vector<float> sums;
        std::vector<float> sums_of_few;
        const Outputs expected = one_more(all, text, prompt, sums, how);
        const Outputs out = one_more(few, text, prompt, sums_of_few, how);
        ASSERT_EQ(few.kept(0, 0).size(), 98U);
        EXPECT_NEAR(few.table(0, 0).log_weight(8), std::log(static_cast<float>(equal)), 1e-6F);
        const double bound = equal == 1000 ? 2e-5 : 3e-6;  // what softmax and sums in fp32 lose, of either
        EXPECT_LT(deviation(out, expected), bound) << storage << ", " << equal << " rows";
        EXPECT_LT(deviation(sums_of_few, sums), 1e-6) << storage << ", " << equal << " rows";
      }
    }
  }
}

/// Attention counts weights over whatever the storage made of the rows, behind every mask.
TEST(LogWeight, CountsOverEveryStorageAndBehindEveryMask) {
  std::size_t storages = 0;
  for (const PartInfo& part : registry().parts()) {
    if (part.kind != "storage") { continue; }
    const std::string policy = "window_once:sinks=8,window=88,in_cache_positions=false+mean_row+" + part.name;
    const auto works = [&] {
      try {
        static_cast<void>(make(policy));
      } catch (const Error& error) {
        EXPECT_NE(std::string(error.what()).find("cannot be written"), std::string::npos) << error.what();
        return false;
      }
      return true;
    };
    if (!works()) { continue; }
    ++storages;
    const Text text(shape, 300, 7);
    for (const AttendOptions& how :
         {AttendOptions{}, AttendOptions{.soft_cap = 3.0F}, AttendOptions{.window = 295}, AttendOptions{.start = 9}}) {
      AnyCache cache = make(policy);
      std::vector<float> sums;
      const Outputs out = one_more(cache, text, 299, sums, how);
      EXPECT_LT(deviation(out, attention_over_held_rows(cache, text, 300, 1, 0, how)), 5e-4) << policy;
      EXPECT_TRUE(cache.table(0, 0).weighs());
    }
  }
  EXPECT_GE(storages, 8U);
}

TEST(LogWeight, NearExactHoldsWithAHeavyRow) {
  const std::size_t prompt = 8 + 4096 + 120;
  Text text = with_equal_rows(4096, prompt + 1, 4);
  std::mt19937 rng(3);
  const std::vector<float> noise = normal_numbers(text.keys.size(), rng);
  for (std::size_t i = 0; i < text.keys.size(); ++i) {
    if (i / 64 >= 8 && i / 64 < 8 + 4096) { continue; }
    text.keys[i] = noise[i];
    text.values[i] = noise[text.keys.size() - 1 - i];
  }
  for (const std::string bits : {"2", "4", "8"}) {
    const auto with = [&](const char* mode) {
      AnyCache cache =
          make("window_once:sinks=8,window=120,in_cache_positions=false+mean_row+kivi" + bits + ":residual=32,accumulation=" + mode);
      std::vector<float> sums;
      Outputs out = one_more(cache, text, prompt, sums);
      EXPECT_NEAR(cache.table(0, 0).log_weight(8), std::log(4096.0F), 1e-5F);
      return out;
    };
    const double own = deviation(with("near_exact"), with("exact"));
    std::cout << "kivi" << bits << ", a row of weight 4096: near_exact deviates by " << own << "\n";
    EXPECT_LT(own, 4e-4) << bits;
  }
}

/// What stays stands for all that was there.
TEST(LogWeight, WeightsAddUpToTheTokens) {
  const Text text(shape, 400, 8);
  for (const std::string policy : {"h2o:budget=40+merge_weighted", "h2o:budget=40+mean_row", "razorattention:sinks=4,window=30",
                                   "snapkv:budget=32,window=8,decode_budget=12+merge_weighted", "adakv:budget=40+mean_row"}) {
    AnyCache cache = make(policy + "+f32");
    static_cast<void>(run(cache, text, 150, 400));
    for (std::size_t head = 0; head < 2; ++head) {
      const RowTable& table = cache.table(0, head);
      double sum = 0.0;
      for (std::size_t r = 0; r < table.rows(); ++r) { sum += table.alive(r) ? std::exp(static_cast<double>(table.log_weight(r))) : 0.0; }
      EXPECT_NEAR(sum, 400.0, 1e-2) << policy;
      EXPECT_LT(table.rows(), 400U) << policy;
    }
  }
}

TEST(LogWeight, TakesFourBytesARowWhereItIsAndNothingWhereNot) {
  const Text text(shape, 200, 9);
  const auto positions = [&](const std::string& policy) {
    AnyCache cache = make(policy);
    static_cast<void>(run(cache, text, 150, 200));
    return cache.memory().positions;
  };
  EXPECT_EQ(positions("h2o:budget=40+merge"), positions("h2o:budget=40"));
  EXPECT_EQ(positions("h2o:budget=40+merge_weighted"), 2 * positions("h2o:budget=40"));
}

TEST(Fate, ABudgetInBytesHoldsWithWeights) {
  const Text text(shape, 400, 17);
  for (const std::string fate : {"mean_row", "merge_weighted", "merge"}) {
    AnyCache cache = make("h2o:budget=60000B+" + fate);
    static_cast<void>(step(cache, text, 0, 250));
    cache.end_prompt(0);
    for (std::size_t t = 250; t < 400; ++t) {
      static_cast<void>(step(cache, text, t, 1));
      cache.commit(0);
      const MemoryReport report = cache.memory();
      ASSERT_LE(report.total() - report.scratch, 60000U) << fate << " token " << t;
    }
    EXPECT_GT(cache.kept(0, 0).size(), 100U) << fate;
  }
}

TEST(Fate, TypesAndNamesGiveTheSameBitsAndFiles) {
  struct Typed {
    using Eviction = Disposed<HeavyHitters, MergeNearest<true>>;
    using Storage = ExactStorage<half>;
  };
  const Text text(shape, 200, 10);
  PolicyOptions<Typed> options;
  options.eviction.budget = 40;
  options.eviction.fate.weights = MergeWeights::similarity;
  options.speculation = 8;
  KVCache<Typed> typed(shape, options);
  AnyCache::Options by_name = registry().options("h2o:budget=40+merge_weighted:weights=similarity", shape);
  by_name.speculation = 8;
  AnyCache named(shape, by_name);
  EXPECT_EQ(run(typed, text, 150, 190), run(named, text, 150, 190));
  const File file = saved(typed);
  EXPECT_TRUE(saved(named) == file);
  KVCache<Typed> loaded(shape, options);
  load_from(loaded, saved(named));
  AnyCache fork = named.fork();
  EXPECT_EQ(step(loaded, text, 190, 10), step(fork, text, 190, 10));
  EXPECT_TRUE(saved(named) == file) << "a fork is none of its origin's business";
  named.commit(0);
  static_cast<void>(step(named, Text(shape, 200, 11), 190, 4));
  named.truncate(190);
  EXPECT_EQ(step(named, text, 190, 10), step(typed, text, 190, 10)) << "guesses were never there";
}

/// Keys that are the same before their rotary embedding are the same after a merge, if that is told to look there.
TEST(Fate, MergesAtTheAngleThatItIsTold) {
  const Shape unrotated{.query_heads = 4, .kv_heads = 2, .head_dim = 32, .keys = KeyForm::unrotated};
  Text text(unrotated, 120, 12);
  for (std::size_t i = 64; i < text.keys.size(); ++i) { text.keys[i] = text.keys[i % 64]; }
  const auto off = [&](const std::string& angle) {
    AnyCache all = make("f32", unrotated);
    AnyCache few = make("h2o:budget=40+merge:angle=" + angle + "+f32", unrotated);
    static_cast<void>(step(all, text, 0, 120));
    static_cast<void>(step(few, text, 0, 120));
    few.end_prompt(0);
    std::vector<float> key(32);
    std::vector<float> original(32);
    std::vector<float> value(32);
    double worst = 0.0;
    for (std::size_t r = 0; r < few.table(0, 1).rows(); ++r) {
      few.read(0, 1, r, key.data(), value.data());
      all.read(0, 1, few.table(0, 1).position(r), original.data(), value.data());
      worst = std::max(worst, deviation(key, original));
    }
    return worst;
  };
  EXPECT_LT(off("unrotated"), 1e-5);
  EXPECT_GT(off("stored"), 1e-2);
}

/// Quest must find the page of a row that outweighs all others, though its key is none that a query looks for.
TEST(Fate, IndicesThatBoundLogitsCountWeights) {
  const std::size_t prompt = 8 + 4096 + 512;
  Text text(shape, prompt + 1, 13);
  for (std::size_t t = 8; t < 8 + 4096; ++t) { std::fill_n(text.keys.begin() + static_cast<std::ptrdiff_t>(t * 64), 64, 0.0F); }
  for (const float cap : {0.0F, 0.5F}) {
    AnyCache cache = make("razorattention:sinks=8,window=512+quest:budget=64,page=8,dense_layers=0+f32");
    cache.append(0, text.key_rows(0, prompt), text.value_rows(0, prompt));
    cache.end_prompt(0);
    std::vector<float> sums(shape.query_heads);
    static_cast<void>(step(cache, text, prompt, 1, 0, {.scale = 0.05F, .soft_cap = cap, .log_sum_exp = sums.data()}));
    for (const float sum : sums) { EXPECT_GT(sum, std::log(4096.0F)) << cap; }
  }
}

TEST(Fate, WhatCannotBeWrittenIsRefusedWithASentence) {
  const auto refused = [](const std::string& policy, const std::string& sentence) {
    try {
      static_cast<void>(make(policy));
      ADD_FAILURE() << policy << " is accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::option) << policy;
      EXPECT_NE(std::string(error.what()).find(sentence), std::string::npos) << policy << ": " << error.what();
    }
  };
  refused("h2o+merge+kivi4", std::string(detail::Rules::written_at_commits_sentence));
  refused("razorattention+kivi4", std::string(detail::Rules::written_at_commits_sentence));
  refused("snapkv+merge+xkv", std::string(detail::Rules::written_sentence));
  refused("streaming:in_cache_positions=false+mean_row+landmarks", std::string(detail::Rules::index_follows_sentence));
  refused("snapkv+mean_row+kivi4:accumulation=fast", "accumulation is fast, must be exact or near_exact: one heavy row");
  refused("snapkv+value_spread", "the fate observes every query, and the eviction the last ones of a prompt");
  refused("tova+merge_weighted", "keeps the same rows in several lanes, which share them");
  refused("merge", "merge is given, an eviction's fate, must stand behind an eviction, like snapkv+merge");
  refused("h2o+merge+mean_row", "names two fates: merge and mean_row");
  refused("h2o+merge:threshold=2", "merge: threshold is 2, must be -1 to 1");
  refused("h2o+merge:weights=all", "must be average, pivot, cosine, exponential, similarity, value_norm or gaussian");
  refused("h2o+demote", std::string(detail::Rules::tiers_sentence));
  refused("h2o+demote+kivi4", std::string(detail::Rules::tiers_sentence));
  refused("h2o:budget=1000000B+demote+tiers2", "budget is given in bytes, must be rows or a fraction where rows get colder");
  static_cast<void>(make("h2o+merge+keys=f16,values=f32"));
  static_cast<void>(make("snapkv+merge+kivi4:accumulation=fast"));
}

/// Nothing goes: what an eviction would have dropped is in codes, what it would have kept is exact.
TEST(Fate, WhatGetsColderIsEncodedAndTheRestStaysExact) {
  const Text text(shape, 200, 15);
  for (const std::string eviction : {"snapkv:budget=40,window=8", "h2o:budget=40", "razorattention:window=36,sinks=4"}) {
    AnyCache dropped = make(eviction);
    AnyCache cache = make((eviction.starts_with("razor") ? "streaming:window=36,sinks=4,in_cache_positions=false" : eviction) +
                          "+demote+tiers4:accumulation=exact");
    for (AnyCache* one : {&dropped, &cache}) {
      static_cast<void>(step(*one, text, 0, 200));
      one->end_prompt(0);
    }
    for (std::size_t head = 0; head < 2; ++head) {
      EXPECT_EQ(cache.kept(0, head).size(), 200U) << eviction;
      const RowTable& table = cache.table(0, head);
      const std::size_t settled = cache.values(0, head).settled();
      EXPECT_EQ(settled, 160U) << eviction;
      EXPECT_EQ(cache.keys(0, head).settled(), 160U) << eviction;
      std::vector<Position> exact;
      std::vector<float> key(32);
      std::vector<float> value(32);
      double worst = 0.0;
      for (std::size_t r = settled; r < table.rows(); ++r) {
        exact.push_back(table.position(r));
        cache.read(0, head, r, key.data(), value.data());
        const float* const own = text.values.data() + (table.position(r) * std::size_t{2} + head) * 32;
        worst = std::max(worst, deviation(value, std::span<const float>(own, 32)));
      }
      std::sort(exact.begin(), exact.end());
      if (!eviction.starts_with("razor")) { EXPECT_EQ(exact, dropped.kept(0, head)) << eviction; }
      EXPECT_LT(worst, 2e-3) << eviction;
    }
    for (std::size_t t = 0; t < 80; ++t) {
      const Text more(shape, 280, 16);
      const Outputs out = step(cache, more, 200 + t, 1);
      ASSERT_LT(deviation(out, attention_over_held_rows(cache, more, 201 + t, 1)), 4e-5) << eviction << " token " << t;
    }
    cache.commit(0);
    EXPECT_EQ(cache.kept(0, 0).size(), 280U) << eviction;
    EXPECT_LE(280 - cache.values(0, 0).settled(), eviction.starts_with("snapkv") ? 120U : 40U) << eviction;
  }
}

/// A disposer that writes a number that is none, or to a row that goes.
template <bool Infinite>
struct Wrong : MeanRow {
  static void dispose(const Options&, std::span<RowSet> sets, const Moment&) {
    const auto goes = [](const RowSet& set) { return std::count(set.drop.begin(), set.drop.end(), 1) > 0; };
    const std::vector<float> row(32, Infinite ? INFINITY : 1.0F);
    for (const RowSet& set : sets) {
      for (std::size_t r = 0; goes(set) && r < set.rows.rows(); ++r) {
        if ((set.drop[r] != 0) != Infinite) { return set.write(set.lanes.front(), r, row, {}); }
      }
    }
  }
};
TEST(Fate, AWrongWriteIsAnErrorAndChangesNothing) {
  Registry all = examples::registry();
  all.add_fate<Wrong<true>>("infinite");
  all.add_fate<Wrong<false>>("to_the_dead");
  const Text text(shape, 60, 14);
  for (const std::string fate : {"infinite", "to_the_dead"}) {
    AnyCache cache = all.make("h2o:budget=40+" + fate, shape);
    static_cast<void>(step(cache, text, 0, 40));
    cache.end_prompt(0);
    static_cast<void>(step(cache, text, 40, 1));
    const File before = saved(cache);
    EXPECT_THROW(cache.commit(0), Error) << fate;
    EXPECT_TRUE(saved(cache) == before) << fate;
  }
}

}  // namespace fates_test
