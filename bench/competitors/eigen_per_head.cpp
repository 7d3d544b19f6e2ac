// bench/competitors/eigen_per_head.cpp - Eigen, f32: every query head reads the rows of its KV head for itself.
// SPDX-License-Identifier: MIT
#include "competitors/eigen.hpp"

namespace bench {
namespace {

class EigenPerHead final : public EigenRows {
  void attend(std::size_t kv_head, const Head& keys, const Head& values) override {
    for (std::size_t q = kv_head * case_.group(); q < (kv_head + 1) * case_.group(); ++q) {
      const Eigen::Map<const Eigen::VectorXf> query(queries_.data() + q * case_.head_dim, keys.cols());
      weights_.noalias() = keys * query;
      weights_ = (weights_.array() - weights_.maxCoeff()).exp();
      Eigen::Map<Eigen::VectorXf> out(output_.data() + q * case_.head_dim, keys.cols());
      out.noalias() = values.transpose() * weights_;
      out /= weights_.sum();
    }
  }

  Eigen::VectorXf weights_{};
};

const Enter enter({.name = "eigen_per_head",
                   .make = [] { return std::make_unique<EigenPerHead>(); },
                   .external = true,
                   .fits = [](const Case& c) { return c.threads == 1 && c.group() > 1; }});

}  // namespace
}  // namespace bench
