// tests/any/storage_test.cpp - a storage chosen at run time does, bit for bit, what its type does, and lanes may differ.
// SPDX-License-Identifier: MIT
#include "kvcompress/low_rank.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kvcompress/any/any_storage.hpp"
#include "kvcompress/kvcompress.hpp"
#include "support/counting_memory.hpp"
#include "support/random_rows.hpp"
#include "support/saved.hpp"

namespace storage_test {

using namespace kvcompress;
using namespace kvcompress::test;

constexpr std::size_t prompt = 300;

/// The eviction and retrieval of P over a storage chosen at run time.
template <class E, class R>
struct Chosen {
  using Eviction = E;
  using Storage = AnyStorage;
  using Retrieval = R;
};
template <class P>
using ChosenFor = Chosen<typename KVCache<P>::Eviction, typename KVCache<P>::Retrieval>;
template <class P>
PolicyOptions<ChosenFor<P>> chosen(const PolicyOptions<P>& options) {
  return {options.eviction, AnyStorage::all_of<typename KVCache<P>::Storage>(options.storage), options.retrieval, options.speculation};
}

/// A cache of `layers` alike texts, fed step by step.
template <class P>
struct Fed {
  Fed(const Shape& shape, const PolicyOptions<P>& options, const Memory& memory) : cache(shape, options, memory) {
    for (std::size_t layer = 0; layer < shape.layers; ++layer) { texts.emplace_back(shape, 600, static_cast<unsigned>(layer) + 1); }
  }
  /// Appends `count` tokens to every layer and attends them; the outputs.
  std::vector<float> step(std::size_t count) {
    std::vector<float> all;
    for (std::size_t layer = 0; layer < texts.size(); ++layer) {
      const std::vector<float> out = step_of(layer, count);
      all.insert(all.end(), out.begin(), out.end());
    }
    done += count;
    return all;
  }
  std::vector<float> step_of(std::size_t layer, std::size_t count) {
    const Text& text = texts[layer];
    const Shape& shape = text.shape;
    std::vector<float> out(count * text.output_width());
    cache.append(layer, text.key_rows(done, count), text.value_rows(done, count));
    cache.attend(layer, text.query_rows(done, count),
                 Output(out.data(), count, shape.query_heads, shape.value_width(), text.output_width(), shape.value_width()));
    return out;
  }
  void end_prompt() {
    for (std::size_t layer = 0; layer < texts.size(); ++layer) { cache.end_prompt(layer); }
  }
  void commit() {
    for (std::size_t layer = 0; layer < texts.size(); ++layer) { cache.commit(layer); }
  }
  /// One token's attention once more, with threads' tasks: nothing is observed here.
  std::vector<float> shared_step() {
    std::vector<Workspace> workspaces(2, Workspace(texts[0].shape));
    std::vector<float> all;
    for (std::size_t layer = 0; layer < texts.size(); ++layer) {
      const Text& text = texts[layer];
      std::vector<float> out(text.output_width());
      cache.attend(layer, text.query_rows(done - 1, 1),
                   Output(out.data(), 1, text.shape.query_heads, text.shape.value_width(), text.output_width(), text.shape.value_width()),
                   std::span(workspaces), SerialExecutor{});
      all.insert(all.end(), out.begin(), out.end());
    }
    return all;
  }

  KVCache<P> cache;
  std::vector<Text> texts;
  std::size_t done = 0;
};

bool same(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}
/// Rows, what they decode to, what they take (but for the stores' own headers), and saved files.
template <class A, class B>
void expect_same_state(const KVCache<A>& a, const KVCache<B>& b, const std::string& when) {
  MemoryReport of_a = a.memory();
  MemoryReport of_b = b.memory();
  EXPECT_LE(of_a.indices, of_b.indices) << when;
  EXPECT_LE(of_b.total() - of_a.total(), 1024 * a.shape().layers * a.shape().kv_heads) << when;
  of_a.indices = of_b.indices = of_a.shared = of_b.shared = 0;
  EXPECT_EQ(std::memcmp(&of_a, &of_b, sizeof of_a), 0)
      << when << ": " << of_a.total() << " and " << of_b.total() << " bytes, scratch " << of_a.scratch << " and " << of_b.scratch
      << ", spare " << of_a.spare << " and " << of_b.spare;
  for (std::size_t layer = 0; layer < a.shape().layers; ++layer) {
    for (std::size_t head = 0; head < a.shape().kv_heads; ++head) { EXPECT_EQ(a.kept(layer, head), b.kept(layer, head)) << when; }
  }
  EXPECT_TRUE(saved(a) == saved(b)) << when;
}

/// Prompt, decoding, truncate, fork, copy, remove, save and load across.
template <class P>
void expect_as_typed(const Shape& shape, const PolicyOptions<P>& options) {
  using C = ChosenFor<P>;
  CountingMemory typed_memory;
  CountingMemory memory;
  {
    Fed<P> typed(shape, options, typed_memory.handle());
    Fed<C> any(shape, chosen<P>(options), memory.handle());
    const auto check = [&](const char* when) {
      expect_same_state(typed.cache, any.cache, when);
      EXPECT_EQ(any.cache.memory().total(), memory.bytes) << when;
    };
    EXPECT_EQ(KVCache<P>::bytes_for(shape, 700, options), KVCache<C>::bytes_for(shape, 700, chosen<P>(options)));
    check("empty");
    for (const std::size_t chunk : {std::size_t{170}, prompt - 170}) { EXPECT_TRUE(same(typed.step(chunk), any.step(chunk))); }
    check("prompt");
    typed.end_prompt();
    any.end_prompt();
    check("end of the prompt");
    for (int token = 0; token < 70; ++token) { ASSERT_TRUE(same(typed.step(1), any.step(1))) << token; }
    EXPECT_TRUE(same(typed.shared_step(), any.shared_step()));
    check("decoding");
    typed.commit();
    any.commit();
    EXPECT_TRUE(same(typed.step(4), any.step(4)));
    for (std::size_t* done : {&typed.done, &any.done}) { *done -= 2; }
    typed.cache.truncate(static_cast<Position>(typed.done));
    any.cache.truncate(static_cast<Position>(any.done));
    check("truncate");
    typed.commit();
    any.commit();

    const KVCache<P> typed_fork = typed.cache.fork();
    const KVCache<C> any_fork = any.cache.fork();
    const KVCache<P> typed_copy = typed.cache;
    const KVCache<C> any_copy = any.cache;
    for (int token = 0; token < 40; ++token) { ASSERT_TRUE(same(typed.step(1), any.step(1))) << token; }
    typed.commit();
    any.commit();
    expect_same_state(typed.cache, any.cache, "after the fork");
    expect_same_state(typed_fork, any_fork, "the fork");
    expect_same_state(typed_copy, any_copy, "the copy");
    typed.cache.remove(20, 200);
    any.cache.remove(20, 200);
    expect_same_state(typed.cache, any.cache, "remove");
    for (int token = 0; token < 3; ++token) { ASSERT_TRUE(same(typed.step(1), any.step(1))) << token; }

    const File file = saved(any.cache);
    load_from(any.cache, saved(typed.cache));
    load_from(typed.cache, file);
    expect_same_state(typed.cache, any.cache, "load");
    for (int token = 0; token < 3; ++token) { ASSERT_TRUE(same(typed.step(1), any.step(1))) << token; }
    typed.cache.reserve(600);
    any.cache.reserve(600);
    expect_same_state(typed.cache, any.cache, "reserve");
    for (int token = 0; token < 3; ++token) { ASSERT_TRUE(same(typed.step(1), any.step(1))) << token; }
    std::vector<float> rows(4 * shape.key_width());
    typed.cache.read(1, 1, 10, rows.data(), rows.data() + shape.key_width());
    any.cache.read(1, 1, 10, rows.data() + 2 * shape.key_width(), rows.data() + 3 * shape.key_width());
    EXPECT_EQ(std::memcmp(rows.data(), rows.data() + 2 * shape.key_width(), 2 * shape.key_width() * sizeof(float)), 0);
  }
  EXPECT_EQ(memory.live, 0U);
}

constexpr Shape shape_of_two{.layers = 2, .query_heads = 4, .kv_heads = 2, .head_dim = 32};

TEST(AnyStorage, DoesAsItsTypeUnderKeepAll) {
  expect_as_typed<Full<half>>(shape_of_two, {});
  expect_as_typed<Kivi<4>>(shape_of_two, {.storage = {.residual = 32}});
  expect_as_typed<Gear<4>>(shape_of_two, {.storage = {.merge = 2}});
  expect_as_typed<Gear<4, Kcvt, ValueVectors::head>>(shape_of_two, {});
}
TEST(AnyStorage, DoesAsItsTypeUnderEviction) {
  const SinkWindow::Options window{.sinks = 4, .window = 130};
  expect_as_typed<Combine<StreamingLLM, Full<half>>>(shape_of_two, {.eviction = window});
  expect_as_typed<Combine<StreamingLLM, Kivi<4>>>(shape_of_two, {.eviction = window, .storage = {.residual = 32}});
  expect_as_typed<Combine<StreamingLLM, Gear<4>>>(shape_of_two, {.eviction = window});
}
TEST(AnyStorage, DoesAsItsTypeWhereLayersAreEncodedTogether) {
  expect_as_typed<XKV<>>(shape_of_two, {.storage = {.layers_per_group = 2, .rank_keys = 12, .rank_values = 16, .fold_in = 32}});
  Shape one_more = shape_of_two;
  one_more.layers = 3;
  expect_as_typed<XKV<>>(one_more, {.storage = {.layers_per_group = 2, .rank_keys = 12, .first_layer = 1}});
}
TEST(AnyStorage, DoesAsItsTypeWhereRowsAreFetched) {
  PolicyOptions<ShadowKV<>> options;
  options.retrieval.budget = 64;
  options.retrieval.local_chunks = 2;
  options.retrieval.outlier_chunks = 2;
  expect_as_typed<ShadowKV<>>(shape_of_two, options);
}

/// What a lane of a cache says of all its rows.
template <class P>
std::vector<float> rows_of(KVCache<P>& cache, std::size_t layer, std::size_t head) {
  const std::size_t width = cache.shape().key_width();
  std::vector<float> all;
  std::vector<float> key(width);
  std::vector<float> value(width);
  for (std::size_t row = 0; row < cache.table(layer, head).rows(); ++row) {
    cache.read(layer, head, row, key.data(), value.data());
    all.insert(all.end(), key.begin(), key.end());
    all.insert(all.end(), value.begin(), value.end());
  }
  return all;
}
/// The outputs of one KV head.
std::vector<float> of_head(const Shape& shape, const std::vector<float>& out, std::size_t head) {
  const std::size_t width = shape.group() * shape.value_width();
  std::vector<float> some;
  for (std::size_t first = head * width; first < out.size(); first += shape.kv_heads * width) {
    some.insert(some.end(), out.begin() + static_cast<std::ptrdiff_t>(first), out.begin() + static_cast<std::ptrdiff_t>(first + width));
  }
  return some;
}

/// Lanes (layer, head) of `any` whose entry is `which` must be those of a cache of P.
template <class P, class C>
void expect_lanes(Fed<C>& any, const std::vector<std::uint16_t>& of_lane, std::uint16_t which, const PolicyOptions<P>& options) {
  const Shape& shape = any.cache.shape();
  Fed<P> typed(shape, options, {});
  Fed<C> again(shape, any.cache.options(), {});
  const auto feed = [&](std::size_t count) {
    for (std::size_t layer = 0; layer < shape.layers; ++layer) {
      const std::vector<float> expected = typed.step_of(layer, count);
      const std::vector<float> out = again.step_of(layer, count);
      for (std::size_t head = 0; head < shape.kv_heads; ++head) {
        if (of_lane[layer * shape.kv_heads + head] != which) { continue; }
        ASSERT_TRUE(same(of_head(shape, out, head), of_head(shape, expected, head))) << layer << " " << head << " at " << typed.done;
      }
    }
    typed.done += count;
    again.done += count;
  };
  feed(prompt);
  typed.end_prompt();
  again.end_prompt();
  for (int token = 0; token < 150; ++token) { feed(1); }
  typed.commit();
  again.commit();
  typed.cache.remove(300, 320);
  again.cache.remove(300, 320);
  for (std::size_t lane = 0; lane < of_lane.size(); ++lane) {
    if (of_lane[lane] != which) { continue; }
    const std::size_t layer = lane / shape.kv_heads;
    const std::size_t head = lane % shape.kv_heads;
    EXPECT_EQ(again.cache.kept(layer, head), typed.cache.kept(layer, head));
    EXPECT_EQ(again.cache.table(layer, head).rows(), typed.cache.table(layer, head).rows());
    EXPECT_TRUE(same(rows_of(again.cache, layer, head), rows_of(typed.cache, layer, head))) << lane;
  }
  KVCache<C> loaded(shape, any.cache.options());
  load_from(loaded, saved(again.cache));
  EXPECT_TRUE(saved(loaded) == saved(again.cache));
}

template <class A, class B, class Evicts>
void expect_mixed(const typename KVCache<Combine<Evicts, A>>::Eviction::Options& eviction, std::vector<std::uint16_t> of_lane) {
  using C = Chosen<typename KVCache<Evicts>::Eviction, ReadAll>;
  PolicyOptions<C> options{.eviction = eviction};
  options.storage.keys = {{AnyStorage::keys_of<typename A::Storage>(), AnyStorage::keys_of<typename B::Storage>()}, of_lane};
  options.storage.values = {{AnyStorage::values_of<typename A::Storage>(), AnyStorage::values_of<typename B::Storage>()}, of_lane};
  Fed<C> any(shape_of_two, options, {});
  expect_lanes<Combine<Evicts, A>>(any, of_lane, 0, {.eviction = eviction});
  expect_lanes<Combine<Evicts, B>>(any, of_lane, 1, {.eviction = eviction});
}

TEST(AnyStorage, LayersAndHeadsMayDiffer) {
  const SinkWindow::Options window{.sinks = 4, .window = 130};
  expect_mixed<Full<half>, Kivi<4>, StreamingLLM>(window, {0, 0, 1, 1});
  expect_mixed<Full<half>, Kivi<4>, StreamingLLM>(window, {0, 1, 1, 0});
}

/// Keys of one storage, values of another, as a type.
struct HalfKivi {
  struct Storage : KiviStorage<2, 32, 32, half> {
    using Keys = Exact<half>;
  };
};

TEST(AnyStorage, KeysAndValuesMayDiffer) {
  const SinkWindow::Options window{.sinks = 4, .window = 100};
  using P = Combine<StreamingLLM, HalfKivi>;
  using C = ChosenFor<P>;
  PolicyOptions<C> options{.eviction = window};
  options.storage = {{{AnyStorage::keys_of<ExactStorage<half>>()}, {}}, {{AnyStorage::values_of<KiviStorage<2, 32, 32, half>>()}, {}}};
  Fed<P> typed(shape_of_two, {.eviction = window}, {});
  Fed<C> any(shape_of_two, options, {});
  EXPECT_TRUE(same(typed.step(prompt), any.step(prompt)));
  typed.end_prompt();
  any.end_prompt();
  for (int token = 0; token < 280; ++token) {
    ASSERT_TRUE(same(typed.step(1), any.step(1))) << token;
    EXPECT_LE(any.cache.table(0, 0).rows(), 2 * (window.sinks + window.window) + 2);  // dead rows among the encoded ones leave
  }
  EXPECT_GT(any.cache.values(0, 0).settled(), 0U);
  typed.commit();
  any.commit();
  EXPECT_EQ(any.cache.kept(1, 1).size(), window.sinks + window.window);
  EXPECT_EQ(any.cache.kept(1, 1), typed.cache.kept(1, 1));
  const File file = saved(any.cache);
  KVCache<C> loaded(shape_of_two, options);
  load_from(loaded, file);
  EXPECT_TRUE(saved(loaded) == file);
}

TEST(AnyStorage, HoldsABudgetInBytes) {
  using C = Chosen<HeavyHitters, ReadAll>;
  PolicyOptions<C> options;
  options.eviction.budget = Budget::bytes(200000);
  options.eviction.recent = 8;
  options.storage.keys = {{AnyStorage::keys_of<ExactStorage<half>>(), AnyStorage::keys_of<KiviStorage<4, 32, 32, half>>()}, {0, 1, 1, 0}};
  options.storage.values = {{AnyStorage::values_of<ExactStorage<float>>(), AnyStorage::values_of<KiviStorage<2, 32, 32, half>>()},
                            {1, 1, 0, 0}};
  Fed<C> any(shape_of_two, options, {});
  any.step(prompt);
  any.end_prompt();
  for (int token = 0; token < 250; ++token) {
    any.step(1);
    any.commit();
    const MemoryReport report = any.cache.memory();
    ASSERT_LE(report.total() - report.scratch, 200000U) << token;
    ASSERT_GE(report.total() - report.scratch, 60000U) << token;
  }
}

/// The cache must not be made, for this reason.
template <class C>
void expect_no_cache(const PolicyOptions<C>& options, const std::string& sentence, const Shape& shape = shape_of_two) {
  try {
    const KVCache<C> cache(shape, options);
    ADD_FAILURE() << "made, expected: " << sentence;
  } catch (const Error& error) { EXPECT_EQ(error.what(), "kvcompress: " + sentence); }
}

TEST(AnyStorage, RefusesWhatCannotWork) {
  using C = Chosen<KeepAll, ReadAll>;
  const auto exact_keys = AnyStorage::keys_of<ExactStorage<half>>();
  const auto exact_values = AnyStorage::values_of<ExactStorage<half>>();
  const auto gear_values = AnyStorage::values_of<GearStorage<4, Kcvt, ValueVectors::layer, half>>();
  PolicyOptions<C> options;
  options.storage = {{{exact_keys}, {}}, {{exact_values, gear_values}, {0, 0, 0, 1}}};
  expect_no_cache<C>(options,
                     "storage: KV head 1 of layer 1 is held otherwise than KV head 0, must be held alike: the lanes of the layer are "
                     "encoded together");
  const auto xkv = AnyStorage::all_of<XKV<>::Storage>({.layers_per_group = 2});
  options.storage = {{{exact_keys, xkv.keys.entries[0]}, {0, 0, 1, 1}}, {{exact_values}, {}}};
  expect_no_cache<C>(options, "storage: layer 0 is held otherwise than layer 1, must be held alike: they are encoded together");
  options.storage = {{{AnyStorage::values_of<KiviStorage<4, 32, 32, half>>()}, {}}, {{exact_values}, {}}};
  expect_no_cache<C>(options, "storage: an entry of keys cannot hold keys, must be a store of keys");
  LatentOptions latents;
  latents.latent = 32;
  options.storage = {{{exact_keys}, {}}, {{AnyStorage::values_of<LatentStorage<half>>(latents)}, {}}};
  expect_no_cache<C>(options, "storage: the values of layer 0, KV head 0 are held in their keys, which must be those of the same storage",
                     {.layers = 2, .query_heads = 2, .kv_heads = 1, .head_dim = 32, .rope = {.theta = 0.0}});
  options.storage = {{{exact_keys}, {0, 0, 0}}, {{exact_values}, {}}};
  expect_no_cache<C>(options, "storage: keys names the entries of 3 lanes, must be of none or of all 4");
  options.storage = {{{exact_keys}, {0, 0, 0, 1}}, {{exact_values}, {}}};
  expect_no_cache<C>(options, "storage: an entry of keys is 1, must be less than 1");
  options.storage = AnyStorage::all_of<KiviStorage<4, 32, 32, half>>({.residual = 33});
  expect_no_cache<C>(options, "kivi: residual is 33, must be a positive multiple of the group size 32");
  options.storage = AnyStorage::all_of<ShadowKV<>::Storage>();
  expect_no_cache<C>(options, "read_all: the storage holds rows that must be fetched before they are read, so it needs a retrieval");
  PolicyOptions<Chosen<HeavyHitters, ReadAll>> every_commit;
  every_commit.storage = xkv;
  expect_no_cache(
      every_commit,
      "heavy_hitters: the eviction decides lane by lane at every commit, but the storage encodes the lanes of a layer or of several layers "
      "together, which must hold the same rows. Use an eviction that decides once (SnapKV) or by positions (StreamingLLM), or a storage "
      "per lane "
      "(for GEAR: ValueVectors::head)");
}

TEST(AnyStorage, KeepsACopyOfWhatOptionsPointTo) {
  std::vector<float> start = normal_numbers(2 * 32 * 4, *std::make_unique<std::mt19937>(5U));
  const GearOptions<Kcvt::buffer> gear{.start = start.data()};
  PolicyOptions<ChosenFor<Gear<4>>> options = chosen<Gear<4>>({.storage = gear});
  Fed<Gear<4>> typed(shape_of_two, {.storage = gear}, {});
  Fed<ChosenFor<Gear<4>>> any(shape_of_two, options, {});
  std::fill(start.begin(), start.end(), 0.0F);
  typed.step(prompt);
  any.step(prompt);
  typed.end_prompt();
  any.end_prompt();
  EXPECT_TRUE(same(typed.step(1), any.step(1)));
  expect_same_state(typed.cache, any.cache, "with a start");
}

}  // namespace storage_test
