// tests/conformance/scores_of_keys_test.cpp - scorers that read keys and values against the official implementations.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include "kvcompress/eviction/scorers/key_leverage.hpp"
#include "kvcompress/eviction/scorers/row_norms.hpp"
#include "kvcompress/policies/knorm.hpp"
#include "kvcompress/policies/lagkv.hpp"
#include "kvcompress/policies/qfilters.hpp"
#include "kvcompress/policies/triattention.hpp"
#include "support/eviction_cases.hpp"

namespace scores_of_keys_test {

using namespace kvcompress;
using conformance::Case;
using conformance::expect_kept;
using conformance::first_rows;
using conformance::prompt;
using conformance::score_deviation;
using conformance::Watched;
using test::HeadArray;

/// Scores and kept rows of one prompt, with the scores as they are.
template <class S>
void expect_scores(const Case& one, const char* values, const typename S::Options& scorer, double bound, std::size_t layer = 0,
                   std::size_t layers = 1) {
  const bool rotated = one.has("k_postrope");
  const HeadArray k = first_rows(one, rotated ? "k_postrope" : "k_prerope");
  const auto cache =
      prompt<S, Evict<Watched<S>>>(k, k, first_rows(one, values), {.budget = one.get<std::size_t>("n_kept"), .scorer = scorer}, layer,
                                   layers, rotated ? KeyForm::rotated : KeyForm::unrotated);
  const auto at = [](std::size_t head, std::size_t row) { return static_cast<double>(Watched<S>::scores.at(head).at(row)); };
  expect_kept(one, cache, layer, k.heads, at, 0.0);
  conformance::expect_within(one, "scores", score_deviation(one, k.heads, 0, at), bound);
}

TEST(Knorm, ReproducesTheOfficialVectors) {
  conformance::run_cases("knorm", {{"scores", [](const Case& one) { expect_scores<KeyNorm>(one, "k_postrope", {}, 4e-6); }}});
}

// Of equal scores the older row stays, where the official code chooses by chance: the cuts lie between classes of equal ones.
TEST(LagKV, ReproducesTheOfficialVectors) {
  conformance::run_cases("lagkv", {{"scores", [](const Case& one) {
                                      expect_scores<LagRelative>(one, "v",
                                                                 {.first_rows = one.get<std::size_t>("n_sink"),
                                                                  .lag = one.get<std::size_t>("lag_size"),
                                                                  .across_chunks = one.get<bool>("cross_scoring")},
                                                                 4e-8);
                                    }}});
}

void squared_lengths(const Case& one) {
  const std::map<std::string, Leverage> named{
      {"key", Leverage::key}, {"value", Leverage::value}, {"kv_avg", Leverage::average}, {"kv_product", Leverage::product}};
  RowNorms::Options options{.first_rows = one.get<std::size_t>("num_sinks"),
                            .leverage = named.at(one.get<std::string>("leverage_type")),
                            .neighbours = one.get<bool>("use_local_approximation") ? one.get<std::size_t>("local_window_size") : 0};
  if (one.has("sketch_G")) { options.projection = LoadedNumbers(one.array("sketch_G").as<float>()); }
  expect_scores<RowNorms>(one, "v", options, 3e-8);
}
TEST(CUR, ReproducesTheOfficialVectors) {
  conformance::run_cases("cur", {{"scores", squared_lengths}, {"scores_random_leverage", squared_lengths}});
}

TEST(QFilters, ReproducesTheOfficialVectors) {
  conformance::run_cases("qfilter", {{"scores", [](const Case& one) {
                                        const std::vector<float> filters = one.array("q_filters").as<float>();
                                        expect_scores<FilteredKeys>(one, "k_postrope", {.filters = LoadedNumbers(filters)}, 2e-6,
                                                                    one.get<std::size_t>("layer"), one.array("q_filters").shape.at(0));
                                      }}});
}

TEST(Leverage, ReproducesTheOfficialVectors) {
  conformance::run_cases("leverage", {{"scores",
                                       [](const Case& one) {
    const std::vector<float> sketch = one.array("sketch_phi").as<float>();
    expect_scores<KeyLeverage>(
        one, "k_prerope",
        {.rank = one.get<std::size_t>("sketch_dimension"), .jitter = one.get<double>("jitter"), .sketch = LoadedNumbers(sketch)}, 1e-5);
                                       }}});
}

void future_logits(const Case& one) {
  using E = TriAttention::Eviction;
  if (one.get<std::string>("mode") != "per_layer_per_head") {
    throw conformance::NotCovered(one.path() + ": one choice for all layers, by scores");
  }
  const bool plain = one.get<std::string>("aggregation") == "mean" && one.get<bool>("normalize_scores") && !one.get<bool>("disable_mlr") &&
                     one.get<std::string>("layer_perhead_aggregation") == "max" && one.get<bool>("prompt_counts_in_budget");
  if (!plain) { throw conformance::NotCovered(one.path() + ": options that FutureLogits does not have"); }
  const npy::Array keys = one.array("k_postrope");
  const std::vector<float> all_keys = keys.as<float>();
  const std::vector<float> positions = one.array("position").as<float>();
  const std::vector<float> real = one.array("q_mean_real").as<float>();
  const std::vector<float> imaginary = one.array("q_mean_imag").as<float>();
  const std::vector<float> lengths = one.array("q_abs_mean").as<float>();
  const std::vector<float> official = one.array("keep_idx").as<float>();
  const Shape shape{
      .layers = keys.shape[0], .query_heads = one.get<std::size_t>("Hq"), .kv_heads = keys.shape[1], .head_dim = keys.shape[3]};
  const std::size_t pairs = shape.rotary_pairs();
  std::vector<float> means;  // (layers, query heads, real parts, imaginary parts)
  for (std::size_t head = 0; head < shape.layers * shape.query_heads; ++head) {
    for (const auto* part : {&real, &imaginary}) {
      means.insert(means.end(), part->begin() + static_cast<std::ptrdiff_t>(head * pairs),
                   part->begin() + static_cast<std::ptrdiff_t>((head + 1) * pairs));
    }
  }
  const auto budget = one.get<std::size_t>("budget");
  for (std::size_t lane = 0; lane < shape.layers * shape.kv_heads; ++lane) {
    conformance::LaneByHand<E> hand({.budget = budget,
                                     .scorer = {.means = LoadedNumbers(means),
                                                .lengths = LoadedNumbers(lengths),
                                                .farthest = one.get<std::size_t>("offset_max_length")}},
                                    shape, 0, lane / shape.kv_heads, lane % shape.kv_heads);
    for (const float position : positions) { hand.table.append(static_cast<Position>(position)); }
    ASSERT_EQ(static_cast<std::size_t>(positions.back()) + 1, one.get<std::size_t>("clock"));
    hand.keys = all_keys.data() + lane * keys.shape[2] * keys.shape[3];
    const auto from = official.begin() + static_cast<std::ptrdiff_t>(lane * budget);
    EXPECT_EQ(hand.kept(one.get<std::size_t>("prompt")),
              conformance::members(std::span<const float>(from, from + static_cast<std::ptrdiff_t>(budget))))
        << one.path() << " lane " << lane;
  }
}
TEST(TriAttention, ReproducesTheOfficialVectors) { conformance::run_cases("triattention", {{"keep_indices", future_logits}}); }

const conformance::Method triattention("triattention", {});
const conformance::Method qfilter("qfilter", {});
const conformance::Method leverage("leverage", {});
const conformance::Method knorm("knorm", {});
const conformance::Method lagkv("lagkv", {});
const conformance::Method cur("cur", {});

}  // namespace scores_of_keys_test
