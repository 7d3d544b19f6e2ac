// include/kvcompress/eviction/scorers/accumulated_attention.hpp - H2O's score: the attention that a row has received so far.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/eviction/scored.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Sums of attention probability over all queries since the row was written, prompt included, and over the query heads of the KV head (mean
/// and sum rank alike) or kept per query head, the largest counting. See HeavyHitters.
struct AccumulatedAttention : AttentionScoredRows {
  static constexpr std::string_view name = "accumulated_attention";
  struct Options {
    Reduction reduction = Reduction::mean;  ///< over the query heads of a KV head
    static void fields(auto& options, auto&& field) { field("reduction", options.reduction); }
  };
  static void validate(const Options& options, const Shape&) { check_named("accumulated_attention: reduction", options.reduction); }
  static constexpr std::size_t recent(const Options&, std::size_t budget) noexcept { return std::max<std::size_t>(1, budget / 2); }
};

}  // namespace kvcompress
