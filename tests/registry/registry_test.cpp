// tests/registry/registry_test.cpp - policies by name: every combination, their options, and errors that say what there is.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <set>

#include "kvcompress/policies/full.hpp"
#include "kvcompress/policies/h2o.hpp"
#include "kvcompress/policies/kivi.hpp"
#include "kvcompress/policies/quest.hpp"
#include "kvcompress/policies/shadowkv.hpp"
#include "kvcompress/policies/streaming_llm.hpp"
#include "registry/refused.hpp"
#include "registry/registry.hpp"
#include "support/counting_memory.hpp"
#include "support/random_rows.hpp"

namespace registry_test {

using namespace kvcompress;
using namespace kvcompress::test;

const Shape small{.query_heads = 4, .kv_heads = 2, .head_dim = 32};

using examples::registry;  // the standard registry, compiled once
void expect_error(const std::string& policy, const std::string& sentence) { expect_refused(policy, small, sentence); }

TEST(Registry, EveryEvictionWorksWithEveryStorage) {
  const Text text(small, 300, 1);
  Outputs exact = full_attention(text);
  exact.resize(100 * text.output_width());  // the prompt's
  for (const std::string eviction : {"", "streaming:sinks=4,window=44", "h2o:budget=48", "snapkv:budget=32,window=8,decode_budget=16"}) {
    for (const std::string storage :
         {"f32", "f16", "bf16", "kivi2", "kivi3:residual=32", "kivi4", "kivi8:residual=64", "rot2:group=32", "rot3", "rot4:residual=0",
          "rot8", "lm2", "lm3", "lm4:residual=40", "full", "gear2", "gear4:buffer=8"}) {
      const std::string name = eviction.empty() ? storage : eviction + "+" + storage;
      CountingMemory memory;
      {
        auto cache = registry().make(name, small, memory.handle());
        EXPECT_LT(deviation(step(cache, text, 0, 100), exact), storage == "f32" ? 2e-5 : storage == "bf16" ? 4e-2 : 5e-3) << name;
        cache.end_prompt(0);
        for (std::size_t t = 100; t < 300; ++t) {
          const Outputs one = step(cache, text, t, 1);
          ASSERT_TRUE(std::ranges::all_of(one, [](float x) { return std::isfinite(x) && std::abs(x) < 10.0F; })) << name;
        }
        cache.commit(0);
        EXPECT_EQ(cache.kept(0, 0).size(), eviction.empty() ? 300U : 48U) << name;
        EXPECT_EQ(cache.memory().total(), memory.bytes) << name;
        EXPECT_EQ(cache.tokens(0), 300U);
      }
      EXPECT_EQ(memory.bytes, 0U) << name;
    }
  }
}

TEST(Registry, EveryNameDecodesAFewTokens) {
  const Text text(small, 150, 6);
  const std::vector<std::string> names = registry().policies();
  EXPECT_EQ(names.size(), 2003U);
  EXPECT_EQ(std::set<std::string>(names.begin(), names.end()).size(), names.size());
  for (std::string name : names) {
    const std::string plain = name;
    const auto set = [&](const std::string& part, const std::string& settings) {
      if (const std::size_t at = name.find(part); at < name.size()) { name.insert(at + part.size(), ":" + settings); }
    };
    set("streaming", "window=80,in_cache_positions=false");
    set("h2o", "budget=80");
    const std::string with_budget =
        " snapkv pyramidkv adakv tova keydiff expected_attention knorm lagkv keyformer chunkkv criticalkv criticaladakv "
        "observed_attention cur leverage dropkv cake finch largest_attention d2o rkv windowkv grid_logits compactor "
        "non_causal_attention cap random global_local largest_window ";
    const std::string evicting = plain.substr(0, plain.find('+'));
    if (with_budget.find(" " + evicting + " ") != std::string::npos) { set(evicting, "budget=80"); }
    set("simlayerkv", "first_rows=4,recent=90,threshold=0,last=8");
    set("cam", "budget=80,period=4");
    set("razorattention", "window=80");
    if (plain.starts_with("kvzip")) { set("kvzip", "budget=80"); }
    set("quest", "budget=32,dense_layers=0");
    set("landmarks", "budget=16,outlier_chunks=2");
    set("shadowkv", "budget=16,outlier_chunks=2,rank=16");
    CountingMemory memory;
    {
      auto cache = registry().make(name, small, memory.handle());
      for (const float x : run(cache, text, 140, 150, 0, plain.starts_with("kvzip") ? 20 : 0)) {
        ASSERT_TRUE(std::isfinite(x) && std::abs(x) < 10.0F) << name;
      }
      EXPECT_EQ(cache.memory().total(), memory.bytes) << name;
      EXPECT_EQ(cache.tokens(0), 150U);
      const std::string first = plain.substr(0, plain.find('+'));
      const bool evicts =
          std::ranges::any_of(registry().parts(), [&](const PartInfo& part) { return part.name == first && part.kind == "eviction"; });
      EXPECT_EQ(cache.kept(0, 0).size() < 150, evicts) << name;
      EXPECT_EQ(cache.fetched() > 0, plain.find("shadowkv") < plain.size()) << name;
    }
    EXPECT_EQ(memory.bytes, 0U) << name;
  }
}

TEST(Registry, ANamedPolicyIsTheTypedOne) {
  const Text text(small, 260, 2);
  using P = Combine<H2O, Kivi<4>>;
  KVCache<P> typed(small, {.eviction = {.budget = 200, .recent = 40, .reduction = Reduction::max, .in_cache_positions = true},
                           .storage = {.residual = 64}});
  auto named = registry().make("h2o:budget=200,recent=40,reduction=max,in_cache_positions=true+kivi4:residual=64", small);
  auto turned = registry().make("kivi4:residual=64+h2o:in_cache_positions=1,reduction=max,recent=40,budget=200", small);
  const Outputs expected = run(typed, text, 230, 260);
  EXPECT_TRUE(run(named, text, 230, 260) == expected);
  EXPECT_TRUE(run(turned, text, 230, 260) == expected);
  EXPECT_EQ(named.kept(0, 1), typed.kept(0, 1));
}

TEST(Registry, OnePartMayNameOptionsOfStorageAndRetrieval) {
  const Text text(small, 200, 7);
  KVCache<ShadowKV<>> typed(small, {.storage = {.rank = 12, .reuse = false},
                                    .retrieval = {.budget = 24, .chunk = 4, .outlier_chunks = 3, .behaviour = ShadowKVClass::offload}});
  auto named = registry().make("shadowkv:budget=24,rank=12,chunk=4,behaviour=offload,reuse=false,outlier_chunks=3", small);
  EXPECT_TRUE(run(named, text, 190, 200) == run(typed, text, 190, 200));
  EXPECT_EQ(named.fetched(), typed.fetched());
  auto in_files = registry().make("shadowkv:directory=/tmp,rank=12,budget=24,outlier_chunks=3", small);
  static_cast<void>(run(in_files, text, 190, 200));
  EXPECT_GT(in_files.memory().slow_file, 0U);
  EXPECT_EQ(in_files.memory().slow_tier, 0U);
}

TEST(Registry, OptionsOfAllThreeAxesReachThePolicy) {
  const Text text(small, 200, 8);
  using P = Combine<StreamingLLM, Kivi<4>, Quest>;
  KVCache<P> typed(
      small,
      {.eviction = {.sinks = 4, .window = 120}, .storage = {.residual = 32}, .retrieval = {.budget = 32, .page = 8, .dense_layers = 0}});
  auto named = registry().make("quest:page=8,budget=32,dense_layers=0+streaming:window=120+kivi4:residual=32", small);
  EXPECT_TRUE(run(named, text, 190, 200) == run(typed, text, 190, 200));
}

TEST(Registry, VerbsReachTheCacheBehind) {
  const Text text(small, 60, 3);
  auto cache = registry().make("f16", small);
  static_cast<void>(run(cache, text, 30, 40));
  auto fork = cache.fork();
  cache.truncate(20);
  EXPECT_EQ(cache.tokens(0), 20U);
  EXPECT_EQ(fork.tokens(0), 40U);
  fork.remove(5, 10);
  EXPECT_EQ(fork.kept(0, 0).size(), 35U);
  fork.clear();
  EXPECT_EQ(fork.tokens(0), 0U);
  cache.reserve(1000);
  EXPECT_GT(cache.memory().total(), std::size_t{1000} * 2 * 2 * 32 * 2);
  EXPECT_GT(cache.bits_per_value(), 16.0);
  cache.append(0, text.key_rows(0, 1), text.value_rows(0, 1), 77);
  EXPECT_EQ(cache.tokens(0), 78U);
  const std::vector<Position> position{77};
  cache.observe(0, text.query_rows(0, 1), position, {}, nullptr);
  EXPECT_EQ(cache.shape().head_dim, 32U);
}

TEST(Registry, BudgetsAreRowsPercentOrBytes) {
  const Text text(small, 200, 4);
  const auto kept = [&](const char* policy) {
    auto cache = registry().make(policy, small);
    static_cast<void>(run(cache, text, 200, 200));
    return cache.kept(0, 0).size();
  };
  EXPECT_EQ(kept("h2o:budget=30"), 30U);
  EXPECT_EQ(kept("h2o:budget=20%"), 40U);
  EXPECT_EQ(kept("snapkv:budget=12.5%,window=8"), 25U);
  const std::size_t rows = kept("h2o:budget=40000B+f32");
  EXPECT_LE(rows * 2 * 2 * 32 * 4, 40000U);  // two lanes of keys and values
  EXPECT_GE((rows + 33) * 2 * (2 * 32 * 4 + 8), 40000U) << "a block more would not fit";
}

TEST(Registry, ErrorsNameWhatIsUnknownAndWhatThereIs) {
  const std::string parts =
      "streaming, h2o, snapkv, pyramidkv, adakv, tova, keydiff, expected_attention, knorm, lagkv, keyformer, chunkkv, criticalkv, "
      "criticaladakv, simlayerkv, observed_attention, cur, leverage, dropkv, cake, finch, largest_attention, d2o, cam, razorattention, "
      "rkv, windowkv, grid_logits, compactor, non_causal_attention, cap, random, kvzip, global_local, largest_window, "
      "f16, f32, bf16, kivi2, kivi3, kivi4, kivi8, tiers2, tiers4, rot2, rot3, rot4, rot8, lm2, lm3, lm4, q8_0, q4_0, iq4_nl, "
      "mxfp4, nvfp4, gear2, gear4, xkv, shadowkv, "
      "quest, landmarks, in_layer, uniform, kvcompose, variance_shares, top_mass, threshold, best, eg_chunkkv, best_of_each_chunk, "
      "sentences, kvcrush, sampled, "
      "merge, merge_weighted, merge_ranked, merge_neighbours, value_spread, mean_row, demote";
  expect_error("kivi5", "\"kivi5\" is no part of a policy, must be one of full, " + parts);
  expect_error("h2o+kiwi2", "\"kiwi2\" is no part of a policy, must be one of full, " + parts);
  expect_error("h2o:budgets=5", "h2o has no option \"budgets\", must be one of budget, recent, reduction, in_cache_positions");
  expect_error("f16:bits=3", "f16 has no option \"bits\", must be without options");
  expect_error("h2o:budget=many", "option h2o:budget is \"many\", must be rows, a percentage like 20% or bytes like 1000000B");
  expect_error("h2o:budget=-5", "option h2o:budget is \"-5\", must be rows, a percentage like 20% or bytes like 1000000B");
  expect_error("h2o:budget=x%", "option h2o:budget is \"x%\", must be rows, a percentage like 20% or bytes like 1000000B");
  expect_error("h2o:recent=1.5", "option h2o:recent is \"1.5\", must be a whole number");
  expect_error("h2o:reduction=median", "option h2o:reduction is \"median\", must be mean, max or sum");
  expect_error("snapkv:pooling=min", "option snapkv:pooling is \"min\", must be average or max");
  expect_error("streaming:in_cache_positions=maybe", "option streaming:in_cache_positions is \"maybe\", must be true or false");
  expect_error("rot4:group=40", "rotated: group is 40, must be 0 or a multiple of 32");
  expect_error("kivi4:group=40", "kivi: group is 40, must be 8, 16, 32, 64 or 128");
  expect_error("lm4:accumulation=fast",
               "rotated: accumulation is fast, must be exact or near_exact with levels, which have 8 bits in products");
  expect_error("kivi2:residual=33", "kivi: residual is 33, must be a positive multiple of the group size 32");
  expect_error("snapkv:kernel=2", "snapkv: kernel is 2, must be odd");
  expect_error("h2o:budget=0%", "h2o: budget is 0, must be at least 1 row or byte, or a fraction in (0, 1]");
  expect_error("h2o:budget=nan%", "h2o: budget is a fraction of nan, must be in (0, 1]");
  expect_error("h2o+snapkv", "policy \"h2o+snapkv\" names two evictions: h2o and snapkv");
  expect_error("f16+kivi2", "policy \"f16+kivi2\" names two storages: f16 and kivi2");
  expect_error("quest+landmarks", "policy \"quest+landmarks\" names two retrievals: quest and landmarks");
  expect_error("shadowkv:behaviour=fast", "option shadowkv:behaviour is \"fast\", must be accuracy or offload");
  expect_error("shadowkv:page=8",
               "shadowkv has no option \"page\", must be one of rank, reuse, directory, budget, chunk, local_chunks, "
               "outlier_chunks, fold_in, behaviour");
  expect_error("gear4:sparsity=2 %", "option gear4:sparsity is \"2 %\", must be a number");
  expect_error("gear4:sparsity=nan", "gear: sparsity is nan, must lie between 0 and 1");
  expect_error("", "policy \"\" has an empty part");
  expect_error("h2o+", "policy \"h2o+\" has an empty part");
  expect_error("+h2o", "policy \"+h2o\" has an empty part");
  expect_error("h2o:budget", "policy \"h2o:budget\": \"budget\" is no setting, must be key=value");
  expect_error("h2o:=5", "policy \"h2o:=5\": \"\" is no setting, must be key=value");
  expect_error("h2o:", "policy \"h2o:\": \"\" is no setting, must be key=value");
  expect_error("h2o:budget=5,", "policy \"h2o:budget=5,\": \"\" is no setting, must be key=value");
  expect_error("h2o:budget=", "policy \"h2o:budget=\": \"budget\" is no setting, must be key=value");
  expect_error("h2o:budget=5,budget=7", "policy \"h2o:budget=5,budget=7\": option h2o:budget is given as 5 and as 7, must be given once");
  expect_error("h2o+h2o", "policy \"h2o+h2o\" names two evictions: h2o and h2o");
  expect_error("h2o:budget=18446744073709551616",
               "option h2o:budget is \"18446744073709551616\", must be rows, a percentage like 20% or bytes like 1000000B");
  expect_error("h2o:budget=18446744073709551615", "h2o: budget is 18446744073709551615 rows, must be at most 4294967294");
  expect_error("gear4:sweeps=1001", "gear: sweeps is 1001, must be at most 1000");
  expect_error("gear4:merge=max", "gear: merge is 18446744073709551615, must be 0 to 4294967294");
  expect_error("xkv:rank_keys=max", "xkv: rank_keys is 18446744073709551615, must be 0 to 4294967294");
  expect_error("shadowkv:rank=max", "shadowkv: rank is 18446744073709551615, must be 0 to 4294967294");
}

TEST(Registry, NamesOfPartsThatCouldNotBeFound) {
  Registry own;
  own.add<Full<float>>("f32");
  const auto refused = [&](const char* storage, const std::string& sentence) {
    try {
      own.add<Full<float>>(storage);
      ADD_FAILURE() << "no error, expected: " << sentence;
    } catch (const Error& error) { EXPECT_EQ(error.what(), "kvcompress: registry: " + sentence); }
  };
  refused("f32", "f32 is given a second time, must be added once");
  refused("", "a name is empty, must be the name of a part");
  refused("a+b", "the name \"a+b\" is given, must be without any of + : ; , = and space");
  refused("heads", "the name \"heads\" is given, must be another one: it begins a clause");
  refused("full", "the name \"full\" is given, must be another one: it means f16");
  EXPECT_EQ(own.policies(), std::vector<std::string>{"f32"});
}

TEST(Registry, ErrorsSayWhyPartsDoNotGoTogether) {
  const std::string together(detail::Rules::encoded_together_sentence);
  expect_error("h2o+xkv", "policy \"h2o+xkv\": h2o with xkv: " + together);
  expect_error("h2o+shadowkv", "policy \"h2o+shadowkv\": h2o with shadowkv: " + together);
  expect_error("h2o+quest", "policy \"h2o+quest\": h2o with f16 with quest: " + std::string(detail::Rules::observes_all_sentence));
  expect_error("shadowkv+quest", "policy \"shadowkv+quest\" names two retrievals: shadowkv (storage and retrieval) and quest");
  expect_error("kivi4+shadowkv", "policy \"kivi4+shadowkv\" names two storages: kivi4 and shadowkv (storage and retrieval)");
  expect_error("streaming+shadowkv",
               "sink_window: in_cache_positions is true, must be false with landmarks, whose index is made at the original "
               "positions");
}

TEST(Registry, ListsPartsWithTheirDefaults) {
  std::set<std::string> names;
  for (const PartInfo& part : registry().parts()) {
    names.insert(part.kind + " " + part.name);
    if (part.name == "streaming") { EXPECT_EQ(part.defaults, "sinks=4,window=1020,in_cache_positions=true"); }
    if (part.name == "h2o") { EXPECT_EQ(part.defaults, "budget=2048,recent=0,reduction=mean,in_cache_positions=false"); }
    if (part.name == "snapkv") { EXPECT_EQ(part.defaults, "budget=1024,window=32,kernel=7,pooling=max,reduction=mean,decode_budget=0"); }
    if (part.name == "kivi2") { EXPECT_EQ(part.defaults, "residual=128,group=32,accumulation=near_exact"); }
    if (part.name == "gear4") {
      EXPECT_EQ(
          part.defaults,
          "prompt_rank=4,decode_rank=2,sweeps=3,sparsity=0.02,buffer=20,merge=0,seed=1,accumulation=near_exact,official_simulation=false");
    }
    if (part.name == "xkv") {
      EXPECT_EQ(part.defaults,
                "layers_per_group=4,rank_keys=0,rank_values=0,first_layer=0,last_layer=max,merge_keys=true,merge_values=true,fold_in=0");
    }
    if (part.name == "shadowkv") {
      EXPECT_EQ(part.defaults,
                "rank=0,reuse=true,directory=,budget=2048,chunk=8,local_chunks=4,outlier_chunks=48,fold_in=0,behaviour=accuracy");
    }
    if (part.name == "quest") { EXPECT_EQ(part.defaults, "budget=2048,page=16,dense_layers=2,reuse=1"); }
  }
  EXPECT_EQ(names, (std::set<std::string>{"storage f16",
                                          "storage f32",
                                          "storage bf16",
                                          "storage kivi2",
                                          "storage kivi3",
                                          "storage kivi4",
                                          "storage kivi8",
                                          "storage rot2",
                                          "storage rot3",
                                          "storage rot4",
                                          "storage rot8",
                                          "storage lm2",
                                          "storage lm3",
                                          "storage lm4",
                                          "storage q8_0",
                                          "storage q4_0",
                                          "storage iq4_nl",
                                          "storage mxfp4",
                                          "storage nvfp4",
                                          "eviction streaming",
                                          "eviction h2o",
                                          "eviction snapkv",
                                          "eviction pyramidkv",
                                          "eviction adakv",
                                          "eviction tova",
                                          "eviction keydiff",
                                          "eviction expected_attention",
                                          "eviction knorm",
                                          "eviction lagkv",
                                          "eviction keyformer",
                                          "eviction chunkkv",
                                          "eviction criticalkv",
                                          "eviction criticaladakv",
                                          "eviction simlayerkv",
                                          "eviction observed_attention",
                                          "eviction cur",
                                          "eviction leverage",
                                          "eviction dropkv",
                                          "eviction cake",
                                          "eviction finch",
                                          "eviction largest_attention",
                                          "eviction d2o",
                                          "eviction cam",
                                          "eviction razorattention",
                                          "eviction rkv",
                                          "eviction windowkv",
                                          "eviction grid_logits",
                                          "eviction compactor",
                                          "eviction non_causal_attention",
                                          "eviction cap",
                                          "eviction random",
                                          "eviction kvzip",
                                          "eviction global_local",
                                          "eviction largest_window",
                                          "fate merge",
                                          "fate merge_weighted",
                                          "fate merge_ranked",
                                          "fate merge_neighbours",
                                          "fate value_spread",
                                          "fate mean_row",
                                          "fate demote",
                                          "storage tiers2",
                                          "storage tiers4",
                                          "storage gear2",
                                          "storage gear4",
                                          "storage xkv",
                                          "storage and retrieval shadowkv",
                                          "retrieval quest",
                                          "retrieval landmarks",
                                          "agreement in_layer",
                                          "allocator uniform",
                                          "allocator pyramidkv",
                                          "allocator adakv",
                                          "allocator cake",
                                          "allocator kvcompose",
                                          "allocator variance_shares",
                                          "allocator top_mass",
                                          "allocator threshold",
                                          "selector best",
                                          "selector chunkkv",
                                          "selector eg_chunkkv",
                                          "selector best_of_each_chunk",
                                          "selector sentences",
                                          "selector criticalkv",
                                          "selector sampled",
                                          "selector kvcrush"}));
}

struct Clash {
  struct Storage : ShadowKV<>::Storage {
    struct Options : ShadowKV<>::Storage::Options {
      static void fields(auto& options, auto&& field) { field("budget", options.rank); }
    };
  };
  using Retrieval = LandmarkIndex<half>;
};

TEST(Registry, OnePartCannotHaveTwoOptionsOfOneName) {
  Registry own;
  EXPECT_THROW(own.add<Clash>("clash"), Error);
}

TEST(Registry, TakesPoliciesOfYourOwn) {
  Registry own;
  own.add<Kivi<1, 8, 8>>("tiny");
  EXPECT_EQ(own.parts().size(), 1U);
  auto cache = own.make("tiny:residual=16", small);
  const Text text(small, 40, 5);
  static_cast<void>(run(cache, text, 30, 40));
  EXPECT_EQ(cache.kept(0, 0).size(), 40U);
  EXPECT_THROW(static_cast<void>(own.make("h2o+tiny", small)), Error);
  EXPECT_THROW(static_cast<void>(Registry().make("tiny", small)), Error);
}

}  // namespace registry_test
