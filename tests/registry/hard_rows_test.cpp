// tests/registry/hard_rows_test.cpp - what every storage of codes loses of rows that are hard to hold, keys and values, and attention on them.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <cmath>
#include <iostream>
#include <random>

#include "registry/registry.hpp"

namespace {

using namespace kvcompress;

constexpr std::size_t dim = 64;
constexpr std::size_t count = 300;

/// Rows of one kind; "outliers" are three channels 60 times as large, "half scale" numbers near the largest of half.
std::vector<float> rows_of(const std::string& kind, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> rows(count * dim);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const float x = normal(random);
    const std::size_t c = i % dim;
    rows[i] = kind == "constant"     ? 3.0F
              : kind == "one sign"   ? 5.0F + std::abs(x)
              : kind == "outliers"   ? (c == 3 || c == 17 || c == 40 ? 60.0F * x : x)
              : kind == "half scale" ? std::copysign(60000.0F, x)
              : kind == "zero"       ? 0.0F
                                     : x;
  }
  return rows;
}
/// The most of their length that encoded rows may lose.
struct Bound {
  double normal;
  double one_sign;
  double outliers;
  double half_scale;
  double constant;
};
struct Named {
  const char* policy;
  Bound bound;
};
double root_of_share(const std::vector<float>& x, const std::vector<float>& y, std::size_t rows) {
  double differ = 0.0;
  double all = 0.0;
  for (std::size_t i = 0; i < rows * dim; ++i) {
    EXPECT_TRUE(std::isfinite(y[i]));
    differ += std::pow(static_cast<double>(x[i]) - static_cast<double>(y[i]), 2);
    all += std::pow(static_cast<double>(x[i]), 2);
  }
  return all > 0.0 ? std::sqrt(differ / all) : std::sqrt(differ);
}

/// What attention on the codes differs by from attention on the decoded rows, of the largest value.
double off_attention(AnyCache& cache, const std::vector<float>& keys, const std::vector<float>& values) {
  std::vector<float> query = rows_of("normal", 9);
  query.resize(dim);
  float largest = 1e-30F;
  for (const float x : keys) { largest = std::max(largest, std::abs(x)); }
  for (float& x : query) { x *= 4.0F / largest; }
  std::vector<double> out(dim);
  double sum = 0.0;
  for (std::size_t r = 0; r < count; ++r) {
    double logit = 0.0;
    for (std::size_t c = 0; c < dim; ++c) { logit += static_cast<double>(query[c]) * static_cast<double>(keys[r * dim + c]); }
    const double weight = std::exp(logit / std::sqrt(static_cast<double>(dim)));
    sum += weight;
    for (std::size_t c = 0; c < dim; ++c) { out[c] += weight * static_cast<double>(values[r * dim + c]); }
  }
  // A last row of zeros, so that there is a step to attend in.
  const std::vector<float> zeros(dim);
  cache.append(0, Rows::tokens_first(zeros.data(), 1, 1, dim), Rows::tokens_first(zeros.data(), 1, 1, dim));
  sum += 1.0;
  std::vector<float> held(dim);
  cache.attend(0, Rows::tokens_first(query.data(), 1, 1, dim), Output::tokens_first(held.data(), 1, 1, dim));
  double top = 1e-30;
  double off = 0.0;
  for (const float x : values) { top = std::max(top, std::abs(static_cast<double>(x))); }
  for (std::size_t c = 0; c < dim; ++c) { off = std::max(off, std::abs(static_cast<double>(held[c]) - out[c] / sum)); }
  return off / top;
}

class HardRows : public ::testing::TestWithParam<Named> {};

TEST_P(HardRows, LoseNoMoreThanTheCommentsSay) {
  const Shape shape{.layers = 1, .query_heads = 1, .kv_heads = 1, .head_dim = dim, .rope = {.theta = 0.0}};
  const Bound& bound = GetParam().bound;
  const std::pair<const char*, double> kinds[] = {{"normal", bound.normal},     {"one sign", bound.one_sign},
                                                  {"outliers", bound.outliers}, {"half scale", bound.half_scale},
                                                  {"constant", bound.constant}, {"zero", 0.0}};
  for (const auto& [kind, most] : kinds) {
    const auto keys = rows_of(kind, 3);
    const auto values = rows_of(kind, 4);
    AnyCache cache = examples::registry().make(GetParam().policy, shape);
    cache.append(0, Rows::tokens_first(keys.data(), count, 1, dim), Rows::tokens_first(values.data(), count, 1, dim));
    cache.end_prompt(0);
    const std::size_t encoded = std::min(cache.keys(0, 0).settled(), cache.values(0, 0).settled());
    ASSERT_GT(encoded, 100U);
    std::vector<float> held_keys(count * dim);
    std::vector<float> held_values(count * dim);
    for (std::size_t r = 0; r < count; ++r) { cache.read(0, 0, r, held_keys.data() + r * dim, held_values.data() + r * dim); }
    const double lost[] = {root_of_share(keys, held_keys, encoded), root_of_share(values, held_values, encoded)};
    std::cout << GetParam().policy << ", " << kind << ": keys lose " << lost[0] << ", values " << lost[1] << "\n";
    EXPECT_LE(lost[0], most) << GetParam().policy << " " << kind;
    EXPECT_LE(lost[1], most) << GetParam().policy << " " << kind;
    EXPECT_LT(off_attention(cache, held_keys, held_values), 2e-3) << GetParam().policy << " " << kind;
  }
}

INSTANTIATE_TEST_SUITE_P(Storages, HardRows,
                         ::testing::Values(Named{"kivi8:residual=32", {1, 1, 1, 1, 1}}, Named{"kivi4:residual=32", {1, 1, 1, 1, 1}},
                                           Named{"kivi4:residual=128,group=128", {1, 1, 1, 1, 1}},
                                           Named{"kivi3:residual=32", {1, 1, 1, 1, 1}}, Named{"kivi2:residual=32", {1, 1, 1, 1, 1}},
                                           Named{"rot8", {1, 1, 1, 1, 1}}, Named{"rot4", {1, 1, 1, 1, 1}},
                                           Named{"rot3:group=32", {1, 1, 1, 1, 1}}, Named{"rot2", {1, 1, 1, 1, 1}},
                                           Named{"lm4", {1, 1, 1, 1, 1}}, Named{"lm3", {1, 1, 1, 1, 1}}, Named{"lm2", {1, 1, 1, 1, 1}},
                                           Named{"gear4", {1, 1, 1, 1, 1}}, Named{"gear2", {1, 1, 1, 1, 1}}, Named{"q8_0", {1, 1, 1, 1, 1}},
                                           Named{"q4_0", {1, 1, 1, 1, 1}}, Named{"q4_0:rotate=false", {1, 1, 1, 1, 1}},
                                           Named{"iq4_nl", {1, 1, 1, 1, 1}}, Named{"mxfp4", {1, 1, 1, 1, 1}},
                                           Named{"nvfp4", {1, 1, 1, 1, 1}}),
                         [](const auto& one) {
  std::string name = one.param.policy;
  for (char& c : name) { c = std::isalnum(static_cast<unsigned char>(c)) != 0 ? c : '_'; }
  return name;
});

}  // namespace
