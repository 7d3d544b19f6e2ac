// tests/support/codec_cases.hpp - rows of a case as a table, rotated rows, and codes compared with the official ones.
// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include "kvcompress/quantization/frame.hpp"
#include "support/cases.hpp"

namespace kvcompress::conformance {

/// Rows (rows, dim) of all heads of an array, one behind the other.
struct Table {
  explicit Table(const npy::Array& array) : dim(array.shape.back()), data(array.as<float>()) {}
  [[nodiscard]] std::size_t rows() const { return data.size() / dim; }
  [[nodiscard]] const float* row(std::size_t r) const { return data.data() + r * dim; }

  std::size_t dim;
  std::vector<float> data;
};

/// Rows as BlockHadamard holds them, times the factor that makes the rotation orthogonal.
inline std::vector<float> rotated(const Table& x, std::size_t block) {
  std::vector<float> out(x.data.size());
  for (std::size_t r = 0; r < x.rows(); ++r) {
    BlockHadamard(x.dim, block).row(x.row(r), [&](std::size_t first, const float* numbers, std::size_t count) {
      for (std::size_t i = 0; i < count; ++i) { out[r * x.dim + first + i] = numbers[i] * std::sqrt(static_cast<float>(block)); }
    });
  }
  return out;
}
inline double largest_of(const std::vector<float>& x) {
  double top = 0.0;
  for (const float number : x) { top = std::max(top, std::abs(static_cast<double>(number))); }
  return top;
}

/// Codes may differ from the official ones by one in a thousandth of the numbers.
class Codes {
 public:
  void compare(int ours, int theirs) {
    ++all_;
    if (ours == theirs) { return; }
    ++differ_;
    EXPECT_EQ(std::abs(ours - theirs), 1);
  }
  void finish(const Case& one, const std::string& what) const {
    expect_within(one, what + ", share of codes", static_cast<double>(differ_) / static_cast<double>(all_), 1e-3);
  }

 private:
  std::size_t all_ = 0;
  std::size_t differ_ = 0;
};

/// What a codec decodes against official rows: one step in a thousandth of the numbers, else 2e-6 of the largest.
class Decoded {
 public:
  void compare(float ours, float theirs, float scale) {
    ++all_;
    largest_ = std::max(largest_, std::abs(static_cast<double>(theirs)));
    const double off = std::abs(static_cast<double>(ours - theirs));
    if (scale > 0.0F && off > 0.5 * static_cast<double>(scale)) {
      ++steps_;
      EXPECT_LT(off, 1.01 * static_cast<double>(scale));
    } else {
      error_ = std::max(error_, off);
    }
  }
  void finish(const Case& one, const std::string& what) const {
    expect_within(one, what + ", share of steps", static_cast<double>(steps_) / static_cast<double>(all_), 1e-3);
    expect_within(one, what, error_, 2e-6 * largest_);
  }

 private:
  std::size_t all_ = 0;
  std::size_t steps_ = 0;
  double largest_ = 0.0;
  double error_ = 0.0;
};
/// Rows as `keys` decodes them, against an official array of them.
inline void compare_rows(const Case& one, const std::string& what, const auto& keys, std::size_t dim, const std::vector<float>& official,
                         std::size_t first = 0) {
  Decoded decoded;
  std::vector<float> row(dim);
  for (std::size_t r = 0; r < keys.rows(); ++r) {
    keys.read(r, row.data());
    for (std::size_t c = 0; c < dim; ++c) {
      decoded.compare(row[c], official[(first + r) * dim + c], static_cast<float>(keys.scale(r, c)));
    }
  }
  decoded.finish(one, what);
}

}  // namespace kvcompress::conformance
