// tests/reference/attention_reference_test.cpp - attention and RoPE obey the identities that define them.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "kvcompress/reference/attention.hpp"
#include "kvcompress/reference/rope.hpp"
#include "support/random_matrix.hpp"

namespace attention_reference_test {

using namespace kvcompress;
using reference::Index;
using reference::Matrix;
using reference::Positions;
using reference::Vector;
using test::random_matrix;

struct Inputs {
  Matrix q, k, v;
  Positions at = reference::consecutive(0, 9);
};

Inputs inputs(unsigned seed) {
  std::mt19937 rng(seed);  // fixed seed: a failure must reproduce
  return {random_matrix(rng, 9, 8), random_matrix(rng, 9, 8), random_matrix(rng, 9, 5)};
}

TEST(AttentionReference, WhatDoesNotFitIsAnError) {
  const Inputs in = inputs(8);
  const auto refused = [&](const reference::AttentionOptions& options) {
    EXPECT_THROW(static_cast<void>(reference::attention(in.q, in.k, in.v, in.at, in.at, options)), Error);
  };
  refused({.scale = std::nan("")});
  refused({.scale = -1.0});
  refused({.scale = HUGE_VAL});
  refused({.soft_cap = std::nan("")});
  refused({.soft_cap = -1.0});
  refused({.window = -1});
  EXPECT_THROW(static_cast<void>(reference::attention(in.v, in.k, in.v, in.at, in.at)), Error);
  EXPECT_THROW(static_cast<void>(reference::attention(in.q, in.k, in.v.topRows(8), in.at, in.at)), Error);
  EXPECT_THROW(static_cast<void>(reference::attention(in.q, in.k, in.v, reference::consecutive(0, 8), in.at)), Error);
  EXPECT_THROW(static_cast<void>(reference::rotate(in.q, reference::consecutive(0, 8))), Error);
  EXPECT_THROW(static_cast<void>(reference::rotate(in.q, in.at, {.rotary_dim = 10})), Error);
}

TEST(AttentionReference, TwoKeysByHand) {
  const Matrix q{{1.0}};
  const Matrix k{{0.0}, {std::log(3.0)}};
  const Matrix v{{4.0}, {8.0}};
  const auto r = reference::attention(q, k, v, reference::consecutive(1, 1), reference::consecutive(0, 2));
  EXPECT_NEAR(r.probabilities(0, 0), 0.25, 1e-15);
  EXPECT_NEAR(r.output(0, 0), 7.0, 1e-14);
  EXPECT_NEAR(r.log_sum_exp(0), std::log(4.0), 1e-15);
}

TEST(AttentionReference, EachQuerySeesTheKeysUpToItsPosition) {
  const Inputs in = inputs(1);
  const auto r = reference::attention(in.q, in.k, in.v, in.at, in.at);
  for (Index i = 0; i < 9; ++i) {
    EXPECT_NEAR(r.probabilities.row(i).sum(), 1.0, 1e-14);
    for (Index j = i + 1; j < 9; ++j) { EXPECT_EQ(r.probabilities(i, j), 0.0); }
  }
  EXPECT_LE((r.output.row(0) - in.v.row(0)).norm(), 1e-15);
  EXPECT_LE((r.probabilities * in.v - r.output).norm(), 1e-14);
}

TEST(AttentionReference, OrderOfRowsDoesNotMatterPositionsDo) {
  const Inputs in = inputs(2);
  const std::vector<Index> order{4, 0, 8, 2, 7, 1, 3, 6, 5};
  const auto r = reference::attention(in.q, in.k, in.v, in.at, in.at);
  const auto shuffled =
      reference::attention(in.q, Matrix(in.k(order, Eigen::all)), Matrix(in.v(order, Eigen::all)), in.at, Positions(in.at(order)));
  EXPECT_LE((r.output - shuffled.output).norm(), 1e-13);
  EXPECT_LE((r.log_sum_exp - shuffled.log_sum_exp).norm(), 1e-13);
}

TEST(AttentionReference, PartsMergeByLogSumExp) {
  const Inputs in = inputs(3);
  const Positions newest = reference::consecutive(9, 9);
  const auto whole = reference::attention(in.q, in.k, in.v, newest, in.at);
  const auto a = reference::attention(in.q, in.k.topRows(4), in.v.topRows(4), newest, in.at.head(4));
  const auto b = reference::attention(in.q, in.k.bottomRows(5), in.v.bottomRows(5), newest, in.at.tail(5));
  for (Index i = 0; i < 9; ++i) {
    const double wa = std::exp(a.log_sum_exp(i) - whole.log_sum_exp(i));
    const double wb = std::exp(b.log_sum_exp(i) - whole.log_sum_exp(i));
    EXPECT_NEAR(wa + wb, 1.0, 1e-13);
    EXPECT_LE((wa * a.output.row(i) + wb * b.output.row(i) - whole.output.row(i)).norm(), 1e-13);
  }
}

TEST(AttentionReference, WindowAndStartHideKeys) {
  const Inputs in = inputs(4);
  const auto r = reference::attention(in.q, in.k, in.v, in.at, in.at, {.window = 3, .start = 2});
  for (Index i = 0; i < 9; ++i) {
    for (Index j = 0; j < 9; ++j) { EXPECT_EQ(r.probabilities(i, j) > 0.0, j <= i && i - j < 3 && j >= 2) << i << " " << j; }
  }
  EXPECT_EQ(r.log_sum_exp(1), -std::numeric_limits<double>::infinity());  // sees padding only
  EXPECT_EQ(r.output.row(1).norm(), 0.0);
}

TEST(AttentionReference, ScaleAndSoftCapBendTheLogits) {
  const Inputs in = inputs(5);
  const auto plain = reference::attention(in.q, in.k, in.v, in.at, in.at);
  const auto scaled = reference::attention(2.0 * in.q, in.k, in.v, in.at, in.at, {.scale = 0.5 / std::sqrt(8.0)});
  EXPECT_LE((plain.output - scaled.output).norm(), 1e-13);
  const auto loose = reference::attention(in.q, in.k, in.v, in.at, in.at, {.soft_cap = 1e6});
  EXPECT_LE((plain.output - loose.output).norm(), 1e-9);
  const auto capped = reference::attention(1e3 * in.q, in.k, in.v, in.at, in.at, {.soft_cap = 0.5});
  EXPECT_LE(capped.probabilities.row(8).maxCoeff() / capped.probabilities.row(8).minCoeff(), std::exp(1.0) + 1e-12);
}

TEST(AttentionReference, LogWeightOfALogarithmCountsARowTwice) {
  const Inputs in = inputs(6);
  const Positions newest = reference::consecutive(20, 9);
  Vector weight = Vector::Zero(9);
  weight(3) = std::log(2.0);
  const auto weighted = reference::attention(in.q, in.k, in.v, newest, in.at, {}, weight);
  const auto doubled =
      reference::attention(in.q, reference::append_rows(in.k, Matrix(in.k.row(3))), reference::append_rows(in.v, Matrix(in.v.row(3))),
                           newest, reference::append_rows(in.at, reference::consecutive(3, 1)));
  EXPECT_LE((weighted.output - doubled.output).norm(), 1e-13);
  weight(3) = -std::numeric_limits<double>::infinity();
  EXPECT_EQ(reference::attention(in.q, in.k, in.v, newest, in.at, {}, weight).probabilities.col(3).norm(), 0.0);
}

TEST(AttentionReference, QueryHeadsShareTheirKvHead) {
  const Inputs a = inputs(7);
  const Inputs b = inputs(8);
  const std::vector<Matrix> q{a.q, b.q, a.k, b.k};
  const std::vector<Matrix> k{a.k, b.k};
  const std::vector<Matrix> v{a.v, b.v};
  const auto r = reference::grouped_attention(q, k, v, a.at, a.at);
  ASSERT_EQ(r.size(), 4U);
  EXPECT_EQ(r[1].output, reference::attention(b.q, a.k, a.v, a.at, a.at).output);
  EXPECT_EQ(r[2].output, reference::attention(a.k, b.k, b.v, a.at, a.at).output);
}

TEST(AttentionReference, StridesDescribeEitherOrder) {
  std::vector<float> data(24);
  for (std::size_t i = 0; i < data.size(); ++i) { data[i] = static_cast<float>(i); }
  const reference::HeadsView<float> tokens_first{data.data(), 4, 2, 3, 6, 3};
  const reference::HeadsView<float> heads_first{data.data(), 4, 2, 3, 3, 12};
  EXPECT_EQ(tokens_first.head(1)(2, 0), 15.0);
  EXPECT_EQ(heads_first.split()[1](2, 0), 18.0);
}

TEST(ScoresReference, ReduceAndSelect) {
  const std::vector<Vector> scores{Vector{{1.0, 4.0, 2.0}}, Vector{{3.0, 0.0, 2.0}}};
  EXPECT_EQ(reference::reduce_heads(scores, reference::HeadReduction::mean), (Vector{{2.0, 2.0, 2.0}}));
  EXPECT_EQ(reference::reduce_heads(scores, reference::HeadReduction::max), (Vector{{3.0, 4.0, 2.0}}));
  EXPECT_EQ(reference::reduce_heads(scores, reference::HeadReduction::sum), (Vector{{4.0, 4.0, 4.0}}));
  EXPECT_EQ(reference::top_rows(Vector{{1.0, 5.0, 1.0, 7.0, 5.0}}, 2), (reference::Rows{1, 3}));
  EXPECT_EQ(reference::top_rows(Vector{{1.0, 1.0, 1.0}}, 2), (reference::Rows{0, 1}));  // ties: the lower row
  EXPECT_EQ(reference::top_rows(Vector{{1.0}}, 5), (reference::Rows{0}));
}

TEST(RopeReference, RotationsAddUpAndKeepLengths) {
  std::mt19937 rng(9);
  const Matrix x = random_matrix(rng, 6, 8);
  for (const auto pairing : {reference::Pairing::half, reference::Pairing::interleaved}) {
    const reference::Rope rope{.pairing = pairing, .theta = 500.0};
    const Positions a = reference::consecutive(3, 6);
    const Positions b = reference::consecutive(-40, 6);
    EXPECT_EQ(reference::rotate(x, Positions::Zero(6), rope), x);
    EXPECT_LE((reference::rotate(reference::rotate(x, a, rope), b, rope) - reference::rotate(x, a + b, rope)).norm(), 1e-13);
    EXPECT_LE((reference::rerotate(reference::rotate(x, a, rope), a, b, rope) - reference::rotate(x, b, rope)).norm(), 1e-13);
    EXPECT_NEAR(reference::rotate(x, a, rope).norm(), x.norm(), 1e-13);
  }
}

TEST(RopeReference, DotProductsDependOnTheDistanceOnly) {
  std::mt19937 rng(10);
  const Matrix q = random_matrix(rng, 1, 8);
  const Matrix k = random_matrix(rng, 1, 8);
  const auto dot = [&](std::int64_t i, std::int64_t j) {
    return reference::rotate(q, reference::consecutive(i, 1)).row(0).dot(reference::rotate(k, reference::consecutive(j, 1)).row(0));
  };
  EXPECT_NEAR(dot(5, 2), dot(1005, 1002), 1e-10);
}

TEST(RopeReference, PairingsPartsAndScaling) {
  const Matrix x{{1.0, 0.0, 0.0, 0.0}};
  const Positions one = reference::consecutive(1, 1);
  EXPECT_EQ(reference::rotate(x, one)(0, 2), std::sin(1.0));
  EXPECT_EQ(reference::rotate(x, one, {.pairing = reference::Pairing::interleaved})(0, 1), std::sin(1.0));
  EXPECT_EQ(reference::rotate(x, one, {.rotary_dim = 2})(0, 1), std::sin(1.0));
  EXPECT_EQ(reference::rotate(x, reference::consecutive(4, 1), {.linear_factor = 4.0}), reference::rotate(x, one));
}

}  // namespace attention_reference_test
