// include/kvcompress/eviction/scorers/random_rows.hpp - rows stay by chance: what any other score must beat.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <span>

#include "kvcompress/core/random_bits.hpp"
#include "kvcompress/eviction/scored.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// A number from 0 to 1 for every position and lane, the same at every decision. Observes nothing. Acts at every commit that finds more rows than the
/// budget. Bytes: none. Drafts can be taken back. Cost: a hash per row and decision. Source: the idea of NVIDIA/kvpress@8bb29b9c3078:random_press.py,
/// which draws anew and once, at the end of a prompt.
struct RandomRows : ComputedRows {
  static constexpr std::string_view name = "random_rows";
  struct Options {
    std::size_t seed = 0;
    static void fields(auto& options, auto&& field) { field("seed", options.seed); }
  };
  static std::span<const float> score(const Options& options, const LaneView& lane, const RowTable& rows, const Moment&,
                                      std::span<float> out) {
    const std::uint64_t first = random_bits(options.seed, lane.site);
    for (std::size_t r = 0; r < rows.rows(); ++r) {
      out[r] = rows.alive(r) ? static_cast<float>(random_bits(first + rows.position(r)) >> 40U) * 0x1p-24F : 0.0F;
    }
    return out;
  }
};

}  // namespace kvcompress
