// include/kvcompress/eviction/allocators/pruned_shares.hpp - LU-KV's budgets: a table of how much each head can drop.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

#include "kvcompress/core/error.hpp"
#include "kvcompress/core/loaded_numbers.hpp"
#include "kvcompress/core/math.hpp"
#include "kvcompress/eviction/allocators/uniform.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Every head of a layer drops its share of its rows; what rounding down would lose of the rows of the layer goes, a row each, to the heads that it
/// cost most. At least one row and those that stay anyway are kept. The budget does not matter: the shares say how much stays.
///
/// Source: NVIDIA/kvpress@8bb29b9c3078:lukv_press.py, which takes the shares from curves that were fitted for a model, at the ratio wanted. Cost: none.
struct PrunedShares {
  static constexpr std::string_view name = "pruned_shares";
  static constexpr Scope sees = Scope::layer;
  struct Options {
    LoadedNumbers shares{};  ///< (layers, KV heads): the share of its rows that each drops, 0 to 1
    static void fields(auto&, auto&&) {}
    static void unnamed_fields(auto& options, auto&& field) { field("shares", options.shares); }
  };
  static void validate(const Options& options, const Shape& shape) {
    options.shares.check("pruned_shares: shares", shape.lanes(), "layers * kv_heads");
    for (const float share : options.shares.all()) {
      require(share >= 0.0F && share <= 1.0F, ErrorCode::option, "pruned_shares: shares has ", share, ", must be 0 to 1");
    }
  }

  static void allocate(const Options& options, const Allocation& allocation, std::span<std::size_t> budgets) {
    const std::span<RowSet> sets = allocation.sets;
    Vector<double> rests(budgets.size(), 0.0, Allocator<double>(allocation.moment.scratch.rows.get_allocator()));
    double all = 0.0;
    std::size_t sum = 0;
    for (std::size_t i = 0; i < budgets.size(); ++i) {
      double share = 0.0;  // of lanes that keep the same rows the mean
      for (const LaneView& lane : sets[i].lanes) {
        share += (1.0 - static_cast<double>(options.shares.all()[lane.site.lane()])) / static_cast<double>(sets[i].lanes.size());
      }
      const double rows = share * static_cast<double>(sets[i].rows.live());
      budgets[i] = static_cast<std::size_t>(rows);
      rests[i] = rows - static_cast<double>(budgets[i]);
      all += rows;
      sum += budgets[i];
    }
    const auto wanted = static_cast<std::size_t>(math::round_half_even(all));
    for (; sum < wanted; ++sum) {
      const auto most = std::max_element(rests.begin(), rests.end());
      ++budgets[static_cast<std::size_t>(most - rests.begin())];
      *most = -1.0;
    }
    const std::size_t stay = allocation.protected_rows.sinks + allocation.protected_rows.recent;
    for (std::size_t i = 0; i < budgets.size(); ++i) {
      budgets[i] = std::min(std::max<std::size_t>({1, stay, budgets[i]}), std::max<std::size_t>(1, sets[i].rows.live()));
    }
  }
};

}  // namespace kvcompress
