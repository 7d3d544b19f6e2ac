// include/kvcompress/core/loaded_numbers.hpp - numbers that an option holds: a calibration, a projection, a table of heads.
// SPDX-License-Identifier: MIT
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

#include "kvcompress/core/error.hpp"
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
  /// What a saved cache and the one that loads it must agree on: how many, and a number that tells them from others (FNV-1a).
  static void fields(auto& numbers, auto&& field) {
    std::uint64_t hash = 0xCBF2'9CE4'8422'2325U;
    for (const float x : numbers.all()) { hash = (hash ^ std::bit_cast<std::uint32_t>(x)) * 0x100'0000'01B3U; }
    field("count", numbers.count_);
    field("hash", static_cast<std::size_t>(hash));
  }
  /// Raises an Error unless there are `needed` numbers, `shape` says of what, all of them finite; `name` reads like "filtered_keys: filters".
  void check(const char* name, std::size_t needed, const char* shape) const {
    require(count_ == needed, ErrorCode::option, name, " has ", count_, " numbers, must have ", shape, " = ", needed);
    for (const float x : all()) { require(x - x == 0.0F, ErrorCode::option, name, " has ", x, ", must have finite numbers"); }
  }

 private:
  SharedNumbers<float> numbers_;
  std::size_t count_ = 0;
};

}  // namespace kvcompress
