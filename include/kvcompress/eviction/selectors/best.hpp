// include/kvcompress/eviction/selectors/best.hpp - the rows with the largest scores stay.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

#include "kvcompress/eviction/row_set.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Of the rows that are not protected those with the largest scores stay, up to the budget; ties go to the older row. Cost: O(rows).
struct Best {
  static constexpr std::string_view name = "best";
  struct Options {
    static void fields(auto&, auto&&) {}
  };
  static void choose(const Options&, RowSet& set, std::span<const float> scores, const Protected& protected_rows, std::size_t budget) {
    set.keep_best(budget, protected_rows, [of = scores.data()](std::size_t row) { return of[row]; });
  }
};

}  // namespace kvcompress
