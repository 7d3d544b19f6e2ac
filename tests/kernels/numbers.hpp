// tests/kernels/numbers.hpp - random numbers for the tests of the kernels.
// SPDX-License-Identifier: MIT
#pragma once

#include <random>
#include <vector>

namespace kvcompress::test {

inline std::vector<float> numbers(std::size_t count, std::mt19937& rng) {
  std::normal_distribution<float> normal;
  std::vector<float> out(count);
  for (float& x : out) { x = normal(rng); }
  return out;
}
template <class T>
std::vector<T> rounded(const std::vector<float>& from) {
  std::vector<T> to(from.size());
  for (std::size_t i = 0; i < from.size(); ++i) { to[i] = T(from[i]); }
  return to;
}

}  // namespace kvcompress::test
