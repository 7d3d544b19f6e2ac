// include/kvcompress/eviction/allocators/top_mass.hpp - ZipVL's budgets: as many rows as hold a share of the scores.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

#include "kvcompress/core/error.hpp"
#include "kvcompress/eviction/allocators/uniform.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// A lane keeps as many rows as its best ones need to hold the share `mass` of all of its scores, at most the budget. Scores must be 0 or more.
///
/// Source: the rule of "ZipVL: Efficient Large Vision-Language Models with Dynamic Token Sparsification", which has no public code; its two
/// precisions are not here. Cost: a sort of the scores.
struct TopMass {
  static constexpr std::string_view name = "top_mass";
  static constexpr Scope sees = Scope::lane;
  struct Options {
    double mass = 0.975;  ///< 0 to 1
    static void fields(auto& options, auto&& field) { field("mass", options.mass); }
  };
  static void validate(const Options& options) {
    require(options.mass >= 0.0 && options.mass <= 1.0, ErrorCode::option, "top_mass: mass is ", options.mass, ", must be 0 to 1");
  }

  static void allocate(const Options& options, const Allocation& allocation, std::span<std::size_t> budgets) {
    const std::size_t stay = allocation.protected_rows.sinks + allocation.protected_rows.recent;
    for (std::size_t i = 0; i < budgets.size(); ++i) {
      const RowTable& rows = allocation.sets[i].rows;
      Vector<float> scores(Allocator<float>(allocation.moment.scratch.rows.get_allocator()));
      double all = 0.0;
      for (std::size_t r = 0; r < rows.rows(); ++r) {
        if (!rows.alive(r)) { continue; }
        scores.push_back(allocation.scores[i][r]);
        all += static_cast<double>(scores.back());
      }
      std::sort(scores.begin(), scores.end(), [](float a, float b) { return a > b; });
      std::size_t count = 0;
      for (double sum = 0.0; count < scores.size() && sum < options.mass * all; ++count) { sum += static_cast<double>(scores[count]); }
      budgets[i] = std::max<std::size_t>({1, std::min(stay, budgets[i]), std::min(count, budgets[i])});
    }
  }
};

}  // namespace kvcompress
