// tests/conformance/kvzip_test.cpp - scores of the queries that repeat a prompt, and what stays of all layers, against the official implementation.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include "kvcompress/eviction/allocators/ada.hpp"
#include "kvcompress/policies/kvzip.hpp"
#include "support/any_eviction_cache.hpp"

namespace kvzip_test {

using namespace kvcompress;
using Cache = conformance::AnyEvictionCache;
using conformance::cache_of;
using conformance::Case;
using conformance::expect_within;
using conformance::Members;
using conformance::members;
using conformance::slice;
using conformance::Watched;
using test::HeadArray;

/// |W_o[head] v|_2 of one layer's projection, (hidden, query heads * width), behind that of the others.
struct HeadNorms {
  std::vector<float> weights;
  std::size_t hidden = 0;

  static double of(const void* context, const Site& site, std::size_t head, std::span<const float> value) {
    const auto& [weights, hidden] = *static_cast<const HeadNorms*>(context);
    const std::size_t query_head = site.kv_head * site.shape.group() + head;
    double square = 0.0;
    for (std::size_t row = 0; row < hidden; ++row) {
      const float* w = weights.data() + ((site.layer * hidden + row) * site.shape.query_heads + query_head) * value.size();
      double dot = 0.0;
      for (std::size_t c = 0; c < value.size(); ++c) { dot += static_cast<double>(w[c]) * static_cast<double>(value[c]); }
      square += dot * dot;
    }
    return std::sqrt(square);
  }
};
/// The scores of a layer's lanes lie in Watched; sinks have 1 in the case, and stay by themselves here.
void repeats(const Case& one) {
  using S = Watched<RepeatAttention>;
  S::scores.clear();
  const bool plus = one.get<bool>("plus_normalization");
  const auto layers = one.get<std::size_t>("layers");
  const auto tokens = one.get<std::size_t>("tokens");
  const auto sinks = one.get<std::size_t>("n_sink");
  const auto chunks = one.get<std::vector<std::vector<std::size_t>>>("chunks");
  const npy::Array k = one.array("k_postrope");
  const HeadArray first_keys(slice(k, 0));
  const npy::Array v = plus ? one.array("v") : k;
  Shape shape = test::shape_of(HeadArray(slice(one.array("repeat0_q_postrope"), 0)), first_keys, first_keys);
  shape.layers = layers;
  HeadNorms norms;
  if (plus) {
    const npy::Array w = one.array("w_o");
    norms = {w.as<float>(), w.shape.at(1)};
  }
  const double lanes = static_cast<double>(layers * shape.kv_heads);
  const double kept = lanes * static_cast<double>(tokens) - one.get<double>("evicted");
  const Budget budget = Budget::fraction(kept / lanes / static_cast<double>(tokens));
  const RepeatAttention::Options scorer{plus ? HeadNorm{&HeadNorms::of, &norms} : HeadNorm{}};
  Cache cache = one.get<bool>("layerwise")
                    ? cache_of<Evict<S, Ada>>(shape, {.budget = budget, .sinks = sinks, .scorer = scorer, .allocator = {.floor = 0.0}})
                    : cache_of<Evict<S, BestRows>>(shape, {.budget = budget, .sinks = sinks, .scorer = scorer});
  for (std::size_t l = 0; l < layers; ++l) {
    const HeadArray keys(slice(k, l));
    const HeadArray values(slice(v, l));
    cache.append(l, keys.rows(0, tokens), values.rows(0, tokens));
  }
  for (std::size_t chunk = 0; chunk < chunks.size(); ++chunk) {
    const std::string of = "repeat" + std::to_string(chunk) + "_";
    for (std::size_t l = 0; l < layers; ++l) {
      const HeadArray q(slice(one.array(of + "q_postrope"), l));
      const HeadArray keys(slice(one.array(of + "k_postrope"), l));
      const HeadArray values = plus ? HeadArray(slice(one.array(of + "v"), l)) : keys;
      const Plan plan = repeat_plan(cache, l, chunks[chunk].at(0), chunks[chunk].at(1), sinks);
      cache.append(l, keys.rows(0, keys.tokens), values.rows(0, keys.tokens));
      HeadArray out(q.heads, q.tokens, shape.value_width());
      std::vector<float> log_sum_exp(q.tokens * q.heads);
      AttendOptions options{.log_sum_exp = log_sum_exp.data(), .record = plus ? Record::none : Record::kept, .plan = &plan};
      cache.attend(l, q.rows(0, q.tokens), Output(out.data.data(), q.tokens, out.heads, out.dim, out.dim, out.tokens * out.dim), options);
      if (!plus) { continue; }
      const auto sizes = conformance::matrix(one.array(of + "hidden_norm"));  // dividing probabilities by them adds to the log-sum-exp
      std::vector<Position> positions(q.tokens);
      for (std::size_t t = 0; t < q.tokens; ++t) {
        positions[t] = static_cast<Position>(tokens + t);
        const double size = sizes(static_cast<reference::Index>(l), static_cast<reference::Index>(t));
        for (std::size_t h = 0; h < q.heads; ++h) { log_sum_exp[t * q.heads + h] += static_cast<float>(std::log(size)); }
      }
      options = {.record = Record::kept, .plan = &plan};
      cache.observe(l, q.rows(0, q.tokens), positions, options, log_sum_exp.data());
    }
    cache.truncate(static_cast<Position>(tokens));
  }
  for (std::size_t l = 0; l < layers; ++l) { cache.end_prompt(l); }
  const std::vector<float> official = one.array("score").as<float>();
  double worst = 0.0;
  for (std::size_t lane = 0; lane < layers * shape.kv_heads; ++lane) {
    for (std::size_t r = sinks; r < tokens; ++r) {
      worst = std::max(worst, std::abs(static_cast<double>(S::scores.at(lane).at(r)) - static_cast<double>(official[lane * tokens + r])));
    }
  }
  expect_within(one, "scores", worst, one.params.at("tolerance").at("score_abs").get<double>());
  const std::vector<float> mask = one.array("kept_mask").as<float>();
  for (std::size_t lane = 0; lane < layers * shape.kv_heads; ++lane) {
    Members stay;
    for (std::size_t r = 0; r < tokens; ++r) {
      if (mask[lane * tokens + r] != 0.0F) { stay.push_back(static_cast<std::int64_t>(r)); }
    }
    EXPECT_EQ(members(cache.kept(lane / shape.kv_heads, lane % shape.kv_heads)), stay) << one.path() << " lane " << lane;
  }
}
TEST(KVzip, ReproducesTheOfficialVectors) { conformance::run_cases("kvzip", {{"reconstruction", repeats}}); }

const conformance::Method methods[]{{"kvzip", {}}};

}  // namespace kvzip_test
