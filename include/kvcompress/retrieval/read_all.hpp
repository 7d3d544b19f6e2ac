// include/kvcompress/retrieval/read_all.hpp - the retrieval that chooses nothing: every query reads every row.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/concepts.hpp"
#include "kvcompress/core/no_state.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Every query reads every row. Cost: none. Loses: nothing.
struct ReadAll {
  static constexpr std::string_view name = "read_all";
  struct Options {
    static void fields(auto&, auto&&) {}
  };
  struct State : NoState {
    static constexpr std::size_t indexed() noexcept { return 0; }
    static constexpr Reads reads() noexcept { return {}; }
    static void remember_first(const Vector<RowRange>&) noexcept {}
  };

  static void validate(const Options&, const Shape&) noexcept {}
  static constexpr bool reads_all(const Options&, const Site&) noexcept { return true; }
  static constexpr bool wants_last_query(const Options&, const Site&) noexcept { return false; }
  static constexpr bool renumbers(const Options&, const Site&) noexcept { return true; }
  static State state(const Options&, const Site&, const Memory&) noexcept { return {}; }
  static constexpr std::size_t bytes_for(const Options&, const Site&, std::size_t) noexcept { return 0; }
  static void make_room_to_refresh(const Options&, State&, std::size_t, Vector<float>&) noexcept {}
  static void refresh(const Options&, State&, const RowTable&, bool, std::size_t, auto&&, Vector<float>&) noexcept {}
  static void select(const Options&, const State&, const Retrieving&, Vector<RowRange>&) noexcept {}
};

}  // namespace kvcompress
