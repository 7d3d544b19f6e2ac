// examples/compare_policies/tests/kv_measure_test.cpp - output error, mass kept and KL of attention against their definitions, written out.
// SPDX-License-Identifier: MIT
#include "compare_policies/kv_measure.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <random>

#include "compare_policies/kv_formats.hpp"
#include "kvcompress/cache.hpp"
#include "kvcompress/policies/combine.hpp"
#include "kvcompress/policies/full.hpp"
#include "kvcompress/policies/streaming_llm.hpp"

namespace comparison {
namespace {

constexpr std::size_t tokens = 24;
constexpr std::size_t decoded = 8;
constexpr double base = 100.0;

/// A row turned to a position, channel i with i + dim/2.
std::vector<double> turned(const float* row, std::size_t dim, double position) {
  std::vector<double> out(dim);
  for (std::size_t i = 0; i < dim / 2; ++i) {
    const double angle = position * std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(dim));
    const double x = static_cast<double>(row[i]);
    const double y = static_cast<double>(row[i + dim / 2]);
    out[i] = x * std::cos(angle) - y * std::sin(angle);
    out[i + dim / 2] = x * std::sin(angle) + y * std::cos(angle);
  }
  return out;
}

/// Two layers, two KV heads of two query heads each; the second layer is the first with other numbers.
tensors::Dump random_dump() {
  tensors::Dump dump;
  dump.tokens = dump.queries = tokens;
  dump.kv_heads = 2;
  dump.query_heads = 4;
  dump.key_dim = 8;
  dump.value_dim = 4;
  dump.layers = {0, 1};
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  dump.sequences.assign(1, std::vector<tensors::LayerRows>(2));
  for (tensors::LayerRows& rows : dump.sequences[0]) {
    rows.keys.resize(tokens * 2 * 8);
    rows.values.resize(tokens * 2 * 4);
    rows.queries.resize(tokens * 4 * 8);
    for (auto* numbers : {&rows.keys, &rows.values, &rows.queries}) {
      for (float& number : *numbers) { number = normal(random); }
    }
  }
  return dump;
}

using Streaming = kvcompress::Combine<kvcompress::StreamingLLM, kvcompress::Full<float>>;

kvcompress::Shape shape_of(const tensors::Dump& dump) {
  kvcompress::Shape shape;
  shape.layers = dump.layers.size();
  shape.query_heads = dump.query_heads;
  shape.kv_heads = dump.kv_heads;
  shape.head_dim = dump.key_dim;
  shape.value_dim = dump.value_dim;
  shape.rope.theta = base;
  return shape;
}

std::vector<KvSums> measured(const tensors::Dump& dump, std::size_t window, bool in_cache, bool retrieves) {
  const kvcompress::Shape shape = shape_of(dump);
  kvcompress::PolicyOptions<Streaming> options;
  options.eviction = {.sinks = 2, .window = window, .in_cache_positions = in_cache};
  kvcompress::KVCache<Streaming> cache(shape, options);
  std::vector<ExactLayer> exact;
  for (const tensors::LayerRows& rows : dump.sequences[0]) { exact.push_back(exact_attention(dump, rows, decoded)); }
  KvMeasuring measuring(cache, shape, dump, dump.sequences[0], exact, decoded, retrieves);
  std::size_t steps = 0;
  const std::vector<KvSums> sums = measuring.run([&] { ++steps; });
  EXPECT_EQ(steps, decoded);
  return sums;
}

TEST(KvMeasure, FindsNoErrorWhereNothingIsLost) {
  for (const bool retrieves : {false, true}) {
    for (const KvSums& sums : measured(random_dump(), 100, true, retrieves)) {
      EXPECT_LT(sums.output_error(), 1e-6);
      EXPECT_NEAR(sums.mass_kept(), 1.0, 1e-6);
      EXPECT_LT(sums.kl(), 1e-6);
      EXPECT_EQ(sums.queries, 8.0 * 4.0);
      EXPECT_GT(sums.bytes, 0.0);
      EXPECT_EQ(sums.values, 24.0 * 2.0 * 12.0);
    }
  }
}

/// The three numbers of a layer by definition, where a query sees the first 2 rows, and the last `window` before it and its own. With
/// `in_cache`, rows stand at their places in the cache.
KvSums defined(const tensors::LayerRows& rows, std::size_t window, bool in_cache) {
  KvSums sums;
  for (std::size_t t = tokens - decoded; t < tokens; ++t) {
    std::vector<std::size_t> kept;
    for (std::size_t j = 0; j <= t; ++j) {
      if (j < 2 || j + window >= t) { kept.push_back(j); }
    }
    for (std::size_t head = 0; head < 4; ++head) {
      const auto key = [&](std::size_t j) { return rows.keys.data() + (j * 2 + head / 2) * 8; };
      const auto value = [&](std::size_t j, std::size_t c) { return static_cast<double>(rows.values[(j * 2 + head / 2) * 4 + c]); };
      const float* query = rows.queries.data() + (t * 4 + head) * 8;
      // Rotated rows: at its place in the cache a row is turned back by how far it has moved.
      const auto logit = [&](std::size_t j, double key_back, double query_back) {
        const std::vector<double> k = turned(key(j), 8, -key_back);
        const std::vector<double> q = turned(query, 8, -query_back);
        double sum = 0.0;
        for (std::size_t c = 0; c < 8; ++c) { sum += q[c] * k[c]; }
        return sum / std::sqrt(8.0);
      };
      std::vector<double> exact;
      double exact_total = 0.0;
      for (std::size_t j = 0; j <= t; ++j) {
        exact.push_back(std::exp(logit(j, 0.0, 0.0)));
        exact_total += exact.back();
      }
      std::vector<double> ours;
      double our_total = 0.0;
      const double query_back = in_cache ? static_cast<double>(t - (kept.size() - 1)) : 0.0;
      for (std::size_t i = 0; i < kept.size(); ++i) {
        ours.push_back(std::exp(logit(kept[i], in_cache ? static_cast<double>(kept[i] - i) : 0.0, query_back)));
        our_total += ours.back();
      }
      for (std::size_t i = 0; i < kept.size(); ++i) {
        const double p = exact[kept[i]] / exact_total;
        sums.mass += p;
        sums.divergence += ours[i] / our_total * std::log(ours[i] / our_total / p);
      }
      for (std::size_t c = 0; c < 4; ++c) {
        double right = 0.0;
        double wrong = 0.0;
        for (std::size_t j = 0; j <= t; ++j) { right += exact[j] / exact_total * value(j, c); }
        for (std::size_t i = 0; i < kept.size(); ++i) { wrong += ours[i] / our_total * value(kept[i], c); }
        sums.error_square += (wrong - right) * (wrong - right);
        sums.output_square += right * right;
      }
      sums.queries += 1.0;
    }
  }
  return sums;
}

TEST(KvMeasure, IsItsDefinitionForASlidingWindow) {
  const tensors::Dump dump = random_dump();
  for (const bool in_cache : {false, true}) {
    const std::vector<KvSums> sums = measured(dump, 5, in_cache, false);
    for (std::size_t layer = 0; layer < 2; ++layer) {
      const KvSums right = defined(dump.sequences[0][layer], 5, in_cache);
      EXPECT_NEAR(sums[layer].mass_kept(), right.mass_kept(), 1e-6) << layer;
      EXPECT_NEAR(sums[layer].kl(), right.kl(), 1e-5) << layer;
      EXPECT_NEAR(sums[layer].output_error(), right.output_error(), 1e-5) << layer;
      EXPECT_GT(right.kl(), 0.1);
    }
  }
}

TEST(KvMeasure, FindsTheSameInTheDenominatorsWhereKeysAreExact) {
  const tensors::Dump dump = random_dump();
  const std::vector<KvSums> rows = measured(dump, 5, false, false);
  const std::vector<KvSums> denominators = measured(dump, 5, false, true);
  for (std::size_t layer = 0; layer < 2; ++layer) {
    EXPECT_NEAR(rows[layer].mass_kept(), denominators[layer].mass_kept(), 1e-6);
    EXPECT_NEAR(rows[layer].kl(), denominators[layer].kl(), 1e-6);
  }
}

TEST(KvMeasure, ServesQueriesOfTheLastTokensOnly) {
  tensors::Dump dump = random_dump();
  const std::vector<KvSums> all = measured(dump, 5, true, false);
  dump.queries = decoded + 1;
  for (tensors::LayerRows& rows : dump.sequences[0]) {
    rows.queries.erase(rows.queries.begin(), rows.queries.end() - (decoded + 1) * 4 * 8);
  }
  const std::vector<KvSums> some = measured(dump, 5, true, false);
  EXPECT_EQ(all[1].output_error(), some[1].output_error());
  EXPECT_EQ(all[1].kl(), some[1].kl());
}

KvComparison example() {
  KvComparison c;
  KvSums full;
  full.queries = 2.0;
  full.output_square = 4.0;
  full.mass = 2.0;
  full.bytes = 4096.0;
  full.values = 2048.0;
  full.decode_seconds = 3e-6;
  full.decoded = 3.0;
  KvSums half = full;
  half.error_square = 0.04;
  half.mass = 1.5;
  half.divergence = 0.5;
  half.bytes = 1024.0;
  c.rows = {{{"full", "full"}, {full, full}}, {{"half", "half:x=1"}, {full, half}}};
  c.layers = {3, 9};
  c.sequences = 1;
  return c;
}

TEST(KvFormats, JsonHasAllAndEachLayer) {
  const auto json = nlohmann::json::parse(kv_json(example()));
  const auto& half = json.at("results").at(1);
  EXPECT_EQ(half.at("policy"), "half");
  EXPECT_EQ(half.at("bytes"), 5120);
  EXPECT_EQ(half.at("attention_mass_kept"), 3.5 / 4.0);
  EXPECT_EQ(half.at("attention_kl"), 0.125);
  EXPECT_NEAR(half.at("output_error").get<double>(), std::sqrt(0.04 / 8.0), 1e-12);
  EXPECT_EQ(half.at("layers").at(1).at("layer"), 9);
  EXPECT_EQ(half.at("layers").at(1).at("fraction_of_f16"), 0.25);
  EXPECT_NEAR(half.at("layers").at(1).at("output_error").get<double>(), 0.1, 1e-12);
  EXPECT_NEAR(half.at("us_per_token").get<double>(), 1.0, 1e-12) << "of one layer";
}

TEST(KvFormats, TableHasALinePerPolicyAndLayer) {
  const std::string table = kv_table(example());
  for (const char* line : {"\nfull      all  ", "\nhalf      all      5   62.5     10.00     -  0.0707   87.50  0.125",
                           "\n            9      1   25.0      4.00"}) {
    EXPECT_NE(table.find(line), std::string::npos) << line << table;
  }
}

}  // namespace
}  // namespace comparison
