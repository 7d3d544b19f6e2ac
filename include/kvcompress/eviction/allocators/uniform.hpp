// include/kvcompress/eviction/allocators/uniform.hpp - every lane keeps the same number of rows.
// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string_view>

#include "kvcompress/eviction/row_set.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// What a scorer says of a lane as a whole, for allocators that compare lanes: two numbers, whose meaning is its own.
using LaneFacts = std::array<double, 2>;

/// What an allocator shares out: the sets that it sees, the scores of their rows, which of these stay anyway, and how many rows every set
/// would keep if all were alike: `rows`, not yet cut to a whole number.
struct Allocation {
  std::span<RowSet> sets;
  std::span<const std::span<const float>> scores;
  Protected protected_rows;
  double rows;
  const Moment& moment;
  /// Of every lane of every set, in their order; empty if the scorer says nothing of lanes.
  std::span<const LaneFacts> facts{};
};

/// The budget as it is. Cost: none.
struct Uniform {
  static constexpr std::string_view name = "uniform";
  static constexpr Scope sees = Scope::lane;
  struct Options {
    static void fields(auto&, auto&&) {}
  };
  static void validate(const Options&) noexcept {}
  static void allocate(const Options&, const Allocation&, std::span<std::size_t> /*budgets*/) noexcept {}
};

}  // namespace kvcompress
