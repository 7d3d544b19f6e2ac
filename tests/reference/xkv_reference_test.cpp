// tests/reference/xkv_reference_test.cpp - xKV's reference: invariants and official vectors.
// SPDX-License-Identifier: MIT
#include "kvcompress/reference/xkv.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "support/random_matrix.hpp"
#include "support/xkv_cases.hpp"

namespace xkv_reference_test {

using namespace kvcompress;
using reference::Heads;
using reference::Index;
using reference::Matrix;
using reference::SharedBasis;
using reference::XkvGroup;
using test::random_matrix;

double square_error(const SharedBasis& shared, const std::vector<Heads>& layers) {
  double sum = 0.0;
  for (std::size_t l = 0; l < layers.size(); ++l) {
    for (std::size_t h = 0; h < layers[l].size(); ++h) {
      sum += (shared.reconstruct(static_cast<Index>(l), static_cast<Index>(h)) - layers[l][h]).squaredNorm();
    }
  }
  return sum;
}

std::vector<Heads> random_layers(std::mt19937& rng, Index layers, Index tokens) {
  std::vector<Heads> out;
  for (Index l = 0; l < layers; ++l) { out.push_back({random_matrix(rng, tokens, 4), random_matrix(rng, tokens, 4)}); }
  return out;
}

TEST(XkvReference, ErrorIsTheTailOfTheSpectrumAndFallsWithTheRank) {
  std::mt19937 rng(1);
  const auto layers = random_layers(rng, 3, 20);
  double before = 1e300;
  for (const Index rank : {1, 5, 12, 20, 100}) {
    const SharedBasis shared = reference::shared_basis(layers, rank);
    ASSERT_EQ(shared.rank(), std::min(rank, Index{20}));
    double tail = 0.0;
    for (Index i = rank; i < shared.singular_values.size(); ++i) { tail += shared.singular_values(i) * shared.singular_values(i); }
    const double error = square_error(shared, layers);
    EXPECT_NEAR(error, tail, 1e-9);
    EXPECT_LE(error, before);
    before = error;
  }
}

TEST(XkvReference, ColumnsOfTheBasisAreOrthogonalAndCoefficientsOrthonormal) {
  std::mt19937 rng(2);
  const SharedBasis shared = reference::shared_basis(random_layers(rng, 2, 30), 7);
  for (Index i = 0; i < 7; ++i) {
    for (Index j = 0; j < 7; ++j) {
      const double s = i == j ? shared.singular_values(i) : 0.0;
      EXPECT_NEAR(shared.basis.col(i).dot(shared.basis.col(j)), s * s, 1e-9);
      EXPECT_NEAR(shared.coefficients.row(i).dot(shared.coefficients.row(j)), i == j ? 1.0 : 0.0, 1e-12);
    }
  }
}

TEST(XkvReference, LayersThatShareATokenBasisAreExactAtItsRank) {
  std::mt19937 rng(3);
  const Matrix basis = random_matrix(rng, 25, 3);
  std::vector<Heads> layers;
  for (int l = 0; l < 4; ++l) { layers.push_back({basis * random_matrix(rng, 3, 4), basis * random_matrix(rng, 3, 4)}); }
  EXPECT_LE(square_error(reference::shared_basis(layers, 3), layers), 1e-20);
  EXPECT_GT(square_error(reference::shared_basis(layers, 2), layers), 1.0);
}

TEST(XkvReference, OrderOfLayersDoesNotMatterAndAGroupIsNoBetterThanItsLayers) {
  std::mt19937 rng(4);
  const auto layers = random_layers(rng, 3, 20);
  const std::vector<Heads> turned{layers[2], layers[0], layers[1]};
  const SharedBasis a = reference::shared_basis(layers, 6);
  const SharedBasis b = reference::shared_basis(turned, 6);
  double alone = 0.0;
  for (Index l = 0; l < 3; ++l) {
    EXPECT_LE(conformance::deviation(a.reconstruct(l, 1), b.reconstruct((l + 1) % 3, 1)), 1e-10);
    const std::vector<Heads> one{layers[static_cast<std::size_t>(l)]};
    alone += square_error(reference::shared_basis(one, 6), one);
  }
  EXPECT_GE(square_error(a, layers), alone);
}

TEST(XkvReference, GroupsCutTheLayersAndLeaveARest) {
  const auto firsts = [](const std::vector<XkvGroup>& groups) {
    std::vector<Index> out;
    for (const XkvGroup& group : groups) { out.insert(out.end(), {group.first, group.layers}); }
    return out;
  };
  EXPECT_EQ(firsts(reference::xkv_groups(8, {.layers_per_group = 3})), (std::vector<Index>{0, 3, 3, 3, 6, 2}));
  EXPECT_EQ(firsts(reference::xkv_groups(8, {.layers_per_group = 4, .first_layer = 2, .last_layer = 5})), (std::vector<Index>{2, 4}));
  EXPECT_EQ(firsts(reference::xkv_groups(2, {.layers_per_group = 1})), (std::vector<Index>{0, 1, 1, 1}));
}

TEST(XkvReference, OnlyTheLayersOfAGroupChangeAndDecodedRowsStay) {
  std::mt19937 rng(5);
  const auto k = random_layers(rng, 4, 12);
  const auto v = random_layers(rng, 4, 12);
  const XkvGroup group{.first = 1, .layers = 2, .rank_keys = 3, .rank_values = 0};
  reference::XkvState state(4, {group});
  for (Index l = 0; l < 4; ++l) {
    const auto at = static_cast<std::size_t>(l);
    state.append(l, k[at], v[at]);
    const auto exact = reference::attention(k[at][0], reference::rotate(k[at][0], reference::consecutive(0, 12)), v[at][0],
                                            reference::consecutive(0, 12), reference::consecutive(0, 12));
    EXPECT_EQ(state.attend(l, 0, k[at][0]).output, exact.output);  // before the end of the prompt
  }
  state.end_prompt();
  for (Index l = 0; l < 4; ++l) {
    const auto at = static_cast<std::size_t>(l);
    const bool compressed = l == 1 || l == 2;
    const Matrix exact = reference::rotate(k[at][1], reference::consecutive(0, 12));
    const Matrix keys = state.decoded_keys(l, 1);
    EXPECT_EQ(keys == exact, !compressed);
    EXPECT_EQ(state.decoded_values(l, 1), v[at][1]);
    const Heads next{random_matrix(rng, 1, 4), random_matrix(rng, 1, 4)};
    state.append(l, next, next);
    EXPECT_EQ(state.decoded_keys(l, 1).topRows(12), keys);
    EXPECT_EQ(state.decoded_keys(l, 1).bottomRows(1), reference::rotate(next[1], reference::consecutive(12, 1)));
    EXPECT_EQ(state.decoded_values(l, 1).bottomRows(1), next[1]);
  }
}

TEST(XkvReference, FoldingInIsLeastSquares) {
  std::mt19937 rng(6);
  const auto prompt = random_layers(rng, 2, 20);
  const auto next = random_layers(rng, 2, 3);
  SharedBasis shared = reference::shared_basis(prompt, 5);
  shared.fold_in(next);
  ASSERT_EQ(shared.basis.rows(), 23);
  // The residual of least squares is orthogonal to every row of the coefficients.
  const Matrix rows = SharedBasis::join_layers(next);
  for (Index t = 0; t < 3; ++t) {
    for (Index i = 0; i < 5; ++i) {
      double dot = 0.0;
      for (Index c = 0; c < rows.cols(); ++c) {
        double approximation = 0.0;
        for (Index j = 0; j < 5; ++j) { approximation += shared.basis(20 + t, j) * shared.coefficients(j, c); }
        dot += (rows(t, c) - approximation) * shared.coefficients(i, c);
      }
      EXPECT_NEAR(dot, 0.0, 1e-10);
    }
  }
}

TEST(XkvReference, FoldingInAtFullRankLosesNothing) {
  std::mt19937 rng(7);
  const auto x = random_layers(rng, 2, 30);
  reference::XkvState state(2, {{.first = 0, .layers = 2, .rank_keys = 16, .rank_values = 16}});
  for (Index l = 0; l < 2; ++l) { state.append(l, x[static_cast<std::size_t>(l)], x[static_cast<std::size_t>(l)]); }
  state.end_prompt();
  const auto next = random_layers(rng, 2, 4);
  for (Index l = 0; l < 2; ++l) { state.append(l, next[static_cast<std::size_t>(l)], next[static_cast<std::size_t>(l)]); }
  const Matrix before = state.decoded_keys(1, 0);
  state.fold_in();
  ASSERT_EQ(state.layers[1].keys[0].rows(), 0);
  EXPECT_LE(conformance::deviation(state.decoded_keys(1, 0), before), 1e-12);
  EXPECT_LE(conformance::deviation(state.decoded_values(1, 0).bottomRows(4), next[1][0]), 1e-12);
}

void svd(const conformance::Case& one) {
  const Heads k = conformance::heads(conformance::layers_of(one.any({"K_prerope_LHTd"})).front());
  const SharedBasis all = reference::shared_basis(std::vector<Heads>{k}, 1);
  int ranks = 0;
  for (Index rank = 1; rank <= all.singular_values.size(); ++rank) {
    const std::string name = "K0_r" + std::to_string(rank);
    if (!one.has(name)) { continue; }
    const Heads expected = conformance::heads(one.array(name));
    const SharedBasis shared = reference::shared_basis(std::vector<Heads>{k}, rank);
    conformance::Distance distance;
    for (std::size_t h = 0; h < k.size(); ++h) { distance.add(shared.reconstruct(0, static_cast<Index>(h)), expected[h]); }
    conformance::expect_reconstruction(one, name, distance);
    ++ranks;
  }
  if (ranks == 0) { throw conformance::NotCovered(one.path() + " has no array K0_r<rank>.npy"); }
  if (!one.has("singvals_K0")) { return; }
  const auto official = one.array("singvals_K0").values;
  double worst = 0.0;
  for (std::size_t i = 0; i < official.size(); ++i) {
    worst = std::max(worst, std::abs(official[i] - all.singular_values(static_cast<Index>(i))));
  }
  conformance::expect_within(one, "singular values", worst / official.front(), 1e-5);
}

void compare(const conformance::Case& one, const conformance::XkvCase& given) {
  const auto count = static_cast<Index>(given.keys.size());
  const reference::XkvOptions options{.layers_per_group = static_cast<Index>(given.layers_per_group),
                                      .rank_keys = static_cast<Index>(given.rank_keys),
                                      .rank_values = static_cast<Index>(given.rank_values),
                                      .first_layer = static_cast<Index>(given.first_layer),
                                      .last_layer = static_cast<Index>(given.end_layer) - 1};
  reference::XkvState state(count, reference::xkv_groups(count, options), given.rope);
  const auto values = [&](Index l) {
    return given.values.empty() ? Heads{} : conformance::heads(given.values[static_cast<std::size_t>(l)]);
  };
  for (Index l = 0; l < count; ++l) { state.append(l, conformance::heads(given.keys[static_cast<std::size_t>(l)]), values(l)); }
  state.end_prompt();
  const auto each = [&](const std::string& what, const std::vector<npy::Array>& expected, const auto& actual) {
    if (expected.empty()) { return; }
    conformance::Distance distance;
    for (Index l = 0; l < count; ++l) {
      const Heads heads = conformance::heads(expected.at(static_cast<std::size_t>(l)));
      for (Index h = 0; h < static_cast<Index>(heads.size()); ++h) { distance.add(actual(l, h), heads[static_cast<std::size_t>(h)]); }
    }
    conformance::expect_reconstruction(one, what, distance);
  };
  const auto keys = [&](Index l, Index h) { return state.decoded_keys(l, h); };
  each("rotated keys", given.keys_after_rope, keys);
  each("values", given.values_after, [&](Index l, Index h) { return state.decoded_values(l, h); });
  state.rope.reset();
  each("keys", given.keys_before_rope, keys);
  state.rope = given.rope;
  const auto steps = static_cast<Index>(given.decoded());
  if (steps == 0 || given.decode_keys.empty()) { return; }
  for (Index l = 0; l < count; ++l) {
    Heads next = conformance::heads(given.decode_keys[static_cast<std::size_t>(l)]);
    for (Matrix& head : next) { head = Matrix(head.topRows(steps)); }
    state.append(l, next, next);
  }
  each("keys after decode", given.keys_after_decode, keys);
}

TEST(XkvReference, OfficialVectors) {
  conformance::run_cases("xkv", {{"svd", svd},
                                 {"compress", [](const auto& one) { compare(one, conformance::xkv_compress_case(one)); }},
                                 {"mla", [](const auto& one) { compare(one, conformance::xkv_latents_case(one)); }}});
}

}  // namespace xkv_reference_test
