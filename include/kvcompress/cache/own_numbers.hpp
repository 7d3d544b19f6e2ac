// include/kvcompress/cache/own_numbers.hpp - what a cache keeps of the arrays that its shape and options point to.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <vector>

#include "kvcompress/core/shape.hpp"
#include "kvcompress/core/shared_numbers.hpp"
#include "kvcompress/policies/combine.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

/// Copies of the shapes of layers, RoPE's frequency factors and of what a storage's options point to (GEAR's start), so that no pointer of the caller outlives the
/// constructor. Copies and forks of a cache share them.
template <class P>
struct OwnNumbers {
  using Storage = typename Axes<P>::Storage;
  using Options = PolicyOptions<P>;

  /// `shape` and `options` point to the copies afterwards.
  OwnNumbers(Shape& shape, Options& options, const Memory& memory)
      : frequency_factors(factors_of(shape, memory)), each(layers_of(shape, memory)), start(start_of(shape, options, memory)) {
    if (shape.each == nullptr) { shape.rope.frequency_factors = frequency_factors.front().data(); }
    shape.each = each.data();
  }
  [[nodiscard]] std::size_t bytes() const noexcept {
    std::size_t bytes = each.bytes();
    for (const SharedNumbers<double>& numbers : frequency_factors) { bytes += numbers.bytes(); }
    for (const SharedNumbers<float>& numbers : start) { bytes += numbers.bytes(); }
    return bytes;
  }
  void account(MemoryReport& report) const noexcept {
    each.account(report);
    for (const SharedNumbers<double>& numbers : frequency_factors) { numbers.account(report); }
    for (const SharedNumbers<float>& numbers : start) { numbers.account(report); }
  }

  std::vector<SharedNumbers<double>> frequency_factors;  // of the model, or of each layer
  SharedNumbers<Shape> each;
  std::vector<SharedNumbers<float>> start;

 private:
  static std::vector<SharedNumbers<double>> factors_of(const Shape& shape, const Memory& memory) {
    std::vector<SharedNumbers<double>> all;
    for (std::size_t layer = 0; layer < shape.kinds(); ++layer) {
      all.emplace_back(shape.of(layer).rope.frequency_factors, shape.of(layer).rotary_pairs(), memory);
    }
    return all;
  }
  [[nodiscard]] SharedNumbers<Shape> layers_of(const Shape& shape, const Memory& memory) const {
    if (shape.each == nullptr) { return {nullptr, 0, memory}; }
    std::vector<Shape> own(shape.each, shape.each + shape.layers);
    for (std::size_t layer = 0; layer < own.size(); ++layer) { own[layer].rope.frequency_factors = frequency_factors[layer].data(); }
    return {own.data(), own.size(), memory};
  }
  static std::vector<SharedNumbers<float>> start_of(const Shape& shape, Options& options, const Memory& memory) {
    if constexpr (requires { Storage::own_numbers(options.storage, shape, memory); }) {
      return Storage::own_numbers(options.storage, shape, memory);
    } else if constexpr (requires { Storage::start_count(options.storage, shape); }) {
      const SharedNumbers<float> own(options.storage.start, Storage::start_count(options.storage, shape), memory);
      options.storage.start = own.data();
      return {own};
    } else {
      return {};
    }
  }
};

}  // namespace kvcompress::detail
