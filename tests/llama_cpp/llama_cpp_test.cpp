// tests/llama_cpp/llama_cpp_test.cpp - llama.cpp on our caches against llama.cpp on its own.
// SPDX-License-Identifier: MIT
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "kvcompress/persistence.hpp"
#include "kvcompress/persistence/buffers.hpp"
#include "llama_cpp/engine.hpp"
#include "llama_cpp/models.hpp"

namespace kvcompress::test {
namespace llama_cpp_test {

using testing::HasSubstr;

std::string refusal(auto&& act) {
  try {
    act();
  } catch (const std::exception& error) { return error.what(); }
  return "nothing was refused";
}

/// A model of the test, loaded.
struct Loaded {
  explicit Loaded(const TinyModel& model) { file.write(TinyModelFile(model).bytes()), loaded = std::make_unique<LlamaModel>(file.path()); }
  tiny::TemporaryFile file;
  std::unique_ptr<LlamaModel> loaded;
  const LlamaModel& operator*() const noexcept { return *loaded; }
};
const TinyModel gqa{.architecture = "llama"};
const TinyModel mqa{.architecture = "llama", .kv_heads = 1};
const TinyModel qwen2{.architecture = "qwen2", .qkv_bias = 1.0F};
const TinyModel gemma3{.architecture = "gemma3", .layers = 6, .kv_heads = 1, .head = 64, .normalised = true, .post_norms = true};
const TinyModel gpt_oss{.architecture = "gpt-oss", .qkv_bias = 0.5F, .output_bias = true, .sinks = true, .experts = 4};
const TinyModel mpt{.architecture = "mpt", .kv_heads = 4, .alibi = true};
const TinyModel mpt6{.architecture = "mpt", .width = 192, .query_heads = 6, .kv_heads = 6, .alibi = true};  // slopes of no power of two

/// Prompt in ubatches, then token by token; the largest difference of any logit to llama.cpp with an f32 cache. The text is the one that
/// llama.cpp writes; ours must choose the same token wherever its best two are further apart than that difference allows.
float compare(const TinyModel& tiny, const std::string& policy, Engine::Setup setup = {}, llama_pos end = 364) {
  const Loaded model(tiny);
  llama_cpp::Cache cache(examples::registry(), {.policy = policy});
  Engine theirs(*model, setup);
  Engine ours(*model, setup, &cache);
  std::vector<llama_token> text = random_tokens(300);
  const auto expected = theirs.decode(text, 0);
  float largest = difference(ours.decode(text, 0), expected);
  std::vector<float> last = expected.back();
  for (llama_pos at = 300; at < end; ++at) {
    const auto best = static_cast<llama_token>(std::max_element(last.begin(), last.end()) - last.begin());
    const auto own = theirs.decode({best}, at);
    const auto got = ours.decode({best}, at);
    largest = std::max(largest, difference(got, own));
    last = own.back();
    std::vector<float> sorted = last;
    std::partial_sort(sorted.begin(), sorted.begin() + 2, sorted.end(), std::greater<>());
    if (sorted[0] - sorted[1] > 2.0F * largest + 1e-2F) {
      EXPECT_EQ(std::max_element(got.back().begin(), got.back().end()) - got.back().begin(),
                std::max_element(last.begin(), last.end()) - last.begin());
    }
  }
  std::printf("%s, %u KV heads, %s: logits differ by at most %.1e from llama.cpp's own f32 cache\n", tiny.architecture.c_str(),
              tiny.kv_heads, policy.c_str(), static_cast<double>(largest));
  return largest;
}

TEST(LlamaCpp, LogitsAreThoseOfItsOwnF32Cache) {
  EXPECT_LT(compare(gqa, "f32"), 1e-4F);
  EXPECT_LT(compare(mqa, "f32"), 1e-4F);
  EXPECT_LT(compare(qwen2, "f32"), 5e-4F);
}
TEST(LlamaCpp, SlidingWindowsSeveralRotationsAndSinks) {
  EXPECT_LT(compare(gemma3, "f32"), 5e-3F);  // GELU by a table in f16
  EXPECT_LT(compare(gpt_oss, "f32"), 2e-4F);
}
TEST(LlamaCpp, AlibiBiasesByDistance) {
  EXPECT_LT(compare(mpt, "f32"), 5e-3F);  // GELU by a table in f16
  EXPECT_LT(compare(mpt6, "f32", {.threads = 1}, 310), 5e-3F);
}
TEST(LlamaCpp, F16RowsAreAsCloseAsItsOwn) { EXPECT_LT(compare(gqa, "full"), 5e-2F); }
TEST(LlamaCpp, SeveralThreadsOfItsOwn) { EXPECT_LT(compare(gqa, "f32", {.threads = 2}, 304), 1e-4F); }  // they spin
TEST(LlamaCpp, CodesAreReadTheSameOnSeveralThreads) {
  const Loaded model(gqa);
  const auto run = [&](std::int32_t threads) {
    llama_cpp::Cache cache(examples::registry(), {.policy = "kivi4:residual=32"});
    Engine ours(*model, {.threads = threads}, &cache);
    auto logits = ours.decode(random_tokens(200), 0);
    logits.push_back(ours.decode({1}, 200).front());
    return logits;
  };
  EXPECT_EQ(difference(run(2), run(1)), 0.0F);
}

TEST(LlamaCpp, RowsThatAWindowHasPassedGo) {
  const Loaded model(gemma3);
  llama_cpp::Cache cache(examples::registry(), {.policy = "f32"});
  Engine ours(*model, {}, &cache);
  static_cast<void>(ours.decode(random_tokens(400), 0));
  static_cast<void>(ours.decode({1}, 400));
  static_cast<void>(ours.decode({2}, 401));
  std::size_t windowed = 0;
  for (const auto& [kind, held] : cache.sequences().at(0).caches) {
    for (std::size_t layer = 0; layer < 6; ++layer) {
      if (held.tokens(layer) == 0) { continue; }
      const bool local = layer != 5;  // five local layers, then one that sees all
      windowed += local ? 1U : 0U;
      EXPECT_EQ(held.kept(layer, 0).size(), local ? TinyModel::window + 1 : 402U) << layer;
    }
  }
  EXPECT_EQ(windowed, 5U);
}

TEST(LlamaCpp, PoliciesByLayer) {
  const Loaded model(gqa);
  llama_cpp::Cache cache(examples::registry(), {.policy = "layers 0-1: full; rest: streaming:sinks=4,window=60"});
  Engine ours(*model, {}, &cache);
  static_cast<void>(ours.decode(random_tokens(300), 0));
  static_cast<void>(ours.decode({1}, 300));
  std::vector<std::size_t> rows(4);
  for (const auto& [kind, held] : cache.sequences().at(0).caches) {
    for (std::size_t layer = 0; layer < 4; ++layer) { rows[layer] += held.kept(layer, 0).size(); }
  }
  EXPECT_EQ(rows, (std::vector<std::size_t>{301, 301, 65, 65}));
  const auto refuses = [](const char* policy) { return refusal([&] { llama_cpp::LayerPolicies{policy}; }); };
  EXPECT_THAT(refuses("layers 0-1: full"), HasSubstr("must end with \"rest: POLICY\""));
  EXPECT_THAT(refuses("layers 3-1: full; rest: f32"), HasSubstr("3-1"));
}

/// Unequal prompts of several sequences in one batch, interleaved tokens, a copy that goes its own way, a tail taken back, all gone.
void several_sequences(bool unified) {
  const Loaded model(gqa);
  const Engine::Setup setup{.context = 2048, .ubatch = 16, .sequences = 4, .unified = unified};
  llama_cpp::Cache cache(examples::registry(), {.policy = "f32"});
  Engine theirs(*model, setup);
  Engine ours(*model, setup, &cache);
  const auto both = [&](const std::vector<Input>& inputs) { return difference(ours.decode(inputs), theirs.decode(inputs)); };
  std::vector<Input> prompts;
  for (const auto& [sequence, length] : {std::pair{0, 37}, {1, 50}, {2, 9}}) {
    const std::vector<llama_token> tokens = random_tokens(static_cast<std::size_t>(length), static_cast<std::uint32_t>(sequence + 5));
    for (llama_pos i = 0; i < length; ++i) { prompts.push_back({tokens[static_cast<std::size_t>(i)], sequence, i}); }
  }
  EXPECT_LT(both(prompts), 1e-4F);
  EXPECT_LT(both({{7, 2, 9}, {8, 0, 37}, {9, 1, 50}}), 1e-4F);
  EXPECT_LT(both({{3, 1, 51}, {4, 2, 10}}), 1e-4F);

  cache.copy(ours.context(), 1, 3);
  llama_memory_seq_cp(llama_get_memory(theirs.context()), 1, 3, -1, -1);
  EXPECT_LT(both({{30, 1, 52}, {31, 3, 52}}), 1e-4F);
  EXPECT_LT(both({{32, 3, 53}, {33, 1, 53}}), 1e-4F);

  ASSERT_TRUE(cache.remove(ours.context(), 3, 53, -1));
  ASSERT_TRUE(llama_memory_seq_rm(llama_get_memory(theirs.context()), 3, 53, -1));
  EXPECT_LT(both({{40, 3, 53}}), 1e-4F);
  ASSERT_TRUE(cache.remove(ours.context(), 0, 5, 20));
  ASSERT_TRUE(llama_memory_seq_rm(llama_get_memory(theirs.context()), 0, 5, 20));
  EXPECT_LT(both({{41, 0, 38}}), 1e-4F);

  cache.keep(ours.context(), 1);
  for (const llama_seq_id other : {0, 2, 3}) { llama_memory_seq_rm(llama_get_memory(theirs.context()), other, -1, -1); }
  EXPECT_EQ(cache.sequences().size(), 1U);
  EXPECT_LT(both({{42, 1, 54}, {1, 0, 0}, {2, 0, 1}}), 1e-4F);
  cache.clear(ours.context());
  llama_memory_clear(llama_get_memory(theirs.context()), true);
  EXPECT_EQ(cache.memory().total(), 0U);
  EXPECT_LT(both({{1, 2, 0}, {2, 2, 1}}), 1e-4F);
}
TEST(LlamaCpp, SeveralSequencesInOneCache) { several_sequences(true); }
TEST(LlamaCpp, SeveralSequencesInStreams) { several_sequences(false); }

/// Room is made in a full context as programs do it, twice: tokens behind the first ones go, later ones move up; then text goes on, with
/// another prompt at the end. The largest difference of any logit to llama.cpp with an f32 cache that did the same.
float compare_shifted(const TinyModel& tiny, const std::string& policy, Engine::Setup setup = {}) {
  const Loaded model(tiny);
  llama_cpp::Cache cache(examples::registry(), {.policy = policy});
  Engine theirs(*model, setup);
  Engine ours(*model, setup, &cache);
  llama_memory_t memory = llama_get_memory(theirs.context());
  const auto both = [&](const std::vector<llama_token>& tokens, llama_pos at) {
    return difference(ours.decode(tokens, at), theirs.decode(tokens, at));
  };
  float largest = both(random_tokens(200), 0);
  largest = std::max(largest, both({1}, 200));
  EXPECT_TRUE(cache.can_shift(ours.context()));
  llama_pos next = 201;
  for (std::uint32_t turn = 0; turn < 2; ++turn) {
    EXPECT_TRUE(cache.remove(ours.context(), 0, 4, 80)) << cache.error();
    EXPECT_TRUE(llama_memory_seq_rm(memory, 0, 4, 80));
    EXPECT_TRUE(cache.shift(ours.context(), 0, 80, -1, -76)) << cache.error();
    llama_memory_seq_add(memory, 0, 80, -1, -76);
    next -= 76;
    EXPECT_EQ(cache.sequences().at(0).next, static_cast<Position>(next));
    for (const llama_token token : random_tokens(20, turn + 7)) { largest = std::max(largest, both({token}, next++)); }
  }
  largest = std::max(largest, both(random_tokens(150, 9), next));
  std::printf("%s, shifted twice, %s: logits differ by at most %.1e from llama.cpp's own f32 cache\n", tiny.architecture.c_str(),
              policy.c_str(), static_cast<double>(largest));
  return largest;
}
TEST(LlamaCpp, AContextShiftIsThatOfItsOwnF32Cache) {
  EXPECT_LT(compare_shifted(gqa, "f32"), 1e-4F);
  EXPECT_LT(compare_shifted(gqa, "f32", {.sequences = 2, .unified = false}), 1e-4F);
  EXPECT_LT(compare_shifted(qwen2, "f32"), 5e-4F);
  EXPECT_LT(compare_shifted(gemma3, "f32", {.whole_windows = true}), 5e-3F);
  EXPECT_LT(compare_shifted(gpt_oss, "f32", {.whole_windows = true}), 2e-4F);
}
/// A layer without a window must not be taken for one with it when it happens to see as many rows, and windows may have holes.
TEST(LlamaCpp, RowsRemovedFromTheMiddleOfAModelWithWindows) {
  const Loaded model(gemma3);
  const Engine::Setup setup{.whole_windows = true};
  llama_cpp::Cache cache(examples::registry(), {.policy = "f32"});
  Engine theirs(*model, setup);
  Engine ours(*model, setup, &cache);
  const auto both = [&](const std::vector<llama_token>& tokens, llama_pos at) {
    return difference(ours.decode(tokens, at), theirs.decode(tokens, at));
  };
  const auto remove = [&](llama_pos first, llama_pos last) {
    ASSERT_TRUE(cache.remove(ours.context(), 0, first, last)) << cache.error();
    ASSERT_TRUE(llama_memory_seq_rm(llama_get_memory(theirs.context()), 0, first, last));
  };
  EXPECT_LT(both(random_tokens(60), 0), 5e-3F);  // until here the layers look alike
  EXPECT_LT(both({1}, 60), 5e-3F);
  remove(4, 20);
  EXPECT_LT(both(random_tokens(18, 2), 61), 5e-3F);  // 63 rows
  EXPECT_LT(both({2}, 79), 5e-3F);                   // 64
  EXPECT_LT(both({3}, 80), 5e-3F);
  remove(30, 40);
  EXPECT_LT(both(random_tokens(20, 3), 81), 5e-3F);
}
TEST(LlamaCpp, AContextShiftOfCodesLosesNothingMore) {
  for (const char* policy : {"kivi4:residual=32", "kivi8:residual=32"}) {
    EXPECT_LT(compare_shifted(gqa, policy), 1.5F * compare(gqa, policy));
  }
}
TEST(LlamaCpp, PositionsThatWouldBeNegativeAreForgotten) {
  const Loaded model(gqa);
  llama_cpp::Cache cache(examples::registry(), {.policy = "f32"});
  Engine theirs(*model, {});
  Engine ours(*model, {}, &cache);
  const auto both = [&](const std::vector<llama_token>& tokens, llama_pos at) {
    return difference(ours.decode(tokens, at), theirs.decode(tokens, at));
  };
  EXPECT_LT(both(random_tokens(50), 0), 1e-4F);
  EXPECT_LT(both({1}, 50), 1e-4F);
  for (const llama_pos delta : {-20, 30}) {
    ASSERT_TRUE(cache.shift(ours.context(), 0, -1, -1, delta)) << cache.error();
    llama_memory_seq_add(llama_get_memory(theirs.context()), 0, -1, -1, delta);
  }
  EXPECT_EQ(cache.sequences().at(0).caches.begin()->second.kept(0, 0).size(), 31U);
  EXPECT_EQ(cache.sequences().at(0).first, 30U);
  EXPECT_LT(both({2}, 61), 1e-4F);
}
TEST(LlamaCpp, ShiftsThatCannotBeAreRefusedAndChangeNothing) {
  const Loaded model(gqa);
  const Engine::Setup setup{.sequences = 2};
  llama_cpp::Cache cache(examples::registry(), {.policy = "f32"});
  Engine theirs(*model, setup);
  Engine ours(*model, setup, &cache);
  llama_memory_t memory = llama_get_memory(theirs.context());
  const auto both = [&](const std::vector<Input>& inputs) { return difference(ours.decode(inputs), theirs.decode(inputs)); };
  const auto refuses = [&](llama_seq_id id, llama_pos first, llama_pos delta, const char* why) {
    EXPECT_FALSE(cache.shift(ours.context(), id, first, -1, delta));
    EXPECT_THAT(cache.error(), HasSubstr(why));
  };
  EXPECT_EQ(difference(ours.decode(random_tokens(50), 0), theirs.decode(random_tokens(50), 0)) < 1e-4F, true);
  refuses(0, 40, 5, "prompt is open");
  EXPECT_LT(both({{1, 0, 50}}), 1e-4F);
  refuses(0, 30, -10, "must pass no row");
  refuses(7, 0, 1, "must be less than 2");
  cache.copy(ours.context(), 0, 1);
  llama_memory_seq_cp(memory, 0, 1, -1, -1);
  EXPECT_LT(both({{2, 0, 51}, {3, 1, 51}}), 1e-4F);
  refuses(0, 40, 5, "sequence 1 shares the cells before it");
  for (const llama_seq_id id : {0, 1}) {  // each has rows of its own from 51 on
    ASSERT_TRUE(cache.shift(ours.context(), id, 51, -1, 9 + id)) << cache.error();
    llama_memory_seq_add(memory, id, 51, -1, 9 + id);
  }
  EXPECT_LT(both({{4, 0, 61}, {5, 1, 62}}), 1e-4F);
  ASSERT_TRUE(cache.remove(ours.context(), 1, -1, -1));
  ASSERT_TRUE(llama_memory_seq_rm(memory, 1, -1, -1));
  ASSERT_TRUE(cache.shift(ours.context(), 0, 20, -1, 5)) << cache.error();  // nobody shares them now
  llama_memory_seq_add(memory, 0, 20, -1, 5);
  EXPECT_LT(both({{6, 0, 67}}), 1e-4F);

  llama_cpp::Cache by_landmarks(examples::registry(), {.policy = "shadowkv"});
  Engine cannot(*model, {}, &by_landmarks);
  EXPECT_FALSE(by_landmarks.can_shift(cannot.context()));
  const Loaded windows(gemma3);
  llama_cpp::Cache forgets(examples::registry(), {.policy = "f32"});
  Engine windowed(*windows, {.context = 4096}, &forgets);
  EXPECT_FALSE(forgets.can_shift(windowed.context()));
  EXPECT_FALSE(forgets.shift(windowed.context(), 0, 0, -1, 1));
}

TEST(LlamaCpp, WhatLlamaCppForgetsByItselfIsNoticed) {
  const Loaded model(gqa);
  llama_cpp::Cache cache(examples::registry(), {.policy = "f32"});
  Engine ours(*model, {}, &cache);
  Engine theirs(*model, {});
  static_cast<void>(ours.decode(random_tokens(30), 0));
  static_cast<void>(theirs.decode(random_tokens(20), 0));
  llama_memory_seq_rm(llama_get_memory(ours.context()), 0, 20, -1);
  EXPECT_LT(difference(ours.decode({5, 6, 7}, 20), theirs.decode({5, 6, 7}, 20)), 1e-4F);
  llama_memory_seq_add(llama_get_memory(ours.context()), 0, 10, -1, 7);
  EXPECT_THAT(refusal([&] { static_cast<void>(ours.decode({5}, 30)); }), HasSubstr("by the verbs of this cache"));
}

TEST(LlamaCpp, ASecondPromptIsCompressedToo) {
  const Loaded model(gqa);
  llama_cpp::Cache cache(examples::registry(), {.policy = "snapkv:budget=64,window=16"});
  Engine ours(*model, {}, &cache);
  static_cast<void>(ours.decode(random_tokens(200), 0));
  static_cast<void>(ours.decode({1}, 200));
  const auto rows = [&] { return cache.sequences().at(0).caches.begin()->second.kept(0, 0).size(); };
  EXPECT_EQ(rows(), 65U);
  static_cast<void>(ours.decode(random_tokens(100, 3), 201));
  EXPECT_EQ(rows(), 165U);
  static_cast<void>(ours.decode({2}, 301));
  EXPECT_EQ(rows(), 65U);
}

TEST(LlamaCpp, SavedAndLoadedASequenceGoesOnBitForBit) {
  const Loaded model(gqa);
  const auto run = [&](bool reload) {
    llama_cpp::Cache cache(examples::registry(), {.policy = "kivi4:residual=32"});
    auto ours = std::make_unique<Engine>(*model, Engine::Setup{}, &cache);
    static_cast<void>(ours->decode(random_tokens(200), 0));
    static_cast<void>(ours->decode({1}, 200));
    EXPECT_TRUE(cache.remove(ours->context(), 0, 4, 100));
    EXPECT_TRUE(cache.shift(ours->context(), 0, 100, -1, -96));
    if (!reload) { return ours->decode({2}, 105); }
    std::vector<std::byte> file;
    cache.save(0, sink(file), detail::xxh3);
    std::vector<std::uint8_t> engines(llama_state_seq_get_size(ours->context(), 0));
    engines.resize(llama_state_seq_get_data(ours->context(), engines.data(), engines.size(), 0));
    llama_cpp::Cache other(examples::registry(), {.policy = "kivi4:residual=32"});
    Engine again(*model, {}, &other);
    EXPECT_GT(llama_state_seq_set_data(again.context(), engines.data(), engines.size(), 0), 0U);
    std::span<const std::byte> from(file);
    other.load(0, source(from), detail::xxh3);
    return again.decode({2}, 105);
  };
  EXPECT_EQ(difference(run(true), run(false)), 0.0F);
}

TEST(LlamaCpp, WhatItCannotServeIsRefusedAndTheContextStaysUsable) {
  const Loaded with_alibi(mpt);
  llama_cpp::Cache cache(examples::registry(), {.policy = "quest"});
  Engine ours(*with_alibi, {}, &cache);
  EXPECT_THAT(refusal([&] { static_cast<void>(ours.decode({1, 2, 3}, 0)); }), HasSubstr("without their distance"));
  EXPECT_THAT(refusal([&] { static_cast<void>(ours.decode({1, 2, 3}, 0)); }), HasSubstr("without their distance"));

  const Loaded model(gqa);
  llama_cpp::Cache wrong(examples::registry(), {.policy = "nonsense"});
  Engine refuses(*model, {}, &wrong);
  EXPECT_THAT(refusal([&] { static_cast<void>(refuses.decode({1, 2, 3}, 0)); }), HasSubstr("nonsense"));
  llama_cpp::Cache late(examples::registry(), {.policy = "layers 0-1: f32; rest: nonsense"});  // some layers have their rows by then
  Engine half_way(*model, {}, &late);
  for (int attempt = 0; attempt < 2; ++attempt) {
    EXPECT_THAT(refusal([&] { static_cast<void>(half_way.decode({1, 2, 3}, 0)); }), HasSubstr("nonsense"));
    EXPECT_EQ(late.memory().total(), 0U);
  }
  llama_cpp::Cache full(examples::registry());
  Engine context(*model, {}, &full);
  llama_set_causal_attn(context.context(), false);
  EXPECT_THAT(refusal([&] { static_cast<void>(context.decode({1, 2, 3}, 0)); }), HasSubstr("not causal"));
  llama_set_causal_attn(context.context(), true);
  EXPECT_EQ(context.decode({1, 2, 3}, 0).size(), 3U);
}

std::size_t resident_bytes() {
  std::size_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages >> pages;
  return pages * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}
TEST(LlamaCpp, ItsOwnCellsTakeNoMemory) {
  const Loaded model(gqa);
  llama_cpp::Cache cache(examples::registry(), {.policy = "kivi4"});
  const std::size_t before = resident_bytes();
  Engine ours(*model, {.context = 1U << 17U}, &cache);  // cells of 128 MiB
  static_cast<void>(ours.decode({1, 2, 3}, 0));
  EXPECT_LT(resident_bytes() - before, std::size_t{48} << 20U);
  static_cast<void>(ours.decode({4}, 3));
  ASSERT_TRUE(cache.shift(ours.context(), 0, -1, -1, 5));  // llama.cpp would turn all its keys
  static_cast<void>(ours.decode({5}, 9));
  EXPECT_LT(resident_bytes() - before, std::size_t{48} << 20U);
}

}  // namespace llama_cpp_test
}  // namespace kvcompress::test
