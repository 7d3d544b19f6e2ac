// include/kvcompress/eviction/allocators/pyramid.hpp - PyramidKV's budgets: many rows in the first layers, few in the last.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

#include "kvcompress/core/bounds.hpp"
#include "kvcompress/core/math.hpp"
#include "kvcompress/eviction/allocators/uniform.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Budgets fall from layer to layer in equal steps, so that they are the even budget on average: without the newest rows, which all layers keep,
/// the last layer has 1/beta of it. Prompts that are too short for that get the even budget.
///
/// Source: "PyramidKV: Dynamic KV Cache Compression based on Pyramidal Information Funneling", as NVIDIA/kvpress@8bb29b9c3078:pyramidkv_press.py
/// computes it: rounded half to even, so that the sum over the layers may miss that of even budgets by some rows. Cost: none.
struct Pyramid {
  static constexpr std::string_view name = "pyramid";
  static constexpr Scope sees = Scope::lane;
  struct Options {
    std::size_t beta = 20;  ///< at least 1
    static void fields(auto& options, auto&& field) { field("beta", options.beta); }
  };
  static void validate(const Options& options) { check_bounds("pyramid: beta", options.beta, 1); }

  static void allocate(const Options& options, const Allocation& allocation, std::span<std::size_t> budgets) noexcept {
    for (std::size_t i = 0; i < budgets.size(); ++i) {
      const Site& site = allocation.sets[i].lanes.front().site;
      budgets[i] = rows_of_layer(options, allocation.rows, allocation.sets[i].rows.live(), allocation.protected_rows.recent, site.layer,
                                 site.shape.layers);
    }
  }
  /// The budget of one layer: `even` rows on average, of `tokens` rows, of which the `window` newest stay anyway.
  static std::size_t rows_of_layer(const Options& options, double even, std::size_t tokens, std::size_t window, std::size_t layer,
                                   std::size_t layers) noexcept {
    const auto all = static_cast<double>(tokens);
    const auto newest = static_cast<double>(window);
    double last = even / static_cast<double>(options.beta);
    double first = 2.0 * even - last;
    if (first >= all - newest) {
      first = all - newest;
      last = 2.0 * even - first;
    }
    const bool fits = all >= first && first >= last && last >= newest;
    const double step = layers > 1 ? (first - last) / static_cast<double>(layers - 1) : 0.0;
    return static_cast<std::size_t>(math::round_half_even(fits ? first - static_cast<double>(layer) * step : even));
  }
};

}  // namespace kvcompress
