// include/kvcompress/low_rank/fit_rotation.hpp - OSCAR's rotations, fitted to rows of a calibration text. Needs Eigen.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/low_rank/eigen_core.hpp"
// In this order.
#include <Eigen/Eigenvalues>
#include <bit>
#include <cmath>
#include <cstddef>
#include <span>
#include <vector>

#include "kvcompress/core/error.hpp"

/// FutureMLS-Lab/OSCAR@473ff3f9d29a:rotation/compute_kv_rotation.py. Keys are rotated by the second moment of the queries that meet them, values by that of
/// values weighted by how much their keys weigh: errors then fall where attention looks least.
namespace kvcompress::inline KVCOMPRESS_ABI {

/// Adds `share` times the mean of x x^T of `count` rows x, `dim` numbers each, one behind the other, to `moment`; of weights[r] x x^T where there are some.
inline void add_second_moment(const float* rows, std::size_t count, std::span<const double> weights, double share,
                              Eigen::MatrixXd& moment) {
  const auto dim = moment.rows();
  const Eigen::MatrixXd x =
      Eigen::Map<const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>(rows, static_cast<Eigen::Index>(count), dim)
          .cast<double>();
  share /= static_cast<double>(count);
  if (weights.empty()) {
    moment += share * x.transpose() * x;
  } else {
    moment += share * x.transpose() * Eigen::Map<const Eigen::VectorXd>(weights.data(), x.rows()).asDiagonal() * x;
  }
}
/// What the values of `count` keys weigh, given the second moment of the queries: k^T moment k, of mean 1.
inline std::vector<double> value_weights(const float* keys, std::size_t count, const Eigen::MatrixXd& moment) {
  std::vector<double> weights(count);
  double sum = 0.0;
  for (std::size_t r = 0; r < count; ++r) {
    const Eigen::VectorXd key =
        Eigen::Map<const Eigen::VectorXf>(keys + r * static_cast<std::size_t>(moment.rows()), moment.rows()).cast<double>();
    weights[r] = key.dot(moment * key);
    sum += weights[r];
  }
  for (double& weight : weights) { weight *= sum > 0.0 ? static_cast<double>(count) / sum : 0.0; }
  return weights;
}

enum class RotationForm {
  eigenvectors,     ///< U, by ascending eigenvalues
  hadamard,         ///< U H: every channel has its share of every eigenvector
  hadamard_spread,  ///< the same with channels in bit-reversed order: so has every group of them
};
/// The rotation of a second moment, (dim, dim), row by row, for LoadedRotation. H needs a power of two.
inline std::vector<float> fit_rotation(const Eigen::MatrixXd& moment, RotationForm form) {
  const auto dim = static_cast<std::size_t>(moment.rows());
  require(form == RotationForm::eigenvectors || std::has_single_bit(dim), ErrorCode::option, "fit_rotation: the width is ", dim,
          ", must be a power of two for a Hadamard matrix");
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(moment);
  const Eigen::MatrixXd& vectors = solver.eigenvectors();
  const auto bits = static_cast<unsigned>(std::bit_width(dim) - 1);
  std::vector<float> rotation(dim * dim);
  for (std::size_t j = 0; j < dim; ++j) {
    std::size_t column = j;
    for (unsigned b = 0; form == RotationForm::hadamard_spread && b < bits; ++b) {
      column = b == 0 ? j >> (bits - 1) & 1U : column | (j >> (bits - 1 - b) & 1U) << b;
    }
    for (std::size_t i = 0; i < dim; ++i) {
      double sum = 0.0;
      for (std::size_t k = 0; k < dim; ++k) {
        const double h = form == RotationForm::eigenvectors
                             ? (k == j ? 1.0 : 0.0)
                             : ((std::popcount(k & column) & 1) != 0 ? -1.0 : 1.0) / std::sqrt(static_cast<double>(dim));
        sum += vectors(static_cast<Eigen::Index>(i), static_cast<Eigen::Index>(k)) * h;
      }
      rotation[i * dim + j] = static_cast<float>(sum);
    }
  }
  return rotation;
}

}  // namespace kvcompress
