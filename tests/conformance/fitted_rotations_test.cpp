// tests/conformance/fitted_rotations_test.cpp - codes behind rotations that are fitted to a model, OSCAR's and RotateKV's, against the official ones.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "kvcompress/low_rank/fit_rotation.hpp"
#include "kvcompress/policies/oscar.hpp"
#include "support/codec_cases.hpp"

namespace fitted_rotations_test {

using namespace kvcompress;
using namespace kvcompress::conformance;

struct ClipOptions {
  std::size_t group = 0;
  double clip = 0.0;
  Accumulation accumulation = Accumulation::exact;
};
struct LevelOptions {
  std::size_t group = 0;
  Accumulation accumulation = Accumulation::exact;
  const LevelTable<2>* levels = &lloyd_max_levels<2>;
};

/// A matrix in the frame of a rotation: R^T C R.
Eigen::MatrixXd in_frame(const Eigen::MatrixXd& moment, const std::vector<float>& rotation) {
  const Eigen::MatrixXd r =
      Eigen::Map<const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>(rotation.data(), moment.rows(), moment.cols())
          .cast<double>();
  return r.transpose() * moment * r;
}
/// OSCAR's rotations fitted to rows; of eigenvectors, whose signs are free, what they make of the second moment.
void fit_rotation(const Case& one) {
  const auto objective = one.get<std::string>("objective");
  const npy::Array queries = one.array("q");
  const npy::Array keys = one.array("k");
  const npy::Array values = one.array("v");
  const std::size_t kv_heads = keys.shape[0];
  const std::size_t tokens = keys.shape[1];
  const std::size_t dim = keys.shape[2];
  const std::size_t group = queries.shape[0] / kv_heads;
  const auto q = queries.as<float>();
  const auto k = keys.as<float>();
  const auto v = values.as<float>();
  const auto width = static_cast<Eigen::Index>(dim);
  Eigen::MatrixXd moment = Eigen::MatrixXd::Zero(width, width);
  for (std::size_t h = 0; h < kv_heads; ++h) {
    const std::size_t at = h * tokens * dim;
    Eigen::MatrixXd of_queries = Eigen::MatrixXd::Zero(width, width);
    add_second_moment(q.data() + group * at, group * tokens, {}, 1.0, of_queries);
    const double share = 1.0 / static_cast<double>(kv_heads);
    if (objective == "qqt") {
      moment += share * of_queries;
    } else if (objective == "sst") {
      add_second_moment(v.data() + at, tokens, value_weights(k.data() + at, tokens, of_queries), share, moment);
    } else {
      add_second_moment(k.data() + at, tokens, {}, share, moment);
    }
  }
  const auto official = one.array("second_moment").as<double>();
  double error = 0.0;
  double top = 0.0;
  for (std::size_t i = 0; i < dim * dim; ++i) {
    top = std::max(top, std::abs(official[i]));
    error = std::max(error, std::abs(moment(static_cast<Eigen::Index>(i / dim), static_cast<Eigen::Index>(i % dim)) - official[i]));
  }
  expect_within(one, "second moment", error, 1e-5 * top);
  const std::pair<const char*, RotationForm> forms[] = {
      {"rot_plain", RotationForm::eigenvectors}, {"rot_r_h", RotationForm::hadamard}, {"rot_r_h_pbr", RotationForm::hadamard_spread}};
  for (const auto& [name, form] : forms) {
    if (!one.has(name)) { continue; }
    const auto ours = in_frame(moment, kvcompress::fit_rotation(moment, form));
    const auto theirs = in_frame(moment, one.array(name).as<float>());
    expect_within(one, std::string(name) + ", the second moment in its frame", (ours - theirs).cwiseAbs().maxCoeff(), 1e-5 * top);
  }
}
/// OSCAR's INT2: loaded rotations, rows cut at a percentile of their magnitudes, one group.
void rotated_int2(const Case& one) {
  for (const std::string name : {"k", "v"}) {
    const Table turned(one.array(name + "_rot"));
    const npy::Array x = one.array(name);
    const OscarStorage<2, float>::Options loaded{.key_rotations = LoadedNumbers(one.array("R_K").as<float>()),
                                                 .value_rotations = LoadedNumbers(one.array("R_V").as<float>())};
    const Shape shape{.query_heads = 1, .kv_heads = 1, .head_dim = turned.dim};
    const LoadedRotation<true> of_keys(loaded, Site{0, 0, shape}, turned.dim);
    const LoadedRotation<false> of_values(loaded, Site{0, 0, shape}, turned.dim);
    const std::size_t per_head = turned.rows() / x.shape[0];
    double rotation = 0.0;
    double back = 0.0;
    for (std::size_t r = 0; r < turned.rows(); ++r) {
      const Table all(x);
      const float* from = all.row(r / per_head * x.shape[1] + r % per_head);
      std::vector<float> row;
      const auto put = [&](std::size_t, const float* numbers, std::size_t count) { row.assign(numbers, numbers + count); };
      name == "k" ? of_keys.row(from, put) : of_values.row(from, put);
      for (std::size_t c = 0; c < turned.dim; ++c) {
        rotation = std::max(rotation, std::abs(static_cast<double>(row[c] - turned.row(r)[c])));
      }
      name == "k" ? of_keys.outputs(row.data(), turned.dim, 1) : of_values.outputs(row.data(), turned.dim, 1);
      for (std::size_t c = 0; c < turned.dim; ++c) { back = std::max(back, std::abs(static_cast<double>(row[c] - from[c]))); }
    }
    expect_within(one, name + " rotated", rotation, 2e-6 * largest_of(turned.data));
    expect_within(one, name + " rotated and back", back, 4e-6 * largest_of(turned.data));
    PerTokenKeys<ClippedCode<2, float>> rows(ClipOptions{.clip = one.get<double>("clip_" + name)}, turned.dim, {});
    rows.append(turned.data.data(), turned.rows());
    compare_rows(one, "decoded " + name, rows, turned.dim, one.array(name + "_dequant_rot").as<float>());
  }
}
/// Its Lloyd codes, decoded by the exact levels.
void rotated_int2_lloyd(const Case& one) {
  const Table turned(one.array("k_rot"));
  LevelTable<2> table = lloyd_max_levels<2>;
  const auto thresholds = one.get<std::vector<float>>("thresholds");  // 5e-4 off Lloyd's and Max's
  std::copy(thresholds.begin(), thresholds.end(), table.boundaries.begin());
  PerTokenKeys<CentredLevelCode<2, float>> keys(LevelOptions{.levels = &table}, turned.dim, {});
  keys.append(turned.data.data(), turned.rows());
  const auto code = one.array("code").as<int>();
  const auto dequant = one.array("dequant_exact_levels").as<float>();
  const auto deviations = one.array("std").as<float>();
  Codes codes;
  double error = 0.0;
  std::vector<float> row(turned.dim);
  for (std::size_t r = 0; r < turned.rows(); ++r) {
    keys.read(r, row.data());
    EXPECT_NEAR(keys.scale(r, 0), deviations[r], 1e-5F * deviations[r]);
    for (std::size_t c = 0; c < turned.dim; ++c) {
      codes.compare(keys.code(r, c), code[r * turned.dim + c]);
      if (keys.code(r, c) != code[r * turned.dim + c]) { continue; }
      error = std::max(error, std::abs(static_cast<double>(row[c] - dequant[r * turned.dim + c])) / static_cast<double>(keys.scale(r, c)));
    }
  }
  codes.finish(one, "keys");
  const double grid = static_cast<double>(lloyd_max_levels<2>.step) / 2 + 1e-3;  // their levels have four digits
  expect_within(one, "decoded keys, in deviations", error, grid);
}

/// RotateKV: a Hadamard matrix over some heads, channels in the order of their signed sums over calibration rows, groups with an integer zero point; values per
/// head. A lane of this library is one head, so rows of all heads are handed to the parts as one. What turns keys back is not repeated here.
template <int Bits>
void rotated_reordered_in(const Case& one) {
  const auto heads = one.get<std::size_t>("head_group");
  const auto guarded = one.has("guarded_tokens") ? one.array("guarded_tokens").as<std::size_t>() : std::vector<std::size_t>{};
  const auto wide = [&](const std::string& name) {  // (tokens, all heads)
    const npy::Array array = one.array(name);
    const auto numbers = array.as<float>();
    const std::size_t dim = array.shape[2];
    Table rows{npy::Array{{array.shape[1], array.shape[0] * dim}, {}}};
    for (std::size_t t = 0; t < array.shape[1]; ++t) {
      for (std::size_t c = 0; c < rows.dim; ++c) { rows.data.push_back(numbers[(c / dim * array.shape[1] + t) * dim + c % dim]); }
    }
    return rows;
  };
  const std::size_t block = heads * one.array("k_prerope").shape[2];
  const Table calibration = wide("k_calibration");
  const auto turned_calibration = rotated(calibration, block);
  std::vector<double> sums(calibration.dim);
  for (std::size_t i = 0; i < turned_calibration.size(); ++i) { sums[i % calibration.dim] += static_cast<double>(turned_calibration[i]); }
  std::vector<std::size_t> order(calibration.dim);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t x, std::size_t y) { return sums[x] < sums[y]; });
  EXPECT_EQ(order, one.array("reorder_index").as<std::size_t>());
  for (const std::string name : {"k", "v"}) {
    const Table x = wide(name == "k" ? "k_prerope" : "v");
    auto turned = rotated(x, name == "k" ? block : one.array("v").shape[2]);
    const auto as_they_were = turned;
    for (std::size_t i = 0; name == "k" && i < turned.size(); ++i) { turned[i] = as_they_were[i / x.dim * x.dim + order[i % x.dim]]; }
    PerTokenKeys<ZeroPointCode<Bits, float>> rows(
        ClipOptions{.group = one.get<std::size_t>(name == "k" ? "group" : "v_group"), .clip = one.get<double>("clip")}, x.dim, {});
    rows.append(turned.data(), x.rows());
    const Table official = wide(name + "_quant");
    Decoded decoded;
    std::vector<float> row(x.dim);
    for (std::size_t r = 0; r < x.rows(); ++r) {
      rows.read(r, row.data());
      const bool exact = std::find(guarded.begin(), guarded.end(), r) != guarded.end();
      for (std::size_t c = 0; c < x.dim; ++c) {
        decoded.compare(exact ? turned[r * x.dim + c] : row[c], official.row(r)[c], exact ? 0.0F : rows.scale(r, c));
      }
    }
    decoded.finish(one, "decoded " + name);
  }
}
void rotated_reordered(const Case& one) {
  const int bits = one.get<int>("bits");
  if (bits == 2) { return rotated_reordered_in<2>(one); }
  if (bits == 4) { return rotated_reordered_in<4>(one); }
  throw NotCovered(one.path() + ": " + std::to_string(bits) + " bits");
}

const Method oscar_rotation("oscar_rotation",
                            {{"fit_rotation", fit_rotation}, {"rotated_int2", rotated_int2}, {"rotated_int2_lloyd", rotated_int2_lloyd}});
/// Stores of keys and values in a fitted rotation: products with codes are those with decoded rows, and wrong matrices are refused.
TEST(FittedRotations, AttendOnCodes) {
  constexpr std::size_t dim = 32;
  constexpr std::size_t count = 40;
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  std::vector<float> rows(count * dim);
  for (float& x : rows) { x = normal(random); }
  Eigen::MatrixXd moment = Eigen::MatrixXd::Zero(dim, dim);
  add_second_moment(rows.data(), count, {}, 1.0, moment);
  using Storage = OscarStorage<2, half>;
  const Shape shape{.query_heads = 1, .kv_heads = 1, .head_dim = dim};
  Storage::Options options{.key_rotations = LoadedNumbers(kvcompress::fit_rotation(moment, RotationForm::hadamard)),
                           .value_rotations = LoadedNumbers(kvcompress::fit_rotation(moment, RotationForm::eigenvectors)),
                           .residual = 0,
                           .accumulation = Accumulation::exact};
  Storage::validate_shape(options, shape);
  Storage::Keys keys(options, Site{0, 0, shape}, dim, {});
  Storage::Values values(options, Site{0, 0, shape}, dim, {});
  Vector<float> scratch{Allocator<float>(Memory{})};
  for (std::size_t r = 0; r < count; ++r) {
    keys.append(rows.data() + r * dim);
    values.append(rows.data() + r * dim);
  }
  keys.settle(scratch);
  values.settle(scratch);
  ASSERT_EQ(keys.settled(), 32U);
  std::vector<float> query(rows.end() - dim, rows.end());
  std::vector<float> framed = query;
  keys.frame_queries(framed.data(), dim, 1);
  std::vector<float> logits(count);
  std::vector<float> room(std::max(keys.scratch_floats(dim, 1), values.scratch_floats(dim, 1)));
  keys.scores({0, count}, framed.data(), dim, 1, logits.data(), count, room.data());
  std::vector<float> out(dim);
  values.accumulate({0, count}, logits.data(), count, 1, out.data(), dim, room.data());
  values.unframe_outputs(out.data(), dim, 1);
  std::vector<double> sums(dim);
  std::vector<float> row(dim);
  double lost = 0.0;
  for (std::size_t r = 0; r < count; ++r) {
    keys.read(r, row.data());
    double product = 0.0;
    for (std::size_t c = 0; c < dim; ++c) {
      product += static_cast<double>(row[c]) * static_cast<double>(query[c]);
      lost += std::pow(static_cast<double>(row[c]) - static_cast<double>(rows[r * dim + c]), 2);
    }
    EXPECT_NEAR(static_cast<double>(logits[r]), product, 1e-3) << "row " << r;
    values.read(r, row.data());
    for (std::size_t c = 0; c < dim; ++c) { sums[c] += static_cast<double>(logits[r]) * static_cast<double>(row[c]); }
  }
  EXPECT_LT(std::sqrt(lost / static_cast<double>(rows.size())), 0.45);
  for (std::size_t c = 0; c < dim; ++c) { EXPECT_NEAR(static_cast<double>(out[c]), sums[c], 5e-2) << "channel " << c; }
  options.key_rotations = LoadedNumbers(std::vector<float>(dim * dim, 0.5F));
  EXPECT_THROW(Storage::validate_shape(options, shape), Error);
}
TEST(FittedRotations, ReproducesOscarsCodes) { oscar_rotation.run(); }
const Method rotatekv("rotatekv", {{"rotated_reordered", rotated_reordered}});
TEST(FittedRotations, ReproducesRotateKvsCodes) { rotatekv.run(); }

}  // namespace fitted_rotations_test
