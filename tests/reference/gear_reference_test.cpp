// tests/reference/gear_reference_test.cpp - GEAR's reference: invariants and official vectors.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <Eigen/SVD>
#include <random>
#include <vector>

#include "support/gear_cases.hpp"
#include "support/random_matrix.hpp"

namespace gear_reference_test {

using namespace kvcompress;
using reference::GearBackbone;
using reference::GearOptions;
using reference::GearTensor;
using reference::Index;
using reference::Matrix;
using test::random_matrix;

std::vector<Matrix> random_heads(std::mt19937& rng, Index tokens, Index dim) {
  return {random_matrix(rng, tokens, dim), random_matrix(rng, tokens, dim)};
}

double error(const reference::GearSegment& segment, const std::vector<Matrix>& x, bool low_rank) {
  double sum = 0.0;
  for (std::size_t h = 0; h < x.size(); ++h) { sum += (x[h] - (low_rank ? segment.hat(h) : segment.restored[h])).squaredNorm(); }
  return std::sqrt(sum);
}

TEST(GearReference, ChoosesTheEndsOfAVectorAndTheLowerIndexAmongEquals) {
  const reference::Vector x{{3.0, -1.0, 7.0, 7.0, 0.0, -1.0, 2.0}};
  EXPECT_EQ(reference::choose_outliers(x, 1), (std::vector<Index>{1, 2}));
  EXPECT_EQ(reference::choose_outliers(x, 2), (std::vector<Index>{1, 2, 3, 5}));
  EXPECT_EQ(reference::choose_outliers(x, 4).size(), 7U);
  EXPECT_TRUE(reference::choose_outliers(x, 0).empty());
}

TEST(GearReference, LowRankNeverAddsErrorAndOutliersComeBack) {
  std::mt19937 rng(1);
  for (const GearTensor tensor : {GearTensor::keys, GearTensor::values}) {
    for (const GearBackbone backbone : {GearBackbone::kcvt, GearBackbone::kivi}) {
      const auto x = random_heads(rng, 48, 16);
      const auto starts = random_heads(rng, 16, 4);
      for (const double sparsity : {0.0, 0.1, 1.0}) {
        for (const int sweeps : {1, 2, 3, 8}) {
          const GearOptions options{
              .tensor = tensor, .backbone = backbone, .bits = 2, .group = 16, .sparsity = sparsity, .rank = 4, .sweeps = sweeps};
          const auto segment = reference::gear_compress(x, starts, options);
          EXPECT_LE(error(segment, x, true), error(segment, x, false) * (1 + 1e-12));
          if (sparsity == 1.0) { EXPECT_EQ(error(segment, x, false), 0.0); }
          for (std::size_t h = 0; h < x.size(); ++h) {
            EXPECT_EQ(segment.outlier[h].select(segment.restored[h] - x[h], 0.0).cwiseAbs().maxCoeff(), 0.0);
          }
        }
      }
    }
  }
}

TEST(GearReference, NoRankAndNoOutliersIsTheBackboneAndFullRankIsExact) {
  std::mt19937 rng(2);
  const auto x = random_heads(rng, 24, 8);
  const GearOptions plain{.tensor = GearTensor::keys, .bits = 4, .rank = 0};
  const auto none = reference::gear_compress(x, {}, plain);
  EXPECT_EQ(none.hat(0), reference::dequantize(reference::quantize(x[0], reference::GroupAxis::tokens, 4, 24)));
  const auto full = reference::gear_compress(x, random_heads(rng, 8, 8), {.tensor = GearTensor::values, .bits = 2, .rank = 8});
  EXPECT_LE(conformance::deviation(full.hat(1), x[1]), 1e-9);
}

TEST(GearReference, ThePowerIterationNearsTheBestApproximation) {
  std::mt19937 rng(3);
  const Matrix e = random_matrix(rng, 60, 20);
  const Matrix start = (random_matrix(rng, 20, 4).array().abs()).matrix();
  const auto singular = Eigen::JacobiSVD<Matrix>(e).singularValues();
  const double best = singular.tail(singular.size() - 4).norm();
  double before = e.norm();
  for (const int sweeps : {1, 2, 3, 8, 40}) {
    const double rest = (e - reference::power_iteration(e, start, sweeps)).norm();
    EXPECT_LE(rest, before * (1 + 1e-3));
    EXPECT_GE(rest, best * (1 - 1e-9));
    before = rest;
  }
  EXPECT_LE(before, best * 1.01);
}

TEST(GearReference, FillingWithTheMeanNarrowsGroups) {
  std::mt19937 rng(4);
  auto x = random_heads(rng, 64, 8);
  for (Matrix& head : x) { head.array() += 20.0; }  // offset channels: a fill of 0 widens every range
  GearOptions options{.tensor = GearTensor::keys, .bits = 2, .sparsity = 0.1, .rank = 0};
  const double mean = error(reference::gear_compress(x, {}, options), x, false);
  options.fill = reference::GearFill::zero;
  EXPECT_LT(4 * mean, error(reference::gear_compress(x, {}, options), x, false));
}

TEST(GearReference, OfficialVectors) {
  const auto compress = [](const conformance::Case&, const auto& heads, const auto& starts, const GearOptions& options) {
    const auto segment = reference::gear_compress(heads, starts, options);
    std::vector<Matrix> hat;
    for (std::size_t h = 0; h < heads.size(); ++h) { hat.push_back(segment.hat(h)); }
    return hat;
  };
  conformance::run_cases("gear", conformance::gear::handlers(compress, reference::power_iteration, 0.0, true));
}

}  // namespace gear_reference_test
