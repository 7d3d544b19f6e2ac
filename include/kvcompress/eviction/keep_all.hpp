// include/kvcompress/eviction/keep_all.hpp - the eviction that never evicts.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/concepts/eviction.hpp"
#include "kvcompress/core/no_state.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Every row stays. Cost: none. Loses: nothing.
struct KeepAll {
  static constexpr std::string_view name = "keep_all";
  static constexpr Needs may{.decides = Decides::never, .agrees = Scope::group};
  struct Options {
    static void fields(auto&, auto&&) {}
  };
  using State = NoState;

  static void validate(const Options&, const Shape&) noexcept {}
  static constexpr bool renumbers(const Options&) noexcept { return false; }
  static constexpr std::size_t row_bytes(const Options&, const Shape&) noexcept { return 0; }
  static State state(const Options&, const Site&, const Memory&) noexcept { return {}; }
  static void select(const Options&, std::span<RowSet>, const Moment&) noexcept {}
};

}  // namespace kvcompress
