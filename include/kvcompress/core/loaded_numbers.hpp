// include/kvcompress/core/loaded_numbers.hpp - numbers that an option holds: a calibration, a projection, a table of heads.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <span>

#include "kvcompress/core/shared_numbers.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// A copy of what was handed in, which copies of the option share; on the standard heap unless a handle is given, in no memory report. Empty until
/// something is.
class LoadedNumbers {
 public:
  LoadedNumbers() : numbers_(nullptr, 0, Memory{}) {}
  LoadedNumbers(std::span<const float> from, const Memory& memory = {}) : numbers_(from.data(), from.size(), memory), count_(from.size()) {}

  [[nodiscard]] std::size_t size() const noexcept { return count_; }
  [[nodiscard]] std::span<const float> all() const noexcept { return {numbers_.data(), count_}; }
  [[nodiscard]] std::span<const float> some(std::size_t first, std::size_t count) const noexcept { return all().subspan(first, count); }

 private:
  SharedNumbers<float> numbers_;
  std::size_t count_ = 0;
};

}  // namespace kvcompress
