// include/kvcompress/cache/own_numbers.hpp - what a cache keeps of the arrays that its shape and options point to.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/core/shape.hpp"
#include "kvcompress/core/shared_numbers.hpp"
#include "kvcompress/policies/combine.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

/// Copies of RoPE's frequency factors and of GEAR's start, so that no pointer of the caller outlives the constructor. Copies and forks of a
/// cache share them.
template <class P>
struct OwnNumbers {
  using Storage = typename Axes<P>::Storage;
  using Options = PolicyOptions<P>;

  /// `shape` and `options` point to the copies afterwards.
  OwnNumbers(Shape& shape, Options& options, const Memory& memory)
      : frequency_factors(shape.rope.frequency_factors, shape.rotary_pairs(), memory), start(start_of(shape, options, memory)) {
    shape.rope.frequency_factors = frequency_factors.data();
    if constexpr (has_start) { options.storage.start = start.data(); }
  }
  [[nodiscard]] std::size_t bytes() const noexcept { return frequency_factors.bytes() + start.bytes(); }
  void account(MemoryReport& report) const noexcept {
    frequency_factors.account(report);
    start.account(report);
  }

  SharedNumbers<double> frequency_factors;
  SharedNumbers<float> start;

 private:
  static constexpr bool has_start = requires(const typename Storage::Options& options, const Shape& shape) {
    Storage::start_count(options, shape);
  };
  static SharedNumbers<float> start_of(const Shape& shape, const Options& options, const Memory& memory) {
    if constexpr (has_start) {
      return {options.storage.start, Storage::start_count(options.storage, shape), memory};
    } else {
      return {nullptr, 0, memory};
    }
  }
};

}  // namespace kvcompress::detail
