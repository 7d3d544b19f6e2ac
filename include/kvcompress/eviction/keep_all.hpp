// include/kvcompress/eviction/keep_all.hpp - the eviction that never evicts; and the State of evictions that remember nothing.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/concepts.hpp"

namespace kvcompress {

/// Remembers nothing about rows.
struct NoState {
  static void reserve(std::size_t) noexcept {}
  static void resize(std::size_t) noexcept {}
  static void move(std::size_t, std::size_t) noexcept {}
  static void erase(std::size_t, std::size_t) noexcept {}
  static void compact(std::size_t) noexcept {}
  static void account(MemoryReport&) noexcept {}
};

/// Every row stays. Cost: none. Loses: nothing.
struct KeepAll {
  static constexpr std::string_view name = "keep_all";
  static constexpr Scope scope = Scope::layer;
  static constexpr Decides decides = Decides::never;
  static constexpr Observes observes = Observes::nothing;
  struct Options {
    static void fields(auto&, auto&&) {}
  };
  using State = NoState;

  static void validate(const Options&, const Shape&) noexcept {}
  static constexpr bool renumbers(const Options&) noexcept { return false; }
  static constexpr std::size_t row_bytes(const Options&, const Shape&) noexcept { return 0; }
  static State state(const Options&, const Shape&, const Memory&) noexcept { return {}; }
  static void select(const Options&, State&, Selection&) noexcept {}
};

static_assert(Eviction<KeepAll>);

}  // namespace kvcompress
