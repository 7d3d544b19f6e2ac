// tests/support/hard_rows.hpp - rows that codes find hard.
// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstddef>
#include <random>
#include <string>
#include <vector>

namespace kvcompress::test {

/// Rows of one kind; "outliers" are three channels 60 times as large, "half scale" numbers near the largest of half.
inline std::vector<float> hard_rows(const std::string& kind, std::size_t count, std::size_t dim, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> rows(count * dim);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const float x = normal(random);
    const std::size_t c = i % dim;
    rows[i] = kind == "constant"     ? 3.0F
              : kind == "one sign"   ? 5.0F + std::abs(x)
              : kind == "outliers"   ? (c == 3 || c == 17 || c == 40 ? 60.0F * x : x)
              : kind == "half scale" ? std::copysign(60000.0F, x)
              : kind == "zero"       ? 0.0F
                                     : x;
  }
  return rows;
}

}  // namespace kvcompress::test
