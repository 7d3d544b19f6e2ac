// tests/package/low_rank_consumer.cpp - a program outside the project that uses the headers that need Eigen.
// SPDX-License-Identifier: MIT
#include <Eigen/Core>
#include <kvcompress/kvcompress.hpp>
#include <kvcompress/reference/attention.hpp>

int main() {
  const Eigen::MatrixXd identity = Eigen::MatrixXd::Identity(2, 2);
  return identity.trace() == 2.0 ? 0 : 1;
}
