// tests/quantization/rotated_test.cpp - rotated stores of keys: hard rows, and products with codes against products with decoded rows.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <cmath>
#include <iostream>
#include <random>
#include <string>
#include <vector>

#include "kvcompress/policies/rotated.hpp"
#include "support/hard_rows.hpp"

namespace rotated_test {

using namespace kvcompress;
using test::hard_rows;

constexpr std::size_t dim = 64;
constexpr std::size_t count = 40;
const Shape shape{.layers = 1, .query_heads = 1, .kv_heads = 1, .head_dim = dim};

/// Length of what decoded rows differ by, of their length; products of a query with codes must be those with decoded rows.
template <class Storage>
double loss(const std::string& kind) {
  const std::vector<float> rows = hard_rows(kind, count, dim, 3);
  const typename Storage::Options options{.residual = 0, .accumulation = Accumulation::exact};
  typename Storage::Keys keys(options, Site{0, 0, shape}, dim, {});
  for (std::size_t r = 0; r < count; ++r) { keys.append(rows.data() + r * dim); }
  Vector<float> scratch{Allocator<float>(Memory{})};
  keys.settle(scratch);
  EXPECT_EQ(keys.settled(), 32U);  // and 8 exact ones
  std::vector<float> queries = hard_rows("normal", count, dim, 3);
  queries.resize(dim);
  std::vector<float> framed = queries;
  keys.frame_queries(framed.data(), dim, 1);
  std::vector<float> logits(count);
  std::vector<float> room(keys.scratch_floats(dim, 1));
  keys.scores({0, count}, framed.data(), dim, 1, logits.data(), count, room.data());
  double differ = 0.0;
  double all = 0.0;
  std::vector<float> decoded(dim);
  for (std::size_t r = 0; r < count; ++r) {
    keys.read(r, decoded.data());
    double product = 0.0;
    double size = 1.0;
    for (std::size_t c = 0; c < dim; ++c) {
      const auto x = static_cast<double>(rows[r * dim + c]);
      const auto y = static_cast<double>(decoded[c]);
      EXPECT_TRUE(std::isfinite(y)) << kind;
      product += y * static_cast<double>(queries[c]);
      size += std::abs(y * static_cast<double>(queries[c]));
      if (r >= keys.settled()) { continue; }
      differ += (x - y) * (x - y);
      all += x * x;
    }
    EXPECT_NEAR(static_cast<double>(logits[r]), product, 1e-5 * size) << kind << ", row " << r;
  }
  const double share = all > 0.0 ? std::sqrt(differ / all) : std::sqrt(differ);
  std::cout << kind << " loses " << share << "\n";
  return share;
}

/// The signs before the rotation leave no row that the Hadamard matrix makes one large number.
template <class Storage>
void expect_little_lost() {
  for (const char* const kind : {"normal", "constant", "one sign", "outliers", "half scale"}) { EXPECT_LT(loss<Storage>(kind), 0.11); }
  EXPECT_EQ(loss<Storage>("zero"), 0.0);
}
TEST(Rotated, LosesLittleOfHardRows) { expect_little_lost<Rotated<4>::Storage>(); }
TEST(RotatedLevels, LoseLittleOfHardRows) { expect_little_lost<RotatedLevels<4>::Storage>(); }

}  // namespace rotated_test
