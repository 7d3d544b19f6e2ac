// tests/reference/kivi_reference_test.cpp - KIVI's reference: invariants and official vectors.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kvcompress/reference/kivi.hpp"
#include "support/cases.hpp"
#include "support/random_matrix.hpp"

namespace kivi_reference_test {

using namespace kvcompress;
using reference::GroupAxis;
using reference::Index;
using reference::Matrix;
using reference::Vector;
using test::random_matrix;

TEST(KiviReference, RoundsHalvesToEven) {
  EXPECT_EQ(reference::round_half_even(0.5), 0.0);
  EXPECT_EQ(reference::round_half_even(1.5), 2.0);
  EXPECT_EQ(reference::round_half_even(2.5), 2.0);
  EXPECT_EQ(reference::round_half_even(2.500001), 3.0);
  EXPECT_EQ(reference::round_half_even(-1.5), -2.0);
}

TEST(KiviReference, HalvesRoundAsTheFormatSays) {
  const reference::RoundToHalf half;
  EXPECT_EQ(half(2049.0), 2048.0);
  EXPECT_EQ(half(2051.0), 2052.0);
  EXPECT_EQ(half(0.1), 0.0999755859375);
  EXPECT_EQ(half(-65519.0), -65504.0);
  EXPECT_EQ(half(65520.0), std::numeric_limits<double>::infinity());
  EXPECT_EQ(half(std::ldexp(1.0, -24)), std::ldexp(1.0, -24));
  EXPECT_EQ(half(std::ldexp(1.0, -25)), 0.0);
  EXPECT_EQ(half(std::ldexp(3.0, -25)), std::ldexp(1.0, -23));
}

[[gnu::noinline]] void round_two(double* out, double a, double b) {
  out[0] = reference::RoundToFloat{}(a);
  out[1] = reference::RoundToFloat{}(b);
}

TEST(KiviReference, NeighboursInMemoryRoundToFloat) {
  const volatile double inputs[2] = {0.1, 0.7};  // volatile: not rounded by the compiler
  std::vector<double> rounded(2);
  round_two(rounded.data(), inputs[0], inputs[1]);
  EXPECT_EQ(rounded, (std::vector<double>{0x1.99999ap-4, 0x1.666666p-1}));
}

TEST(KiviReference, ErrorIsHalfAStepAndEndsAreExact) {
  std::mt19937 rng(1);
  using Exact = reference::RoundToDouble;
  const Matrix x = random_matrix(rng, 70, 10);
  for (const int bits : {1, 2, 3, 4, 8}) {
    for (const GroupAxis axis : {GroupAxis::tokens, GroupAxis::channels}) {
      const auto q = reference::quantize<Exact, Exact>(x, axis, bits, 32);
      const Matrix y = reference::dequantize<Exact>(q);
      EXPECT_LE(conformance::deviation(x, y), q.scale.maxCoeff() / 2 * (1 + 1e-12));
      EXPECT_EQ(q.codes.minCoeff(), 0);
      EXPECT_EQ(q.codes.maxCoeff(), (1 << bits) - 1);
      EXPECT_EQ((reference::quantize<Exact, Exact>(y, axis, bits, 32).codes), q.codes);  // idempotent
      EXPECT_EQ((reference::quantize<Exact, Exact>(4.0 * x, axis, bits, 32).codes), q.codes);
    }
  }
}

TEST(KiviReference, HalfScalesStayWithinTheirBound) {
  std::mt19937 rng(2);
  const Matrix x = 50.0 * random_matrix(rng, 64, 8);
  const auto q = reference::quantize<reference::RoundToHalf>(x, GroupAxis::tokens, 4, 32);
  const double step = q.scale.maxCoeff();
  const double bound = step / 2 + 15 * std::ldexp(step, -11) + std::ldexp(q.minimum.cwiseAbs().maxCoeff(), -11);
  EXPECT_LE(conformance::deviation(x, reference::dequantize(q)), bound * (1 + 1e-6));
}

TEST(KiviReference, ConstantGroupsHaveCodesOfZero) {
  const auto q = reference::quantize(Matrix::Constant(32, 3, -2.5), GroupAxis::tokens, 2, 32);
  EXPECT_EQ(q.codes, Eigen::MatrixXi::Zero(32, 3));
  EXPECT_EQ(reference::dequantize(q), Matrix::Constant(32, 3, -2.5));
}

TEST(KiviReference, PacksTheFirstCodeLowest) {
  EXPECT_EQ(reference::pack(std::vector<int>{1, 2, 3}, 2), (std::vector<std::uint32_t>{0x39U}));
  EXPECT_EQ(reference::pack(std::vector<int>{1, 0, 0, 0, 0, 0, 0, 15, 2}, 4), (std::vector<std::uint32_t>{0xF0000001U, 2U}));
}

TEST(KiviReference, StateDependsOnTheTokensNotOnTheSteps) {
  std::mt19937 rng(3);
  const Matrix k = random_matrix(rng, 75, 8);
  const Matrix v = random_matrix(rng, 75, 8);
  const reference::KiviOptions options{.bits = 2, .group = 4, .residual = 8};
  reference::KiviState<> whole{.options = options};
  whole.append(k, v);
  whole.commit();
  for (const Index chunk : {1, 3, 8, 20}) {
    reference::KiviState<> parts{.options = options};
    for (Index first = 0; first < 75; first += chunk) {
      const Index count = std::min(chunk, 75 - first);
      parts.append(k.middleRows(first, count), v.middleRows(first, count));
      parts.commit();
      ASSERT_EQ(parts.rows(), first + count);
      ASSERT_EQ(parts.keys.codes.rows() % 8, 0);
      ASSERT_LT(parts.key_residual.rows(), 8);
      ASSERT_EQ(parts.value_residual.rows(), std::min(first + count, Index{8}));
    }
    EXPECT_EQ(parts.decoded_keys(), whole.decoded_keys());
    EXPECT_EQ(parts.decoded_values(), whole.decoded_values());
  }
}

TEST(KiviReference, ExactWhileTheResidualHoldsEverything) {
  std::mt19937 rng(4);
  const Matrix k = random_matrix(rng, 20, 8);
  const auto at = reference::consecutive(0, 20);
  reference::KiviState<> state{.options = {.residual = 32}};
  state.append(k, k);
  state.commit();
  EXPECT_EQ(state.attend(k).output, reference::attention(k, k, k, at, at).output);
}

// Codes of one lane that differ; none may differ by more than one.
Index flipped(const Matrix& codes, const Matrix& expected) {
  EXPECT_LE(conformance::deviation(codes, expected), 1.0);
  return (codes.array() != expected.array()).count();
}

// The words of (tokens, channels) codes, packed along the group axis, in the order of the official array.
Matrix packed(const reference::QuantizedMatrix& q, int bits) {
  const bool along_tokens = q.axis == GroupAxis::tokens;
  const Eigen::MatrixXi lines = along_tokens ? Eigen::MatrixXi(q.codes.transpose()) : q.codes;
  Matrix out(lines.rows(), (lines.cols() * bits + 31) / 32);
  for (Index line = 0; line < lines.rows(); ++line) {
    const Eigen::VectorXi codes = lines.row(line).transpose();
    const auto words = reference::pack({codes.data(), static_cast<std::size_t>(codes.size())}, bits);
    for (Index w = 0; w < out.cols(); ++w) {
      out(line, w) = static_cast<double>(static_cast<std::int32_t>(words[static_cast<std::size_t>(w)]));
    }
  }
  return along_tokens ? Matrix(out.transpose()) : out;
}

void quantize(const conformance::Case& one, const std::string& input, GroupAxis axis) {
  const auto x = conformance::heads(one.array(input));
  const auto codes = conformance::heads(one.array("q_int"));
  const auto words = conformance::heads(one.array("code_i32"));
  const auto scale = conformance::heads(one.array("scale"));
  const auto minimum = conformance::heads(one.array("zero_min"));
  const auto dequant = conformance::heads(one.array("dequant"));
  double worst = 0.0;
  for (std::size_t h = 0; h < x.size(); ++h) {
    const auto q = reference::quantize(x[h], axis, one.get<int>("bits"), one.get<Index>("group"));
    EXPECT_EQ(q.codes.cast<double>(), codes[h]);
    EXPECT_EQ(packed(q, one.get<int>("bits")), words[h]);
    EXPECT_EQ(q.scale, scale[h]);
    EXPECT_EQ(q.minimum, minimum[h]);
    worst = std::max(worst, conformance::deviation(reference::dequantize(q), dequant[h]));
  }
  conformance::expect_within(one, "dequantised", worst, 0.0);
}

// One group per column; 2-bit codes unless the case says otherwise.
void rounding(const conformance::Case& one) {
  const Matrix x = conformance::matrix(one.array("x"));
  const auto q = reference::quantize(x, GroupAxis::tokens, one.params.value("bits", 2), x.rows());
  EXPECT_EQ(q.minimum, conformance::matrix(one.array("zero_min")));
  const Matrix scale = conformance::matrix(one.array("scale"));
  const Matrix codes = conformance::matrix(one.array("q_int"));
  for (Index c = 0; c < x.cols(); ++c) {
    SCOPED_TRACE(c);
    EXPECT_EQ(q.codes.col(c).cast<double>(), codes.col(c));
    if (q.scale(0, c) != 0.0) { EXPECT_EQ(q.scale(0, c), scale(0, c)); }  // constant column: the official probe notes 1
  }
}

// Arrays "final_k_..." are (heads, channels, ...), "final_v_..." are (heads, tokens, ...).
Index compare_final(const conformance::Case& one, const reference::KiviState<>& state, std::size_t h, int bits) {
  const auto of = [&](const std::string& name) { return conformance::heads(one.array(name)).at(h); };
  Index count = 0;
  const auto unpack = [&](const Matrix& words, Index length) {
    Matrix codes(words.rows(), length);
    for (Index line = 0; line < codes.rows(); ++line) {
      for (Index i = 0; i < length; ++i) {
        const auto word = static_cast<std::uint32_t>(static_cast<std::int32_t>(words(line, i * bits / 32)));
        codes(line, i) = static_cast<double>(word >> (i * bits % 32) & ((1U << bits) - 1U));
      }
    }
    return codes;
  };
  if (state.keys.codes.rows() > 0) {
    const Matrix expected = unpack(of("final_k_code_HDt"), state.keys.codes.rows());
    count += flipped(state.keys.codes.transpose().cast<double>(), expected);
    EXPECT_LE(conformance::deviation(state.keys.scale.transpose(), of("final_k_scale_HDg")), 1e-4);
    EXPECT_LE(conformance::deviation(state.keys.minimum.transpose(), of("final_k_min_HDg")), 1e-4);
  }
  if (state.values.codes.rows() > 0) {
    const Matrix expected = unpack(of("final_v_code_HTd"), state.values.codes.cols());
    EXPECT_EQ(flipped(state.values.codes.cast<double>(), expected), 0) << "values are not rotated, so their codes are exact";
    EXPECT_EQ(state.values.scale, of("final_v_scale_HTg"));
    EXPECT_EQ(state.values.minimum, of("final_v_min_HTg"));
  }
  return count;
}

void stream(const conformance::Case& one) {
  const auto q = conformance::heads(one.array("q_prerope"));
  const auto k = conformance::heads(one.array("k_prerope"));
  const auto v = conformance::heads(one.array("v"));
  const auto out = conformance::heads(one.array("out"));
  const Matrix lengths = conformance::matrix(one.array("len_kq_kf_vq_vf_total"));
  const Index prompt = one.get<Index>("prompt");
  const Index steps = one.get<Index>("steps");
  ASSERT_EQ(lengths.rows(), steps + 1);
  const std::size_t group = q.size() / k.size();
  if (one.rope().pairing != reference::Pairing::half) { throw conformance::NotCovered(one.path() + ": interleaved pairs"); }
  double worst = 0.0;
  double largest = 0.0;
  Index flips = 0;
  Index key_codes = 0;
  for (std::size_t h = 0; h < q.size(); ++h) {
    const auto at = reference::consecutive(0, q[h].rows());
    const Matrix queries = conformance::rotate_in_float(q[h], at, one.rope().theta);
    const Matrix keys = conformance::rotate_in_float(k[h / group], at, one.rope().theta);
    reference::KiviState<> state{
        .options = {.bits = one.get<int>("bits"), .group = one.get<Index>("group"), .residual = one.get<Index>("residual")}};
    for (Index step = 0; step <= steps; ++step) {
      const Index first = step == 0 ? 0 : prompt + step - 1;
      const Index count = step == 0 ? prompt : 1;
      state.append(keys.middleRows(first, count), v[h / group].middleRows(first, count));
      const Matrix expected = out[h].middleRows(first, count);
      worst = std::max(worst, conformance::deviation(state.attend(queries.middleRows(first, count)).output, expected));
      largest = std::max(largest, expected.cwiseAbs().maxCoeff());
      state.commit();
      const Matrix actual{{static_cast<double>(state.keys.codes.rows()), static_cast<double>(state.key_residual.rows()),
                           static_cast<double>(state.values.codes.rows()), static_cast<double>(state.value_residual.rows()),
                           static_cast<double>(state.rows())}};
      ASSERT_EQ(actual, Matrix(lengths.row(step))) << "step " << step;
    }
    if (h % group == 0) {
      flips += compare_final(one, state, h / group, one.get<int>("bits"));
      key_codes += state.keys.codes.size();
    }
  }
  // Codes depend on the last digit of the official sines; a flipped one is allowed and widens the bound.
  conformance::expect_within(one, "share of flipped key codes",
                             static_cast<double>(flips) / static_cast<double>(std::max(key_codes, Index{1})), 1e-4);
  conformance::expect_within(one, "out", worst, flips == 0 ? 5e-5 : 1e-3 * largest);
}

TEST(KiviReference, OfficialVectors) {
  conformance::run_cases("kivi", {{"quantize_keys", [](const auto& one) { quantize(one, "k_postrope", GroupAxis::tokens); }},
                                  {"quantize_values", [](const auto& one) { quantize(one, "v", GroupAxis::channels); }},
                                  {"rounding", rounding},
                                  {"stream", stream}});
}

}  // namespace kivi_reference_test
