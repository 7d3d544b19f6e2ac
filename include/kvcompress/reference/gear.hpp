// include/kvcompress/reference/gear.hpp - a quantised backbone, a low-rank residual and exact outliers.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/low_rank/eigen_core.hpp"

#include <Eigen/QR>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <vector>

#include "kvcompress/reference/attention.hpp"
#include "kvcompress/reference/kivi.hpp"

/// "GEAR: An Efficient KV Cache Compression Recipe for Near-Lossless Generative Inference of LLM" (arXiv:2403.05527), as in
/// opengear-project/GEAR@efe0bfe2b5a3 (GenerationBench/GenerationTest/GEARLM/Simulated/compress_function.py).
namespace kvcompress::inline KVCOMPRESS_ABI::reference {

/// Kcvt: a key group is a channel over the whole segment, a value group a token over all heads. Kivi: groups of `group`
/// tokens of a channel, or of `group` channels of a token and head.
enum class GearBackbone { kcvt, kivi };
enum class GearTensor { keys, values };
enum class GearFill { mean, zero };

struct GearOptions {
  GearTensor tensor = GearTensor::keys;
  GearBackbone backbone = GearBackbone::kcvt;
  int bits = 4;
  Index group = 64;
  double sparsity = 0.0;           // share of entries kept exact; 0 is GEAR-L
  GearFill fill = GearFill::mean;  // what outliers are while the rest is quantised
  Index rank = 4;
  int sweeps = 3;
  bool official_simulation = false;  // the official counts of key outliers, and D + S in fp16
};

/// One segment, by head: hat = restored + low_rank.
struct GearSegment {
  std::vector<Matrix> backbone{};  // (tokens, channels): what the codes stand for
  std::vector<Matrix> restored{};  // with the outliers put back
  std::vector<Matrix> low_rank{};
  std::vector<Eigen::Matrix<bool, Eigen::Dynamic, Eigen::Dynamic>> outlier{};

  [[nodiscard]] Matrix hat(std::size_t head) const { return restored[head] + low_rank[head]; }
};

/// The heads side by side: (tokens, heads * channels).
inline Matrix concatenate(const std::vector<Matrix>& heads) {
  Matrix all(heads.front().rows(), heads.front().cols() * static_cast<Index>(heads.size()));
  for (std::size_t h = 0; h < heads.size(); ++h) { all.middleCols(static_cast<Index>(h) * heads[h].cols(), heads[h].cols()) = heads[h]; }
  return all;
}
template <class M>
std::vector<M> by_head(const M& all, std::size_t heads) {
  std::vector<M> out;
  const Index width = all.cols() / static_cast<Index>(heads);
  for (std::size_t h = 0; h < heads; ++h) { out.push_back(all.middleCols(static_cast<Index>(h) * width, width)); }
  return out;
}

/// Indices of the `per_side` largest and the `per_side` smallest numbers, ascending; equal numbers: the lower index first. All of them if
/// that is more than there are.
inline std::vector<Index> choose_outliers(const Vector& x, Index per_side) {
  std::vector<Index> order(static_cast<std::size_t>(x.size()));
  std::iota(order.begin(), order.end(), Index{0});
  if (2 * per_side > x.size()) { return order; }
  std::vector<Index> chosen;
  for (const double sign : {1.0, -1.0}) {
    std::stable_sort(order.begin(), order.end(), [&](Index a, Index b) { return sign * x(a) > sign * x(b) || (x(a) == x(b) && a < b); });
    chosen.insert(chosen.end(), order.begin(), order.begin() + per_side);
  }
  std::sort(chosen.begin(), chosen.end());
  chosen.erase(std::unique(chosen.begin(), chosen.end()), chosen.end());
  return chosen;
}

/// Outliers on each side of a vector: floor(sparsity * length / 2), and the whole vector from sparsity 1 on. The official code counts those of
/// key channels as if they were value tokens: floor(floor(sparsity * numbers) / tokens / 2).
inline Index outliers_per_side(const GearOptions& options, Index heads, Index tokens, Index channels) {
  if (options.official_simulation) {
    const double numbers = static_cast<double>(heads * tokens * channels);
    return static_cast<Index>(std::floor(std::floor(numbers * options.sparsity) / static_cast<double>(tokens) / 2.0));
  }
  const Index length = options.tensor == GearTensor::keys ? tokens : heads * channels;
  return options.sparsity >= 1.0 ? length : static_cast<Index>(std::floor(options.sparsity * static_cast<double>(length) / 2.0));
}

/// What the codes of (tokens, heads * channels) stand for. Kivi's key tokens beyond the last whole group stay exact.
inline Matrix gear_backbone(const Matrix& x, std::size_t heads, const GearOptions& options) {
  const bool kcvt = options.backbone == GearBackbone::kcvt;
  if (options.tensor == GearTensor::keys) {
    const Index group = kcvt ? x.rows() : options.group;
    Matrix out = x;
    const Index whole = x.rows() / group * group;
    if (whole > 0) { out.topRows(whole) = dequantize(quantize(Matrix(x.topRows(whole)), GroupAxis::tokens, options.bits, group)); }
    return out;
  }
  if (kcvt) { return dequantize(quantize(x, GroupAxis::channels, options.bits, x.cols())); }
  std::vector<Matrix> parts = by_head(x, heads);
  for (Matrix& part : parts) { part = dequantize(quantize(part, GroupAxis::channels, options.bits, options.group)); }
  return concatenate(parts);
}

/// Orthonormal columns that span those of x.
inline Matrix orthonormal(const Matrix& x) { return Eigen::HouseholderQR<Matrix>(x).householderQ() * Matrix::Identity(x.rows(), x.cols()); }

/// A rank-r approximation of e (tokens, channels) by power iteration from `start` (channels, r): Q Q^T e, where Q spans about the r leading
/// left singular vectors.
inline Matrix power_iteration(const Matrix& e, const Matrix& start, int sweeps) {
  Matrix p = start.leftCols(std::min({start.cols(), e.rows(), e.cols()}));
  if (p.cols() == 0) { return Matrix::Zero(e.rows(), e.cols()); }
  Matrix q;
  for (int sweep = 1; sweep <= sweeps; ++sweep) {
    const bool last = sweep == sweeps;
    if (last) { p = orthonormal(p); }
    q = e * p;
    if (last) { q = orthonormal(q); }
    p = e.transpose() * q;
  }
  return q * p.transpose();
}

/// Compresses one segment; `starts` holds the start of the power iteration of each head, (channels, rank).
inline GearSegment gear_compress(const std::vector<Matrix>& heads, const std::vector<Matrix>& starts, const GearOptions& options) {
  const Matrix x = concatenate(heads);
  const bool keys = options.tensor == GearTensor::keys;
  const Index per_side = outliers_per_side(options, static_cast<Index>(heads.size()), x.rows(), heads.front().cols());
  Eigen::Matrix<bool, Eigen::Dynamic, Eigen::Dynamic> outlier(x.rows(), x.cols());
  outlier.setConstant(false);
  Matrix filled = x;
  for (Index line = 0; line < (keys ? x.cols() : x.rows()); ++line) {  // a key vector is a channel, a value vector a token
    const Vector vector = keys ? Vector(x.col(line)) : Vector(x.row(line).transpose());
    const double fill = options.fill == GearFill::mean ? RoundToFloat{}(vector.mean()) : 0.0;
    for (const Index i : choose_outliers(vector, per_side)) {
      outlier(keys ? i : line, keys ? line : i) = true;
      filled(keys ? i : line, keys ? line : i) = fill;
    }
  }
  const Matrix backbone = gear_backbone(filled, heads.size(), options);
  Matrix restored = outlier.select(x, backbone);
  if (options.official_simulation && options.sparsity > 0.0) { restored = restored.unaryExpr(RoundToHalf{}); }
  GearSegment out{by_head(backbone, heads.size()), by_head(restored, heads.size()), {}, by_head(outlier, heads.size())};
  for (std::size_t h = 0; h < heads.size(); ++h) {
    const Matrix error = heads[h] - out.restored[h];
    out.low_rank.push_back(options.rank == 0 ? Matrix::Zero(x.rows(), heads[h].cols())
                                             : power_iteration(error, starts.at(h), options.sweeps));
  }
  return out;
}

}  // namespace kvcompress::reference
