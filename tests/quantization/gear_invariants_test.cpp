// tests/quantization/gear_invariants_test.cpp - the invariants of GEAR's specification, through its stores and its power iteration.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <Eigen/SVD>
#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

#include "kvcompress/reference/gear.hpp"
#include "support/gear_stores.hpp"
#include "support/random_matrix.hpp"

namespace gear_invariants_test {

using namespace kvcompress;
using namespace kvcompress::test;
using reference::Index;
using reference::Matrix;
using Heads = std::vector<Matrix>;
using Keys = GearKeys<2, Kcvt, float>;
using Values = GearValues<2, Kcvt, ValueVectors::layer, float>;
using GroupKeys = GearKeys<2, KiviGroups<32>, float>;
using GroupValues = GearValues<2, KiviGroups<32>, ValueVectors::head, float>;

/// Correlated rows with offset channels and a few large numbers: what the three parts of GEAR are for.
Heads random_heads(std::size_t tokens, std::size_t dim, unsigned seed) {
  std::mt19937 rng(seed);
  const auto t = static_cast<Index>(tokens);
  const auto d = static_cast<Index>(dim);
  Heads all;
  for (int h = 0; h < 2; ++h) {
    Matrix x = random_matrix(rng, t, 3) * random_matrix(rng, 3, d) + 0.3 * random_matrix(rng, t, d);
    for (Index c = 0; c < d; c += 5) { x.col(c).array() += 4.0; }
    for (std::size_t i = 0; i < tokens * dim / 100; ++i) { x(static_cast<Index>(rng() % tokens), static_cast<Index>(rng() % dim)) *= 5.0; }
    all.emplace_back(x.cast<float>().cast<double>());
  }
  return all;
}
/// One segment of everything.
template <class Store, class Options>
GearLayer<Store> encoded(const Heads& x, Options options) {
  if (Store::row_multiple == 1) { options.buffer = static_cast<std::size_t>(x[0].rows()); }
  GearLayer<Store> layer(x.size(), static_cast<std::size_t>(x[0].cols()), options);
  layer.encode(x);
  return layer;
}
double error(const Heads& x, const auto& layer, std::size_t h) { return (x[h] - layer.decoded(h)).norm(); }

template <class Store, class Options>
void check_invariants(const Options& base, unsigned seed) {
  const Heads x = random_heads(96, 32, seed);
  const auto with = [&](std::size_t rank, double sparsity, std::size_t sweeps, std::size_t start) {
    Options options = base;
    options.prompt_rank = rank;
    options.sparsity = sparsity;
    options.sweeps = sweeps;
    options.seed = start;
    return encoded<Store>(x, options);
  };
  const auto backbone = with(0, 0.0, 3, 1);
  const auto with_outliers = with(0, 0.07, 3, 1);
  const auto everything = with(0, 1.0, 3, 1);
  const auto full_rank = with(32, 0.07, 3, 1);
  for (std::size_t h = 0; h < 2; ++h) {
    for (const std::size_t start : {1U, 2U, 77U}) {
      double before = error(x, with_outliers, h);
      for (const std::size_t sweeps : {1U, 2U, 3U, 8U}) {
        const double now = error(x, with(4, 0.07, sweeps, start), h);
        EXPECT_LE(now, error(x, with_outliers, h) * (1 + 1e-6)) << "the low-rank part adds error";
        EXPECT_LE(now, before * 1.001) << "a sweep adds error";
        before = now;
      }
    }
    EXPECT_LE((everything.decoded(h) - x[h]).cwiseAbs().maxCoeff(), 2e-6) << "all outliers";
    EXPECT_LE((full_rank.decoded(h) - x[h]).cwiseAbs().maxCoeff(), 2e-5) << "full rank";
    const double low_rank = error(x, with(4, 0.0, 3, 1), h);
    EXPECT_GT(error(x, backbone, h), low_rank);
    EXPECT_GT(low_rank, error(x, with(4, 0.07, 3, 1), h));
  }
}

TEST(GearInvariants, HoldForKeysAndValuesOfBothBackbones) {
  check_invariants<Keys>(GearOptions<20>{}, 1);
  check_invariants<Values>(GearOptions<20>{}, 2);
  check_invariants<GroupKeys>(GearOptions<32>{}, 3);
  check_invariants<GroupValues>(GearOptions<32>{}, 4);
}

TEST(GearInvariants, OutliersAreExactWithoutLowRankPartAndNarrowTheGroups) {
  const Heads x = random_heads(200, 32, 5);
  const auto plain = encoded<Keys>(x, GearOptions<20>{.prompt_rank = 0, .sparsity = 0.0});
  const auto sparse = encoded<Keys>(x, GearOptions<20>{.prompt_rank = 0, .sparsity = 0.05});
  for (std::size_t h = 0; h < 2; ++h) {
    const auto& segment = sparse.stores[h].body()[0];
    EXPECT_EQ(segment.outlier_count(), 32U * 2U * 5U);
    std::size_t seen = 0;
    const Matrix decoded = sparse.decoded(h);
    segment.outliers().for_tiles(0, 200,
                                 [&](std::size_t tile, const auto*, const std::uint8_t* rows, const auto* channels, std::size_t count) {
      for (std::size_t i = 0; i < count; ++i, ++seen) {
        const auto r = static_cast<Index>(tile + rows[i]);
        const auto column = static_cast<Index>(channels[i]);
        EXPECT_NEAR(decoded(r, column), x[h](r, column), 1e-6 * std::max(1.0, std::abs(x[h](r, column))));
      }
    });
    EXPECT_EQ(seen, segment.outlier_count());
    for (std::size_t c = 0; c < 32; ++c) { EXPECT_LE(segment.codes().scales[c], plain.stores[h].body()[0].codes().scales[c]); }
  }
}

TEST(GearInvariants, OutliersAreThoseOfTheReference) {
  std::mt19937 rng(9);
  for (int round = 0; round < 300; ++round) {
    const std::size_t count = rng() % (round % 3 == 0 ? 5000U : 30U) + 1;
    std::vector<float> x(count);
    const unsigned different = round % 2 == 0 ? 4U : round % 5 == 0 ? 1000000U : 1000U;  // many equal numbers in half of them
    for (float& number : x) { number = static_cast<float>(rng() % different) - 2.0F; }
    if (round % 7 == 0) { std::sort(x.begin(), x.end()); }
    const std::size_t per_side = rng() % 17;
    std::vector<float> sorted(count);
    std::vector<std::uint32_t> chosen(count);
    chosen.resize(gear::choose_outliers(x.data(), count, per_side, sorted.data(), chosen.data()));
    const Eigen::Map<Eigen::VectorXf> vector(x.data(), static_cast<Index>(count));
    const auto expected = reference::choose_outliers(vector.cast<double>(), static_cast<Index>(per_side));
    ASSERT_TRUE(std::equal(chosen.begin(), chosen.end(), expected.begin(), expected.end(),
                           [](std::uint32_t a, Index b) { return static_cast<Index>(a) == b; }))
        << "round " << round;
  }
}

/// Sixteen bits hold scales, factors and outliers of numbers of any size: the low-rank part still takes error away.
template <class Store>
void check_magnitudes() {
  for (const double size : {3e-8, 1e-7, 1e-6, 1e-4, 1.0, 1e3}) {
    Heads x = random_heads(96, 32, 11);
    for (Matrix& head : x) { head *= size; }
    const auto codes = encoded<Store>(x, GearOptions<20>{.prompt_rank = 0, .sparsity = 0.0});
    const auto outliers = encoded<Store>(x, GearOptions<20>{.prompt_rank = 0, .sparsity = 0.05});
    const auto all = encoded<Store>(x, GearOptions<20>{.prompt_rank = 4, .sparsity = 0.05});
    for (std::size_t h = 0; h < 2; ++h) {
      const auto parts = codes.stores[h].body()[0].codes();
      const Matrix rest = (x[h] - codes.decoded(h)).cwiseAbs();
      double step = 0.0;
      for (std::size_t i = 0; i < (Store::scope == Scope::lane ? 32U : 96U); ++i) {
        step = std::max(step, static_cast<double>(static_cast<float>(parts.scales[i])));
      }
      const double rounding = 0x1p-25 + 0x1p-11 * x[h].cwiseAbs().maxCoeff();  // of the exact rows that codes are made of
      EXPECT_LE(rest.maxCoeff(), 0.5 * step + rounding) << size;
      EXPECT_LE(error(x, outliers, h), error(x, codes, h) * 1.01) << size;
      EXPECT_LE(error(x, all, h), error(x, outliers, h) * 1.01) << size;
      if (size >= 1e-6) { EXPECT_LE(error(x, all, h), error(x, outliers, h) * 0.97) << size; }
    }
  }
}
TEST(GearInvariants, HoldForTinyAndLargeNumbersInSixteenBits) {
  check_magnitudes<GearKeys<2, Kcvt, half>>();
  check_magnitudes<GearValues<2, Kcvt, ValueVectors::layer, half>>();
}

TEST(GearInvariants, ThePowerIterationIsAProjectionAndNeverBeatsTheBestRank) {
  std::mt19937 rng(6);
  for (const auto& [rows, dim, rank] : {std::array<std::size_t, 3>{60, 20, 4}, {5, 30, 5}, {40, 8, 8}, {30, 12, 1}}) {
    const auto t = static_cast<Index>(rows);
    const auto d = static_cast<Index>(dim);
    Matrix x = random_matrix(rng, t, d);
    if (rank == 1) { x = x.col(0) * x.row(0); }  // one direction only: further vectors vanish
    const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> e = x.cast<float>();
    const std::size_t width = rank == 1 ? 3 : rank;
    const auto r = static_cast<Index>(width);
    double before = e.norm();
    for (const std::size_t sweeps : {1U, 2U, 3U, 8U, 60U}) {
      Matrix p = random_matrix(rng, d, r);
      Matrix q(t, r);
      gear::power_iteration(e.data(), rows, dim, width, sweeps, p.data(), q.data());
      const Matrix gram = q.transpose() * q;
      for (Index j = 0; j < r; ++j) { EXPECT_TRUE(std::abs(gram(j, j) - 1.0) < 1e-12 || q.col(j).isZero()); }
      EXPECT_LE((gram - Matrix(gram.diagonal().asDiagonal())).cwiseAbs().maxCoeff(), 1e-12);
      const Matrix rest = e.cast<double>() - q * p.transpose();
      const auto singular = Eigen::JacobiSVD<Matrix>(e.cast<double>()).singularValues();
      const double best = r < singular.size() ? singular.tail(singular.size() - r).norm() : 0.0;
      EXPECT_GE(rest.norm(), best * (1 - 1e-9));
      EXPECT_LE(rest.norm(), e.norm());
      if (sweeps == 60) { EXPECT_LE(rest.norm(), best * 1.02 + 1e-5); }
      if (rank == width && rank == std::min(rows, dim)) { EXPECT_LE(rest.norm(), 1e-6 * before); }
    }
  }
}

TEST(GearInvariants, PermutedTokensDecodeToPermutedRows) {
  const Heads x = random_heads(90, 32, 7);
  std::mt19937 rng(7);
  std::vector<Index> order(90);
  std::iota(order.begin(), order.end(), Index{0});
  std::shuffle(order.begin(), order.end(), rng);
  Heads permuted;
  for (const Matrix& head : x) { permuted.emplace_back(head(order, Eigen::indexing::all)); }
  const auto check = [&]<class Store>(std::type_identity<Store>) {
    const auto straight = encoded<Store>(x, GearOptions<20>{.sparsity = 0.05});
    const auto shuffled = encoded<Store>(permuted, GearOptions<20>{.sparsity = 0.05});
    for (std::size_t h = 0; h < 2; ++h) {
      const Matrix expected = straight.decoded(h)(order, Eigen::indexing::all);
      EXPECT_LE((shuffled.decoded(h) - expected).cwiseAbs().maxCoeff(), 1e-5);
      const auto& a = straight.stores[h].body()[0];
      const auto& b = shuffled.stores[h].body()[0];
      for (std::size_t i = 0; i < a.rank() * 32; ++i) { EXPECT_NEAR(a.b()[i], b.b()[i], 1e-5) << "factor of the channels"; }
    }
  };
  check(std::type_identity<Keys>{});
  check(std::type_identity<Values>{});
}

TEST(GearInvariants, MergingAddsAtMostTheErrorOfEncodingWhatWasDecoded) {
  const Heads x = random_heads(240, 32, 8);
  const auto decode = [&](std::size_t merge) {
    GearLayer<Keys> layer(2, 32, GearOptions<20>{.merge = merge});
    for (std::size_t t = 0; t < 240; ++t) {
      layer.append(x, t, t + 1);
      layer.settle(false);
    }
    return layer;
  };
  const auto apart = decode(0);
  const auto merged = decode(4);
  ASSERT_EQ(apart.stores[0].body().size(), 12U);
  ASSERT_EQ(merged.stores[0].body().size(), 3U);
  for (std::size_t h = 0; h < 2; ++h) {
    const double second = (apart.decoded(h) - merged.decoded(h)).norm();
    EXPECT_LE(error(x, merged, h), error(x, apart, h) + second);
    EXPECT_LE(error(x, merged, h), 2.5 * error(x, apart, h));  // 2.2 measured, at 2 bits
  }
  MemoryReport many;
  MemoryReport few;
  apart.stores[0].account(many);
  merged.stores[0].account(few);
  EXPECT_LT(few.scales + few.factors, many.scales + many.factors);
}

}  // namespace gear_invariants_test
