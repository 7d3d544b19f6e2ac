// tests/any/retrieval_test.cpp - a retrieval that is chosen at run time gives what the type gives: outputs, saved bytes, memory; lanes may differ.
// SPDX-License-Identifier: MIT
#include "kvcompress/any/any_retrieval.hpp"

#include <gtest/gtest.h>

#include "any/lives.hpp"
#include "kvcompress/policies/full.hpp"
#include "kvcompress/policies/h2o.hpp"
#include "kvcompress/policies/landmarks.hpp"
#include "kvcompress/policies/quest.hpp"

namespace retrieval_test {

using namespace kvcompress;
using namespace kvcompress::test;

using Pages = PageBounds<half>;
using Chunks = LandmarkIndex<half>;
struct Chosen {
  using Retrieval = AnyRetrieval;
};
using ChosenCache = KVCache<Chosen>;

const Shape shape{.layers = 2, .query_heads = 4, .kv_heads = 2, .head_dim = 32};
const Pages::Options pages{.budget = 64, .page = 8, .dense_layers = 1};
const Chunks::Options chunks{
    .budget = 64, .chunk = 8, .local_chunks = 2, .outlier_chunks = 2, .fold_in = 32, .behaviour = ShadowKVClass::offload};

template <class P>
PolicyOptions<P> typed_options();
template <>
PolicyOptions<Full<>> typed_options() {
  return {};
}
template <>
PolicyOptions<Quest> typed_options() {
  return {.retrieval = pages};
}
template <>
PolicyOptions<Landmarks> typed_options() {
  return {.retrieval = chunks};
}

ChosenCache::Options chosen(std::vector<detail::Choice<AnyRetrieval::Ops>> entries, std::vector<std::uint16_t> of_lane = {}) {
  ChosenCache::Options options;
  options.retrieval.chosen = {std::move(entries), std::move(of_lane)};
  return options;
}
template <class P>
detail::Choice<AnyRetrieval::Ops> choice_of() {
  using Retrieval = typename KVCache<P>::Retrieval;
  return AnyRetrieval::of<Retrieval>(typed_options<P>().retrieval);
}

template <class P>
void expect_chosen() {
  KVCache<P> typed(shape, typed_options<P>());
  ChosenCache named(shape, chosen({choice_of<P>()}));
  expect_same(named, typed, shape);
}

TEST(AnyRetrieval, ReadAllIsReadAll) { expect_chosen<Full<>>(); }
TEST(AnyRetrieval, PageBoundsArePageBounds) { expect_chosen<Quest>(); }
TEST(AnyRetrieval, ReusedChoicesAreThoseOfTheType) {
  Pages::Options reused = pages;
  reused.reuse = 3;
  KVCache<Quest> typed(shape, {.retrieval = reused, .speculation = 3});
  ChosenCache::Options options = chosen({AnyRetrieval::of<Pages>(reused)});
  options.speculation = 3;
  ChosenCache named(shape, options);
  expect_same(named, typed, shape);
}
TEST(AnyRetrieval, LandmarksAreLandmarks) { expect_chosen<Landmarks>(); }

TEST(AnyRetrieval, LanesMayDiffer) {
  const Text text(shape, 210, 8);
  KVCache<Full<>> all(shape);
  KVCache<Quest> quest(shape, typed_options<Quest>());
  KVCache<Landmarks> landmarks(shape, typed_options<Landmarks>());
  const Outputs of[] = {live(landmarks, text, shape), live(all, text, shape), live(quest, text, shape)};
  const std::vector<std::uint16_t> of_lane{0, 1, 2, 0};
  ChosenCache mixed(shape, chosen({choice_of<Landmarks>(), choice_of<Full<>>(), choice_of<Quest>()}, of_lane));
  const Outputs out = live(mixed, text, shape);
  ASSERT_EQ(out.size(), of[0].size());
  const std::size_t width = text.output_width();
  const std::size_t tokens[] = {200, 200, 1, 1, 1, 1};
  std::size_t at = 0;
  for (std::size_t part = 0; part < 6; ++part) {
    for (std::size_t t = 0; t < tokens[part]; ++t, at += width) {
      for (std::size_t i = 0; i < width; ++i) {
        const std::size_t lane = part % 2 * shape.kv_heads + i / (width / shape.kv_heads);
        ASSERT_EQ(out[at + i], of[of_lane[lane]][at + i]) << "part " << part << " token " << t << " number " << i;
      }
    }
  }

  ChosenCache loaded(shape, mixed.options());
  load_from(loaded, saved(mixed));
  EXPECT_EQ(step(loaded, text, 202, 2, 1), step(mixed, text, 202, 2, 1));
  ChosenCache other(shape, chosen({choice_of<Landmarks>(), choice_of<Full<>>(), choice_of<Quest>()}, {0, 1, 2, 1}));
  expect_refused(other, saved(mixed), "load: options.retrieval.of_lane[] is 0 in the file, 1 here");
  EXPECT_EQ(ChosenCache::bytes_for(shape, 1000, mixed.options()),
            (2 * KVCache<Landmarks>::bytes_for(shape, 1000, landmarks.options()) + KVCache<Full<>>::bytes_for(shape, 1000) +
             KVCache<Quest>::bytes_for(shape, 1000, quest.options())) /
                4);
}

template <class P>
void expect_error(const PolicyOptions<P>& options, const std::string& sentence) {
  try {
    KVCache<P> cache(shape, options);
    ADD_FAILURE() << "no error, expected: " << sentence;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::option);
    EXPECT_EQ(error.what(), "kvcompress: " + sentence);
  }
}

TEST(AnyRetrieval, ChoicesThatDoNotFitAreRefused) {
  expect_error<Chosen>(chosen({}), "retrieval: entries is empty, must name a part");
  expect_error<Chosen>(chosen({choice_of<Quest>()}, {0}), "retrieval: of_lane has 1 entries, must have one for each of the 4 lanes");
  expect_error<Chosen>(chosen({choice_of<Quest>(), choice_of<Full<>>()}, {0, 0, 0, 0}),
                       "retrieval: there are 2 entries, must be the 1 that lanes have");
  expect_error<Chosen>(chosen({choice_of<Quest>(), choice_of<Full<>>()}, {1, 0, 0, 0}),
                       "retrieval: of_lane names entry 1 before entry 0, must name entries in the order of their first lanes");
  expect_error<Chosen>(chosen({AnyRetrieval::of<Pages>({.budget = 8})}), "quest: budget is 8, must be at least 2 * page = 32");

  using Observed = Combine<H2O, Chosen>;
  PolicyOptions<Observed> observed;
  observed.retrieval.chosen = {{AnyRetrieval::of<ReadAll>(), choice_of<Quest>()}, {0, 0, 0, 1}};
  expect_error<Observed>(observed,
                         "heavy_hitters with page_bounds: the eviction observes the probabilities of every row for every query, but the "
                         "retrieval reads only some of the rows");
  observed.eviction.in_cache_positions = true;
  observed.retrieval.chosen = {};
  observed.retrieval.chosen.entries = {choice_of<Full<>>()};
  const KVCache<Observed> cache(shape, observed);
}

}  // namespace retrieval_test
