// include/kvcompress/eviction/value_norm.hpp - how much a value can change the output of its layer.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <span>
#include <utility>

#include "kvcompress/core/error.hpp"
#include "kvcompress/core/loaded_numbers.hpp"
#include "kvcompress/core/site.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// The size of a value after the output projection of its layer, as an engine can compute it from weights in any form: the mean over the query heads
/// of the KV head of |W_o[:, head] v|_1. Without a function, |v|_1. What `context` points to must live as long as the caches that use it.
struct ValueNorm {
  double (*of)(const void* context, const Site& site, std::span<const float> value) = nullptr;
  const void* context = nullptr;

  [[nodiscard]] double operator()(const Site& site, std::span<const float> value) const {
    if (of != nullptr) { return of(context, site, value); }
    double sum = 0.0;
    for (const float x : value) { sum += static_cast<double>(x < 0.0F ? -x : x); }
    return sum;
  }
};

/// Output projections in float, (layers, hidden, query heads * value width). Cost of a norm: hidden * group * value width products.
class OutputProjections {
 public:
  explicit OutputProjections(LoadedNumbers weights, std::size_t hidden) : weights_(std::move(weights)), hidden_(hidden) {
    require(hidden > 0, ErrorCode::option, "output projections: hidden is 0, must be at least 1");
  }
  [[nodiscard]] ValueNorm norm() const noexcept {
    return {[](const void* context, const Site& site, std::span<const float> value) {
      return static_cast<const OutputProjections*>(context)->of(site, value);
            },
            this};
  }

 private:
  [[nodiscard]] double of(const Site& site, std::span<const float> value) const {
    const std::size_t inputs = site.shape.query_heads * value.size();
    const auto numbers = [this](const Shape& layer) { return hidden_ * layer.query_heads * layer.value_width(); };
    require(weights_.size() == site.model.sum(numbers), ErrorCode::option, "output projections: weights has ", weights_.size(),
            " numbers, must have layers * hidden * query_heads * the value width = ", site.model.sum(numbers));
    const std::size_t before = site.model.sum_before(site.layer, numbers);
    const std::size_t group = site.shape.group();
    double sum = 0.0;
    for (std::size_t row = 0; row < hidden_; ++row) {
      const auto weights = weights_.some(before + row * inputs + site.kv_head * group * value.size(), group * value.size());
      for (std::size_t head = 0; head < group; ++head) {
        double dot = 0.0;
        for (std::size_t c = 0; c < value.size(); ++c) {
          dot += static_cast<double>(weights[head * value.size() + c]) * static_cast<double>(value[c]);
        }
        sum += dot < 0.0 ? -dot : dot;
      }
    }
    return sum / static_cast<double>(group);
  }
  LoadedNumbers weights_;
  std::size_t hidden_;
};

}  // namespace kvcompress
