// bench/factorisation/bdcsvd.cpp - the competitor: Eigen's divide-and-conquer SVD.
// SPDX-License-Identifier: MIT
#include "factorisation/bdcsvd.hpp"

#include <Eigen/SVD>
#include <chrono>

double bench::time_of_bdcsvd(const Eigen::Map<const Floats>& matrix, Eigen::Index rank, Floats& vectors) {
  const Eigen::MatrixXf by_column = matrix;
  const auto start = std::chrono::steady_clock::now();
  const Eigen::BDCSVD<Eigen::MatrixXf> svd(by_column, Eigen::ComputeThinU | Eigen::ComputeThinV);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  vectors = svd.matrixV().leftCols(rank);
  return seconds.count();
}
