// bench/competitors/eigen.hpp - f32 rows as Eigen maps, head after head, in as many copies as make them cold.
// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>

#include <cstddef>
#include <vector>

#include "runner/competitor.hpp"

namespace bench {

/// What the Eigen competitors have in common; they differ in how they meet the queries with the rows.
class EigenRows : public Competitor {
 public:
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  using Head = Eigen::Map<const Matrix>;  // (rows, dim)

  void prepare(const Data& data, std::size_t cold_bytes) final {
    const Case& c = case_ = data.of();
    std::vector<float> layer(bytes_read() / sizeof(float));
    for (std::size_t head = 0; head < c.kv_heads; ++head) {
      for (std::size_t t = 0; t <= c.context; ++t) {
        data.key(0, t, head, layer.data() + offset(head) + t * c.head_dim);
        data.value(0, t, head, layer.data() + offset(head) + (c.context + 1 + t) * c.head_dim);
      }
    }
    const std::size_t copies = cold_bytes / bytes_read() + 1;
    layers_.assign(copies - 1, layer);
    layers_.push_back(std::move(layer));
    queries_ = data.queries(c.context, 1);
    for (float& x : queries_) { x /= std::sqrt(static_cast<float>(c.head_dim)); }
    output_.resize(queries_.size());
  }
  void run() final {
    next_ = (next_ + 1) % layers_.size();
    for (std::size_t head = 0; head < case_.kv_heads; ++head) {
      const float* keys = layers_[next_].data() + offset(head);
      const auto rows = static_cast<Eigen::Index>(case_.context + 1);
      const auto dim = static_cast<Eigen::Index>(case_.head_dim);
      attend(head, Head(keys, rows, dim), Head(keys + rows * dim, rows, dim));
    }
  }
  [[nodiscard]] std::span<const float> output() const final { return output_; }
  [[nodiscard]] std::size_t bytes_read() const final { return (case_.context + 1) * case_.values_per_token() * sizeof(float); }
  [[nodiscard]] double bits_per_value() const final { return 32.0; }

 protected:
  virtual void attend(std::size_t kv_head, const Head& keys, const Head& values) = 0;

  Case case_{};
  std::vector<float> queries_{};  // scaled
  std::vector<float> output_{};

 private:
  [[nodiscard]] std::size_t offset(std::size_t head) const { return head * 2 * (case_.context + 1) * case_.head_dim; }

  std::vector<std::vector<float>> layers_{};
  std::size_t next_ = 0;
};

}  // namespace bench
