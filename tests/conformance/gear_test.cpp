// tests/conformance/gear_test.cpp - GEAR's stores and its power iteration against the official implementation.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <vector>

#include "support/gear_cases.hpp"
#include "support/gear_stores.hpp"

namespace gear_test {

namespace conformance = kvcompress::conformance;
namespace reference = kvcompress::reference;
using conformance::gear::GearOptions;
using reference::Index;
using reference::Matrix;
using Heads = std::vector<Matrix>;

/// One segment of all heads through the stores, their starts included.
template <class Store, class Backbone>
Heads through_stores(const conformance::Case& one, const Heads& heads, const Heads& starts, const GearOptions& wanted) {
  const auto tokens = static_cast<std::size_t>(heads.front().rows());
  const auto dim = static_cast<std::size_t>(heads.front().cols());
  std::vector<float> start;  // (heads, dim, rank)
  for (const Matrix& head : starts) {
    for (Index c = 0; c < head.rows(); ++c) {
      for (Index j = 0; j < head.cols(); ++j) { start.push_back(static_cast<float>(head(c, j))); }
    }
  }
  kvcompress::GearOptions<Backbone::buffer> options{.prompt_rank = static_cast<std::size_t>(wanted.rank),
                                                    .sweeps = static_cast<std::size_t>(wanted.sweeps),
                                                    .sparsity = wanted.sparsity,
                                                    .official_simulation = wanted.official_simulation,
                                                    .start = start.empty() ? nullptr : start.data()};
  if (Backbone::group == 0) { options.buffer = tokens; }  // so that the whole input is one segment
  if (tokens % options.buffer != 0 && (wanted.rank > 0 || wanted.sparsity > 0.0)) {
    throw conformance::NotCovered(one.path() + ": the official outliers and factors run over tokens that the store leaves exact");
  }
  kvcompress::test::GearLayer<Store> layer(heads.size(), dim, options);
  layer.encode(heads);
  Heads hat;
  for (std::size_t h = 0; h < heads.size(); ++h) {
    hat.push_back(layer.decoded(h));
    if (wanted.official_simulation && wanted.sparsity > 0.0) {  // the official result has its codes and outliers in fp16
      const Matrix sparse = layer.sparse(h);
      hat[h].topRows(sparse.rows()) += sparse.unaryExpr(reference::RoundToHalf{}) - sparse;
    }
  }
  return hat;
}

template <int Bits, class Backbone>
Heads with_tensor(const conformance::Case& one, const Heads& heads, const Heads& starts, const GearOptions& options) {
  if (options.tensor == reference::GearTensor::keys) {
    return through_stores<kvcompress::GearKeys<Bits, Backbone, float>, Backbone>(one, heads, starts, options);
  }
  using Values = kvcompress::GearValues<Bits, Backbone, kvcompress::ValueVectors::layer, float>;
  const Index tokens = heads.front().rows();
  const Index rest = tokens % static_cast<Index>(Backbone::buffer);
  if (Backbone::group == 0 || rest == 0) { return through_stores<Values, Backbone>(one, heads, starts, options); }
  if (options.rank > 0) {
    throw conformance::NotCovered(one.path() + ": the official factors run over tokens that the store leaves exact");
  }
  Heads whole = heads;  // tokens are independent of each other, so some more make the last buffer full
  for (Matrix& head : whole) {
    head.conservativeResize(tokens - rest + static_cast<Index>(Backbone::buffer), Eigen::NoChange);
    head.bottomRows(head.rows() - tokens) = head.topRows(head.rows() - tokens);
  }
  whole = through_stores<Values, Backbone>(one, whole, starts, options);
  for (Matrix& head : whole) { head.conservativeResize(tokens, Eigen::NoChange); }
  return whole;
}
template <int Bits>
Heads with_backbone(const conformance::Case& one, const Heads& heads, const Heads& starts, const GearOptions& options) {
  if (options.backbone == reference::GearBackbone::kcvt) { return with_tensor<Bits, kvcompress::Kcvt>(one, heads, starts, options); }
  if (options.group == 32) { return with_tensor<Bits, kvcompress::KiviGroups<32>>(one, heads, starts, options); }
  if (options.group == 64) { return with_tensor<Bits, kvcompress::KiviGroups<64>>(one, heads, starts, options); }
  throw conformance::NotCovered(one.path() + ": group " + std::to_string(options.group));
}
Heads compress(const conformance::Case& one, const Heads& heads, const Heads& starts, const GearOptions& options) {
  if (options.bits == 2) { return with_backbone<2>(one, heads, starts, options); }
  if (options.bits == 4) { return with_backbone<4>(one, heads, starts, options); }
  throw conformance::NotCovered(one.path() + ": " + std::to_string(options.bits) + " bits");
}

Matrix iterate(const Matrix& x, const Matrix& start, int sweeps) {
  const reference::Index rank = start.cols();
  const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> e = x.cast<float>();
  Matrix p = start;  // columns lie one behind the other, as the vectors of the library do
  Matrix q(x.rows(), rank);
  const auto size = [](auto n) { return static_cast<std::size_t>(n); };
  kvcompress::gear::power_iteration(e.data(), size(x.rows()), size(x.cols()), size(rank), size(sweeps), p.data(), q.data());
  return q * p.transpose();
}

// An outlier is stored as its difference to the decoded fill in float, so that it comes back within an ulp of the larger of the two.
const conformance::Method method("gear", conformance::gear::handlers(compress, iterate, 2e-6, false));
TEST(Gear, ReproducesTheOfficialVectors) { method.run(); }

}  // namespace gear_test
