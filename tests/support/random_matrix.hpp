// tests/support/random_matrix.hpp - normal random matrices for the tests of the references.
// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <random>

#include "kvcompress/reference/attention.hpp"

namespace kvcompress::test {

inline reference::Matrix random_matrix(std::mt19937& rng, reference::Index rows, reference::Index columns) {
  std::normal_distribution<double> normal;
  reference::Matrix out(rows, columns);
  for (double& x : out.reshaped()) { x = normal(rng); }
  return out;
}

}  // namespace kvcompress::test
