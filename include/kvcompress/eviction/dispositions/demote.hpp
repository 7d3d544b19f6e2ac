// include/kvcompress/eviction/dispositions/demote.hpp - rows that would go stay, in fewer bits.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <span>

#include "kvcompress/concepts/eviction.hpp"
#include "kvcompress/core/no_state.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// What an eviction marks gets colder instead of going: the storage encodes it (see Tiers). So its budget is the number of exact rows at most; rows that
/// are cold compete with them and stay cold. Observes nothing. Acts at every decision. Cost: exact rows are moved so that cold ones lie together, on
/// a copy of the layer where that happens while decoding, so let `period` rows wait for a decision. Loses: what codes lose.
struct Demote {
  static constexpr std::string_view name = "demote";
  static constexpr Needs may{.colder = true};
  using State = NoState;
  struct Options {
    static void fields(auto&, auto&&) {}
  };

  static void validate(const Options&, const Shape&) noexcept {}
  static constexpr std::size_t row_bytes(const Options&, const Shape&) noexcept { return 0; }
  static State state(const Options&, const Site&, const Memory&) noexcept { return {}; }
  static void dispose(const Options&, std::span<RowSet> sets, const Moment&) noexcept {
    for (const RowSet& set : sets) {
      for (unsigned char& fate : set.drop) {
        if (fate == static_cast<unsigned char>(Fate::drop)) { fate = static_cast<unsigned char>(Fate::colder); }
      }
    }
  }
};

}  // namespace kvcompress
