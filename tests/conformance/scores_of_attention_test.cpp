// tests/conformance/scores_of_attention_test.cpp - scorers that observe attention against the official implementations.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include "kvcompress/eviction/scorers/average_attention.hpp"
#include "kvcompress/eviction/scorers/decayed_attention.hpp"
#include "kvcompress/eviction/scorers/output_change.hpp"
#include "kvcompress/eviction/scorers/window_attention.hpp"
#include "kvcompress/policies/keyformer.hpp"
#include "support/eviction_cases.hpp"

namespace scores_of_attention_test {

using namespace kvcompress;
using conformance::Case;
using conformance::expect_kept;
using conformance::first_rows;
using conformance::prompt;
using conformance::score_deviation;
using conformance::Watched;
using test::HeadArray;

TEST(ObservedAttention, ReproducesTheOfficialVectors) {
  using S = Watched<AverageAttention>;
  conformance::run_cases("observed_attention", {{"scores",
                                                 [](const Case& one) {
    const HeadArray q = first_rows(one, "q_postrope");
    const HeadArray k = first_rows(one, "k_postrope");
    const auto cache = prompt<AverageAttention, Evict<S>>(q, k, k, {.budget = one.get<std::size_t>("n_kept")});
    const auto at = [](std::size_t head, std::size_t row) { return static_cast<double>(S::scores.at(head).at(row)); };
    expect_kept(one, cache, 0, k.heads, at, 0.0);
    conformance::expect_within(one, "scores", score_deviation(one, k.heads, 0, at), 4e-7);
                                                 }}});
}

// ---------------------------------------------------------------- Keyformer

/// The noise that the official code drew.
struct RecordedNoise {
  RecordedNoise(std::size_t, const Site& site) : head(site.kv_head) {}
  float operator()(std::size_t query, std::size_t row) const { return at(head, query, row); }
  static inline std::function<float(std::size_t head, std::size_t query, std::size_t row)> at{};
  std::size_t head;
};
/// The case, where a row that leaves the recent ones competes. The newest row is not in the cache when the official code counts recent ones.
template <class Noise>
void keyformer(const Case& one) {
  using E = Evict<NoisyAttention<Noise>>;
  const HeadArray k(one.array("k"));
  const std::size_t recent = one.get<std::size_t>("recent_tokens") - 1;
  test::Sequence<conformance::PolicyOf<E>> run(
      test::shape_of(k, k, k),
      {.eviction = {.budget = recent + one.get<std::size_t>("key_tokens"),
                    .recent = recent,
                    .scorer = {.temperature = one.get<double>("tau_init"), .temperature_step = one.get<double>("tau_delta")}}},
      HeadArray(one.array("q")), k, HeadArray(one.array("v")));
  const auto prompt_rows = one.get<std::size_t>("prompt");
  if constexpr (std::is_same_v<Noise, RecordedNoise>) {
    RecordedNoise::at = [&, of_prompt = HeadArray(one.array("gumbel_prompt")), of_steps = HeadArray(one.array("gumbel_decode"))](
                            std::size_t head, std::size_t query, std::size_t row) {
      return query < prompt_rows ? of_prompt.at(head, query, row)
                                 : of_steps.at(query - prompt_rows, head, run.cache.table(0, head).position(row));
    };
  }
  const HeadArray masks(one.array("mask_next_fixed"));
  const HeadArray scores(one.array("score_fixed"));
  double worst = 0.0;
  for (std::size_t call = 0; call < masks.heads; ++call) {
    run.step(call == 0 ? prompt_rows : 1);
    call == 0 ? run.cache.end_prompt(0) : run.cache.commit(0);
    for (std::size_t head = 0; head < k.heads; ++head) {
      conformance::Members official;
      for (std::size_t row = 0; row < run.done; ++row) {
        if (masks.at(call, head, row) != 0.0F) { official.push_back(static_cast<std::int64_t>(row)); }
      }
      ASSERT_EQ(conformance::members(run.cache.kept(0, head)), official) << one.path() << " call " << call << " head " << head;
      const auto& table = run.cache.table(0, head);
      for (std::size_t row = 0; row < table.rows(); ++row) {
        if (!table.alive(row)) { continue; }
        worst = std::max(worst, std::abs(static_cast<double>(run.cache.state(0, head).get(row, 0)) -
                                         static_cast<double>(scores.at(call, head, table.position(row)))));
      }
    }
  }
  conformance::expect_within(one, "scores", worst, one.params.at("tolerance").at("score_abs").get<double>());
  conformance::expect_within(one, "outputs", test::deviation(run.out, HeadArray(one.array("out_fixed"))), 2e-5);
}
TEST(Keyformer, ReproducesTheOfficialVectors) {
  conformance::run_cases(
      "keyformer",
      {{"masked_decode", [](const Case& one) { one.has("gumbel_prompt") ? keyformer<RecordedNoise>(one) : keyformer<NoNoise>(one); }}});
}

// ---------------------------------------------------------------- Scissorhands (the port's scores; see DecayedAttention)

void decayed_attention(const Case& one) {
  using E = Evict<DecayedAttention>;
  const HeadArray attention(one.array("attention"));
  const HeadArray importance(one.array("importance"));
  const auto counts = one.get<std::vector<std::size_t>>("rows_per_update");
  const auto window = one.get<std::size_t>("history_window");
  const auto kept = conformance::matrix(one.array("kept_idx"));
  double worst = 0.0;
  for (std::size_t head = 0; head < attention.heads; ++head) {
    conformance::LaneByHand<E> lane({.budget = one.get<std::size_t>("token_budget"),
                                     .sinks = one.get<std::size_t>("sink"),
                                     .recent = one.get<std::size_t>("recent"),
                                     .scorer = {.window = window, .decay = one.get<double>("decay")}},
                                    Shape{}, attention.dim);
    std::size_t end = 0;
    for (std::size_t update = 0; update < counts.size(); ++update) {  // each as the last queries of a prompt
      end += counts[update];
      E::start(lane.options, lane.state);
      for (std::size_t query = end - std::min(window, counts[update]); query < end; ++query) {
        E::observe(lane.options, lane.state, 0, {attention.data.data() + (head * attention.tokens + query) * attention.dim, attention.dim});
      }
      for (std::size_t row = 0; row < attention.dim; ++row) {
        worst =
            std::max(worst, std::abs(static_cast<double>(lane.state.get(row, 0)) - static_cast<double>(importance.at(update, head, row))));
      }
    }
    EXPECT_EQ(lane.kept(), conformance::kept_row(kept, static_cast<reference::Index>(head))) << one.path() << " head " << head;
  }
  conformance::expect_within(one, "scores", worst, 2e-6);
}
TEST(Scissorhands, ReproducesTheOfficialVectors) { conformance::run_cases("scissorhands", {{"importance_topk", decayed_attention}}); }

// ---------------------------------------------------------------- NACL without its random part: SnapKV's scores of the last queries, not pooled

void proxies(const Case& one) {
  using S = Watched<WindowAttention>;
  if (one.get<std::string>("mode") != "suffix" || one.get<std::size_t>("random_budget") != 0) {
    throw conformance::NotCovered(one.path() + ": proxies other than the last queries, or rows that are kept by chance");
  }
  const HeadArray k(one.array("k_postrope"));
  const auto window = one.get<std::size_t>("proxy_size");
  const auto cache = prompt<WindowAttention, Evict<S>>(HeadArray(one.array("q_postrope")), k, k,
                                                       {.budget = one.get<std::size_t>("token_budget"),
                                                        .sinks = one.get<std::vector<std::size_t>>("protected").size(),
                                                        .scorer = {.window = window, .kernel = 1}});
  const auto at = [](std::size_t head, std::size_t row) { return static_cast<double>(S::scores.at(head).at(row)); };
  expect_kept(one, cache, 0, k.heads, at, 0.0);
  conformance::expect_within(one, "scores", score_deviation(one, k.heads, 0, at), 1e-5);
}
TEST(NACL, ReproducesTheOfficialVectors) { conformance::run_cases("nacl", {{"proxy_topk", proxies}}); }

// ---------------------------------------------------------------- DropKV

void output_change(const Case& one) {
  using S = Watched<OutputChange>;
  const HeadArray k(one.array("k_postrope"));
  const HeadArray v(one.array("v"));
  const auto window = one.get<std::size_t>("window");
  const auto cache = prompt<OutputChange, Evict<S>>(
      HeadArray(one.array("q_window_postrope")), k, v,
      {.budget = one.get<std::size_t>("n_kept"),
       .scorer = {.window = window, .kernel = one.get<std::size_t>("kernel"), .epsilon = one.get<double>("epsilon")}});
  const auto at = [](std::size_t head, std::size_t row) { return static_cast<double>(S::scores.at(head).at(row)); };
  const auto official = conformance::matrix(one.array("score"));
  double worst = 0.0;  // relative
  for (std::size_t head = 0; head < k.heads; ++head) {
    for (std::size_t row = 0; row + window < k.tokens; ++row) {
      const double expected = official(static_cast<reference::Index>(head), static_cast<reference::Index>(row));
      worst = std::max(worst, std::abs(at(head, row) - expected) / (5.577e-7 + 2e-5 * expected));
    }
  }
  const double infinite = std::numeric_limits<double>::infinity();
  expect_kept(
      one, cache, 0, k.heads, [&](std::size_t head, std::size_t row) { return row + window < k.tokens ? at(head, row) : infinite; }, 0.0);
  conformance::expect_within(one, "scores, in tolerances", worst, 1.0);
}
TEST(DropKV, ReproducesTheOfficialVectors) { conformance::run_cases("dropkv", {{"scores", output_change}}); }

const conformance::Method nacl("nacl", {});
const conformance::Method dropkv("dropkv", {});
const conformance::Method scissorhands("scissorhands", {});
const conformance::Method keyformer_cases("keyformer", {});
const conformance::Method observed_attention("observed_attention", {});

}  // namespace scores_of_attention_test
