// tests/conformance/swiftkv_test.cpp - which layer reads the rows of which, against the official implementation.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include "kvcompress/policies/swiftkv.hpp"
#include "support/cases.hpp"

namespace swiftkv_test {

using namespace kvcompress;
using conformance::Case;

void layer_map(const Case& one) {
  const auto layers = one.params.at("layers").get<std::size_t>();
  const std::vector<Shape> each = SwiftKV::each({.layers = layers}, one.params.at("num_key_value_layers").get<std::size_t>(),
                                                one.params.at("key_value_group_size").get<std::size_t>());
  const Shape shape{.layers = layers, .each = each.data()};
  shape.validate();
  const auto official = one.array("store_of_layer").as<int>();  // numbers of stores
  std::size_t stores = 0;
  for (std::size_t a = 0; a < layers; ++a) {
    stores += shape.owns(a) ? 1U : 0U;
    for (std::size_t b = 0; b < layers; ++b) {
      EXPECT_EQ(shape.store(a) == shape.store(b), official.at(a) == official.at(b)) << a << " " << b;
    }
  }
  EXPECT_EQ(stores, one.params.at("unique_stores").get<std::size_t>());
}

TEST(SwiftKV, ReproducesTheOfficialVectors) { conformance::run_cases("swiftkv", {{"layer_map", layer_map}}); }

const conformance::Method methods[]{{"swiftkv", {}}};

}  // namespace swiftkv_test
