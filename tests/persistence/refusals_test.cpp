// tests/persistence/refusals_test.cpp - a file of another policy, option or shape is refused by name, with both values.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include "kvcompress/policies/full.hpp"
#include "kvcompress/policies/kivi.hpp"
#include "kvcompress/policies/streaming_llm.hpp"
#include "kvcompress/retrieval/landmarks.hpp"
#include "kvcompress/retrieval/page_bounds.hpp"
#include "registry/registry.hpp"
#include "support/random_rows.hpp"
#include "support/saved.hpp"

namespace refusals_test {

using namespace kvcompress;
using namespace kvcompress::test;
using examples::registry;

const Shape small{.layers = 2, .query_heads = 4, .kv_heads = 2, .head_dim = 32};

TEST(Refusals, NullFunctions) {
  auto cache = registry().make("f16", small);
  const auto refused = [](const std::string& sentence, auto&& verb) {
    try {
      verb();
      ADD_FAILURE() << "no error, expected: " << sentence;
    } catch (const Error& error) { EXPECT_EQ(error.what(), "kvcompress: " + sentence); }
  };
  File file;
  std::span<const std::byte> from;
  refused("save: sink.write is null, must be a function", [&] { save(cache, ByteSink{}); });
  refused("load: source.read is null, must be a function", [&] { load(cache, ByteSource{}); });
  refused("save: checksum is null, must be a function", [&] { save(cache, sink(file), nullptr); });
  refused("load: checksum is null, must be a function", [&] { load(cache, source(from), nullptr); });
  EXPECT_TRUE(file.empty());
}

TEST(Refusals, AnotherPolicy) {
  const auto expect = [](const char* file, const char* here, const std::string& sentence) {
    auto other = registry().make(file, small);
    auto cache = registry().make(here, small);
    expect_refused(cache, saved(other), "load: policy." + sentence);
  };
  expect("h2o", "f16", "eviction is heavy_hitters in the file, keep_all here");
  expect("snapkv+kivi4", "h2o+kivi4", "eviction is observation_window in the file, heavy_hitters here");
  expect("quest", "landmarks", "retrieval is page_bounds in the file, landmarks here");
  expect("f16", "f32", "keys.numbers is f16 in the file, f32 here");
  expect("bf16", "kivi4", "keys.form is exact in the file, codes per channel here");
  expect("kivi2", "kivi4", "keys.bits is 2 in the file, 4 here");
  expect("gear2", "gear4", "keys.bits is 2 in the file, 4 here");
  expect("kivi4", "gear4", "keys.form is codes per channel in the file, gear keys here");
  expect("xkv", "f16", "keys.form is low rank in the file, exact here");
  const KVCache<Kivi<2, 64>> groups(small);
  auto cache = registry().make("kivi2", small);
  expect_refused(cache, saved(groups), "load: options.storage.group is 64 in the file, 32 here");
}

template <class Index>
struct Read {
  using Retrieval = Index;
};
template <class Theirs, class Ours>
void check_numbers(const std::string& sentence) {
  const KVCache<Combine<Read<Theirs>, Full<half>>> other(small);
  auto cache = any_cache<Combine<Read<Ours>, Full<half>>>(small);
  expect_refused(cache, saved(other), sentence);
}
TEST(Refusals, AnIndexInOtherNumbers) {
  check_numbers<LandmarkIndex<half>, LandmarkIndex<bfloat16>>("load: policy.retrieval.numbers is f16 in the file, bf16 here");
  check_numbers<PageBounds<float>, PageBounds<half>>("load: policy.retrieval.numbers is f32 in the file, f16 here");
}

TEST(Refusals, EveryOption) {
  struct Other {
    const char* part;
    const char* settings;  // as they are in the file, where the cache has none
    const char* sentence;  // behind "options."
  };
  for (const auto& [part, settings, sentence] :
       {Other{"streaming", "sinks=5", "eviction.sinks is 5 in the file, 4 here"},
        {"streaming", "window=100", "eviction.window is 100 in the file, 1020 here"},
        {"streaming", "in_cache_positions=false", "eviction.in_cache_positions is false in the file, true here"},
        {"h2o", "budget=512", "eviction.budget.rows is 512 in the file, 2048 here"},
        {"h2o", "budget=50%", "eviction.budget.rows is 0 in the file, 2048 here"},
        {"h2o", "recent=7", "eviction.recent is 7 in the file, 0 here"},
        {"h2o", "reduction=max", "eviction.reduction is max in the file, mean here"},
        {"h2o", "in_cache_positions=true", "eviction.in_cache_positions is true in the file, false here"},
        {"snapkv", "budget=1023", "eviction.budget.rows is 1023 in the file, 1024 here"},
        {"snapkv", "window=16", "eviction.window is 16 in the file, 32 here"},
        {"snapkv", "kernel=5", "eviction.kernel is 5 in the file, 7 here"},
        {"snapkv", "pooling=average", "eviction.pooling is average in the file, max here"},
        {"snapkv", "reduction=sum", "eviction.reduction is sum in the file, mean here"},
        {"snapkv", "decode_budget=9", "eviction.decode_budget is 9 in the file, 0 here"},
        {"kivi4", "residual=64", "storage.residual is 64 in the file, 128 here"},
        {"kivi4", "accumulation=fast", "storage.accumulation is fast in the file, near_exact here"},
        {"gear4", "prompt_rank=3", "storage.prompt_rank is 3 in the file, 4 here"},
        {"gear4", "decode_rank=3", "storage.decode_rank is 3 in the file, 2 here"},
        {"gear4", "sweeps=2", "storage.sweeps is 2 in the file, 3 here"},
        {"gear4", "sparsity=0.01", "storage.sparsity is 0.01 in the file, 0.02 here"},
        {"gear4", "buffer=8", "storage.buffer is 8 in the file, 20 here"},
        {"gear4", "merge=4", "storage.merge is 4 in the file, 0 here"},
        {"gear4", "seed=2", "storage.seed is 2 in the file, 1 here"},
        {"gear4", "accumulation=exact", "storage.accumulation is exact in the file, near_exact here"},
        {"gear4", "official_simulation=true", "storage.official_simulation is true in the file, false here"},
        {"xkv", "layers_per_group=2", "storage.layers_per_group is 2 in the file, 4 here"},
        {"xkv", "rank_keys=5", "storage.rank_keys is 5 in the file, 0 here"},
        {"xkv", "rank_values=5", "storage.rank_values is 5 in the file, 0 here"},
        {"xkv", "first_layer=1", "storage.first_layer is 1 in the file, 0 here"},
        {"xkv", "last_layer=1", "storage.last_layer is 1 in the file, 18446744073709551615 here"},
        {"xkv", "merge_keys=false", "storage.merge_keys is false in the file, true here"},
        {"xkv", "merge_values=false", "storage.merge_values is false in the file, true here"},
        {"xkv", "fold_in=8", "storage.fold_in is 8 in the file, 0 here"},
        {"shadowkv", "rank=8", "storage.rank is 8 in the file, 0 here"},
        {"shadowkv", "reuse=false", "storage.reuse is false in the file, true here"},
        {"shadowkv", "budget=1024", "retrieval.budget is 1024 in the file, 2048 here"},
        {"shadowkv", "chunk=4", "retrieval.chunk is 4 in the file, 8 here"},
        {"shadowkv", "local_chunks=5", "retrieval.local_chunks is 5 in the file, 4 here"},
        {"shadowkv", "outlier_chunks=2", "retrieval.outlier_chunks is 2 in the file, 48 here"},
        {"shadowkv", "fold_in=8", "retrieval.fold_in is 8 in the file, 0 here"},
        {"shadowkv", "behaviour=offload", "retrieval.behaviour is offload in the file, accuracy here"},
        {"quest", "budget=512", "retrieval.budget is 512 in the file, 2048 here"},
        {"quest", "page=32", "retrieval.page is 32 in the file, 16 here"},
        {"quest", "dense_layers=0", "retrieval.dense_layers is 0 in the file, 2 here"}}) {
    auto other = registry().make(std::string(part) + ":" + settings, small);
    auto cache = registry().make(part, small);
    expect_refused(cache, saved(other), std::string("load: options.") + sentence);
  }
  using P = Kivi<2>;
  PolicyOptions<P> options{};
  options.speculation = 3;
  const KVCache<P> other(small, options);
  auto cache = registry().make("kivi2", small);
  expect_refused(cache, saved(other), "load: options.speculation is 3 in the file, 0 here");
}

TEST(Refusals, EveryFieldOfTheShape) {
  const auto expect = [](const std::string& sentence, auto change) {
    Shape shape = small;
    change(shape);
    auto other = registry().make("f16", shape);
    auto cache = registry().make("f16", small);
    expect_refused(cache, saved(other), "load: shape." + sentence);
  };
  static const double factors[16] = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0, 16.0};
  expect("layers is 3 in the file, 2 here", [](Shape& s) { s.layers = 3; });
  expect("query_heads is 8 in the file, 4 here", [](Shape& s) { s.query_heads = 8; });
  expect("kv_heads is 4 in the file, 2 here", [](Shape& s) { s.kv_heads = 4; });
  expect("key_width is 64 in the file, 32 here", [](Shape& s) { s.head_dim = 64; });
  expect("key_width is 48 in the file, 32 here", [](Shape& s) { s.key_dim = 48; });
  expect("value_width is 16 in the file, 32 here", [](Shape& s) { s.value_dim = 16; });
  expect("keys is unrotated in the file, rotated here", [](Shape& s) { s.keys = KeyForm::unrotated; });
  expect("rope.theta is 500000 in the file, 10000 here", [](Shape& s) { s.rope.theta = 500000.0; });
  expect("rope.pairing is interleaved in the file, half_split here", [](Shape& s) { s.rope.pairing = RopePairing::interleaved; });
  expect("rope.rotary_dim is 16 in the file, 0 here", [](Shape& s) { s.rope.rotary_dim = 16; });
  expect("rope.scale is 0.25 in the file, 1 here", [](Shape& s) { s.rope.scale = 0.25; });
  expect("rope.frequency_factors is true in the file, false here", [](Shape& s) { s.rope.frequency_factors = factors; });
  static double others[16] = {};
  std::copy_n(factors, 16, others);
  others[15] = 15.5;
  Shape with = small;
  with.rope.frequency_factors = factors;
  Shape with_others = small;
  with_others.rope.frequency_factors = others;
  auto cache = registry().make("f16", with);
  load_from(cache, saved(registry().make("f16", with)));
  expect_refused(cache, saved(registry().make("f16", with_others)), "load: shape.rope.frequency_factors[] is 15.5 in the file, 16 here");
}

TEST(Refusals, AnotherFileOrVersion) {
  auto cache = registry().make("f16", small);
  File file = saved(cache);
  file[0] = std::byte{'G'};
  expect_refused(cache, file, "load: this is no saved cache: it does not begin with KVCACHE");
  expect_refused(cache, {}, "load: this is no saved cache: it does not begin with KVCACHE");
  file = saved(cache);
  file[sizeof archive::magic] = std::byte{1};
  expect_refused(cache, file, "load: the format version is 1 in the file, 6 here");
}

/// A part that says nothing about saving: behind AnyCache that shows when it is saved.
struct Silent : StreamingLLM::Eviction {
  struct State : NoState {
    static void persist() = delete;
  };
  static State state(const Options&, const Site&, const Memory&) noexcept { return {}; }
};
struct SilentPolicy {
  using Eviction = Silent;
};

TEST(Refusals, APolicyThatDoesNotSayHow) {
  auto cache = any_cache<SilentPolicy>(small);
  try {
    static_cast<void>(saved(cache));
    ADD_FAILURE() << "saved";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::option);
    EXPECT_NE(std::string(error.what()).find("does not say how it is saved"), std::string::npos) << error.what();
  }
}

}  // namespace refusals_test
