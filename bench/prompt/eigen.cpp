// bench/prompt/eigen.cpp - a prompt's attention with Eigen, f32: per KV head and block of tokens two matrix products.
// SPDX-License-Identifier: MIT
#include <Eigen/Core>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "prompt/prompt.hpp"

namespace bench {
namespace {

class EigenPrompt final : public PromptAttention {
 public:
  explicit EigenPrompt(const Data& data)
      : case_(data.of()), keys_(data.keys(0, 0, case_.context)), values_(data.values(0, 0, case_.context)),
        queries_(data.queries(0, case_.context)), output_(queries_.size()) {
    for (float& x : queries_) { x /= std::sqrt(static_cast<float>(case_.head_dim)); }
  }

  void run() override {
    for (std::size_t head = 0; head < case_.kv_heads; ++head) {
      for (std::size_t first = 0; first < case_.context; first += block) { attend(head, first, std::min(block, case_.context - first)); }
    }
  }
  [[nodiscard]] std::span<const float> output() const override { return output_; }

 private:
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  using Strided = Eigen::Map<const Matrix, 0, Eigen::OuterStride<>>;
  static constexpr std::size_t block = 64;
  static Eigen::Index at(std::size_t x) { return static_cast<Eigen::Index>(x); }

  void attend(std::size_t kv_head, std::size_t first, std::size_t tokens) {
    const std::size_t dim = case_.head_dim;
    const std::size_t group = case_.group();
    const std::size_t seen = first + tokens;
    const Eigen::OuterStride<> row(at(case_.kv_heads * dim));
    const Strided keys(keys_.data() + kv_head * dim, at(seen), at(dim), row);
    const Strided values(values_.data() + kv_head * dim, at(seen), at(dim), row);
    block_queries_.resize(at(tokens * group), at(dim));
    for (std::size_t q = 0; q < tokens * group; ++q) {
      const float* from = queries_.data() + ((first + q / group) * case_.query_heads + kv_head * group + q % group) * dim;
      block_queries_.row(at(q)) = Eigen::Map<const Eigen::RowVectorXf>(from, at(dim));
    }
    weights_.noalias() = block_queries_ * keys.transpose();
    for (std::size_t q = 0; q < tokens * group; ++q) {
      auto weights = weights_.row(at(q));
      weights.tail(at(tokens - 1 - q / group)).setConstant(-std::numeric_limits<float>::infinity());
      weights = (weights.array() - weights.maxCoeff()).exp();
      weights /= weights.sum();
    }
    block_output_.noalias() = weights_ * values;
    for (std::size_t q = 0; q < tokens * group; ++q) {
      float* to = output_.data() + ((first + q / group) * case_.query_heads + kv_head * group + q % group) * dim;
      Eigen::Map<Eigen::RowVectorXf>(to, at(dim)) = block_output_.row(at(q));
    }
  }

  Case case_;
  std::vector<float> keys_;
  std::vector<float> values_;
  std::vector<float> queries_;  // scaled
  std::vector<float> output_;
  Matrix block_queries_{};
  Matrix weights_{};
  Matrix block_output_{};
};

}  // namespace

std::unique_ptr<PromptAttention> eigen_prompt(const Data& data) { return std::make_unique<EigenPrompt>(data); }

}  // namespace bench
