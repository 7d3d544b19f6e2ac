// include/kvcompress/eviction/keep_all.hpp - the eviction that never evicts.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/concepts/eviction.hpp"
#include "kvcompress/core/no_state.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Every row stays. Cost: none. Loses: nothing. A cache whose type names it has no code for rows that leave, so its layers have no windows (see
/// KeepVisible).
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

/// Every row stays that a later query may see: those past the window of their layer leave, as under every other eviction. Cost: O(rows) per commit of
/// a layer with a window, and 4 bytes per row. Loses: nothing. By name it is what keep_all does.
struct KeepVisible : KeepAll {
  static constexpr bool keeps_windows = true;
};

}  // namespace kvcompress
