// include/kvcompress/quantization/loaded_rotation.hpp - a frame that is fitted to a model: rows times an orthogonal matrix of their layer.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <string_view>

#include "kvcompress/core/loaded_numbers.hpp"
#include "kvcompress/core/site.hpp"
#include "kvcompress/quantization/token_code.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Raises an Error unless there are `layers` matrices (dim, dim), all of them orthogonal to 1e-3.
inline void check_rotations(const char* name, const LoadedNumbers& numbers, std::size_t layers, std::size_t dim) {
  numbers.check(name, layers * dim * dim, "layers * the width * the width");
  for (std::size_t row = 0; row < layers * dim; ++row) {
    for (std::size_t other = row / dim * dim; other <= row; ++other) {
      const float* a = numbers.all().data() + row * dim;
      const float* b = numbers.all().data() + other * dim;
      float product = 0.0F;
      for (std::size_t i = 0; i < dim; ++i) { product += a[i] * b[i]; }
      const float off = product - (row == other ? 1.0F : 0.0F);
      require(off < 1e-3F && off > -1e-3F, ErrorCode::option, name, " has rows ", row, " and ", other, " with product ", product,
              ", must be orthogonal matrices");
    }
  }
}

/// Rows x as x R, queries as q R, sums as y R^T: R is (width, width) of options.key_rotations or options.value_rotations, (layers, width, width), orthogonal.
/// `fit_rotation` makes it. Memory: the matrices once, whatever the number of lanes. Cost: width^2 multiply-adds a row, or a query, or an output.
template <bool Keys>
class LoadedRotation {
 public:
  static constexpr std::string_view name = "loaded rotation";
  static constexpr bool changes = true;

  LoadedRotation(const auto& options, const Site& site, std::size_t dim)
      : dim_(dim), first_(site.layer * dim * dim), matrices_(matrices_of(options)) {}

  void row(const float* x, auto&& put) const noexcept {
    float turned[most_token_width];
    turn(x, turned);
    put(std::size_t{0}, static_cast<const float*>(turned), dim_);
  }
  void queries(float* x, std::size_t stride, std::size_t count) const noexcept {
    float turned[most_token_width];
    for (std::size_t q = 0; q < count; ++q) {
      turn(x + q * stride, turned);
      std::copy_n(turned, dim_, x + q * stride);
    }
  }
  void outputs(float* x, std::size_t stride, std::size_t count) const noexcept {
    float back[most_token_width];
    for (std::size_t q = 0; q < count; ++q) {
      const float* y = x + q * stride;
      for (std::size_t i = 0; i < dim_; ++i) {
        float sum = 0.0F;
        for (std::size_t j = 0; j < dim_; ++j) { sum += y[j] * matrix()[i * dim_ + j]; }
        back[i] = sum;
      }
      std::copy_n(back, dim_, x + q * stride);
    }
  }

 private:
  static const LoadedNumbers& matrices_of(const auto& options) noexcept {
    if constexpr (Keys) {
      return options.key_rotations;
    } else {
      return options.value_rotations;
    }
  }
  [[nodiscard]] const float* matrix() const noexcept { return matrices_.all().data() + first_; }
  void turn(const float* x, float* out) const noexcept {
    std::fill_n(out, dim_, 0.0F);
    for (std::size_t i = 0; i < dim_; ++i) {
      for (std::size_t j = 0; j < dim_; ++j) { out[j] += x[i] * matrix()[i * dim_ + j]; }
    }
  }

  std::size_t dim_;
  std::size_t first_;
  LoadedNumbers matrices_;
};

}  // namespace kvcompress
