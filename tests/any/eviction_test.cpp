// tests/any/eviction_test.cpp - an eviction that is chosen at run time gives what the type gives: outputs, rows, saved bytes; lanes may differ.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include "any/lives.hpp"
#include "kvcompress/any/any_eviction.hpp"
#include "kvcompress/policies/adakv.hpp"
#include "kvcompress/policies/chunkkv.hpp"
#include "kvcompress/policies/full.hpp"
#include "kvcompress/policies/h2o.hpp"
#include "kvcompress/policies/knorm.hpp"
#include "kvcompress/policies/kvzip.hpp"
#include "kvcompress/policies/pyramidkv.hpp"
#include "kvcompress/policies/snapkv.hpp"
#include "kvcompress/policies/streaming_llm.hpp"
#include "kvcompress/policies/tova.hpp"

namespace eviction_test {

using namespace kvcompress;
using namespace kvcompress::test;

struct Chosen {
  using Eviction = AnyEviction;
};
using ChosenCache = KVCache<Chosen>;
using Entries = std::vector<detail::Choice<AnyEviction::Ops>>;

const Shape shape{.layers = 2, .query_heads = 4, .kv_heads = 2, .head_dim = 32};

ChosenCache::Options chosen(Entries entries, std::vector<std::uint16_t> of_lane = {}) {
  ChosenCache::Options options;
  options.eviction.chosen = {std::move(entries), std::move(of_lane)};
  options.speculation = 3;
  return options;
}
template <class P>
void expect_chosen(const typename KVCache<P>::Eviction::Options& options) {
  using Eviction = typename KVCache<P>::Eviction;
  KVCache<P> typed(shape, {.eviction = options, .speculation = 3});
  ChosenCache named(shape, chosen({AnyEviction::of<Eviction>(options)}));
  expect_same(named, typed, shape);
}

template <class E>
struct Made {
  using Eviction = E;
};

const SinkWindow::Options streaming{.sinks = 4, .window = 60};
const HeavyHitters::Options heavy{.budget = 70, .recent = 20};
const ObservationWindow::Options snap{.budget = 60, .window = 8, .kernel = 5, .decode_budget = 30};

TEST(AnyEviction, KeepAllIsKeepAll) { expect_chosen<Full<>>({}); }
TEST(AnyEviction, StreamingLLMIsStreamingLLM) { expect_chosen<StreamingLLM>(streaming); }
TEST(AnyEviction, H2OIsH2O) { expect_chosen<H2O>(heavy); }
TEST(AnyEviction, SnapKVIsSnapKV) { expect_chosen<SnapKV>(snap); }
TEST(AnyEviction, TOVAIsTOVA) { expect_chosen<TOVA>({.budget = 50}); }
TEST(AnyEviction, KVzipIsKVzip) { expect_chosen<KVzip>({.budget = 50}); }
TEST(AnyEviction, PartsThatAreReplacedAreThoseOfTheType) {
  using P = Made<Evict<InLayer<KeyNorm>, Pyramid, Chunks>>;
  using ByName = Evict<KeyNorm, AnyAllocator, AnySelector>;  // as a registry makes it
  KVCache<P> typed(shape, {.eviction = {.budget = 60, .allocator = {.beta = 4}, .selector = {.length = 12}}, .speculation = 3});
  ByName::Options parts{.budget = 60};
  parts.allocator.chosen = AnyAllocator::of<Pyramid>({.beta = 4});
  parts.selector = {AnySelector::of<Chunks>({.length = 12}), Scope::layer};
  ChosenCache named(shape, chosen({AnyEviction::of<ByName>(parts)}));
  expect_same(named, typed, shape);
}
TEST(AnyEviction, AdaKVIsAdaKV) { expect_chosen<AdaKV>({.budget = Budget::fraction(0.3), .scorer = {.window = 8}}); }

TEST(AnyEviction, LanesMayDiffer) {
  const Text text(shape, 210, 8);
  KVCache<Full<>> all(shape);
  KVCache<StreamingLLM> streaming_cache(shape, {.eviction = streaming});
  KVCache<H2O> heavy_cache(shape, {.eviction = heavy, .speculation = 3});
  KVCache<SnapKV> snap_cache(shape, {.eviction = snap, .speculation = 3});
  const Outputs of[] = {live(heavy_cache, text, shape), live(all, text, shape), live(snap_cache, text, shape),
                        live(streaming_cache, text, shape)};
  ChosenCache mixed(shape, chosen({AnyEviction::of<HeavyHitters>(heavy), AnyEviction::of<KeepAll>(),
                                   AnyEviction::of<ObservationWindow>(snap), AnyEviction::of<SinkWindow>(streaming)},
                                  {0, 1, 2, 3}));
  const Outputs out = live(mixed, text, shape);
  ASSERT_EQ(out.size(), of[0].size());
  const std::size_t width = text.output_width();
  const std::size_t tokens[] = {200, 200, 1, 1, 1, 1};  // of the parts of a life, which alternate between the layers
  std::size_t at = 0;
  for (std::size_t part = 0; part < 6; ++part) {
    for (std::size_t t = 0; t < tokens[part]; ++t, at += width) {
      for (std::size_t i = 0; i < width; ++i) {
        const std::size_t lane = part % 2 * shape.kv_heads + i / (width / shape.kv_heads);
        ASSERT_EQ(out[at + i], of[lane][at + i]) << "part " << part << " token " << t << " number " << i;
      }
    }
  }
  EXPECT_EQ(mixed.kept(0, 0), heavy_cache.kept(0, 0));
  EXPECT_EQ(mixed.kept(1, 0), snap_cache.kept(1, 0));
  EXPECT_EQ(mixed.kept(1, 1), streaming_cache.kept(1, 1));

  ChosenCache loaded(shape, mixed.options());
  load_from(loaded, saved(mixed));
  EXPECT_EQ(step(loaded, text, 202, 2, 1), step(mixed, text, 202, 2, 1));
}

TEST(AnyEviction, ChoicesThatDoNotFitAreRefused) {
  const auto refused = [](const ChosenCache::Options& options, const std::string& sentence) {
    try {
      const ChosenCache cache(shape, options);
      ADD_FAILURE() << "no error, expected: " << sentence;
    } catch (const Error& error) { EXPECT_EQ(error.what(), "kvcompress: " + sentence); }
  };
  refused(chosen({AnyEviction::of<TOVA::Eviction>(), AnyEviction::of<KeepAll>()}, {0, 1, 1, 1}),
          "last_attention is chosen for some heads of layer 0, must be chosen for all: it decides for all heads of a layer together");
  refused(chosen({AnyEviction::of<HeavyHitters>({.budget = Budget::bytes(100000)}), AnyEviction::of<KeepAll>()}, {0, 1, 1, 1}),
          "heavy_hitters: budget is 100000 bytes, must be rows or a fraction where lanes have different evictions");
}

}  // namespace eviction_test
