// include/kvcompress/cache/own_numbers.hpp - what a cache keeps of the arrays that its shape and options point to.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <vector>

#include "kvcompress/core/shape.hpp"
#include "kvcompress/core/shared_numbers.hpp"
#include "kvcompress/policies/combine.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

/// Copies of RoPE's frequency factors and of what a storage's options point to (GEAR's start), so that no pointer of the caller outlives the
/// constructor. Copies and forks of a cache share them.
template <class P>
struct OwnNumbers {
  using Storage = typename Axes<P>::Storage;
  using Options = PolicyOptions<P>;

  /// `shape` and `options` point to the copies afterwards.
  OwnNumbers(Shape& shape, Options& options, const Memory& memory)
      : frequency_factors(shape.rope.frequency_factors, shape.rotary_pairs(), memory), start(start_of(shape, options, memory)) {
    shape.rope.frequency_factors = frequency_factors.data();
  }
  [[nodiscard]] std::size_t bytes() const noexcept {
    std::size_t bytes = frequency_factors.bytes();
    for (const SharedNumbers<float>& numbers : start) { bytes += numbers.bytes(); }
    return bytes;
  }
  void account(MemoryReport& report) const noexcept {
    frequency_factors.account(report);
    for (const SharedNumbers<float>& numbers : start) { numbers.account(report); }
  }

  SharedNumbers<double> frequency_factors;
  std::vector<SharedNumbers<float>> start;

 private:
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
