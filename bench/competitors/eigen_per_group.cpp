// bench/competitors/eigen_per_group.cpp - Eigen, f32: the query heads of a KV head as one matrix, so that rows are read once.
// SPDX-License-Identifier: MIT
#include "competitors/eigen.hpp"

namespace bench {
namespace {

class EigenPerGroup final : public EigenRows {
  void attend(std::size_t kv_head, const Head& keys, const Head& values) override {
    const auto group = static_cast<Eigen::Index>(case_.group());
    const std::size_t at = kv_head * case_.group() * case_.head_dim;
    const Head queries(queries_.data() + at, group, keys.cols());
    weights_.noalias() = queries * keys.transpose();
    for (Eigen::Index q = 0; q < group; ++q) {
      weights_.row(q) = (weights_.row(q).array() - weights_.row(q).maxCoeff()).exp();
      weights_.row(q) /= weights_.row(q).sum();
    }
    Eigen::Map<Matrix>(output_.data() + at, group, keys.cols()).noalias() = weights_ * values;
  }

  Matrix weights_{};  // (group, rows)
};

const Enter enter({.name = "eigen_per_group",
                   .make = [] { return std::make_unique<EigenPerGroup>(); },
                   .external = true,
                   .fits = [](const Case& c) { return c.threads == 1; }});

}  // namespace
}  // namespace bench
