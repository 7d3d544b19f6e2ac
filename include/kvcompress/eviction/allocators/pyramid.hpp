// include/kvcompress/eviction/allocators/pyramid.hpp - PyramidKV's budgets: many rows in the first layers, few in the last.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>

#include "kvcompress/core/bounds.hpp"
#include "kvcompress/core/math.hpp"
#include "kvcompress/eviction/allocators/uniform.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Steps from layer to layer: fractions of a row, each budget rounded; or whole rows, rounded down.
enum class PyramidSteps { exact, whole };
constexpr auto names_of(PyramidSteps) noexcept { return std::array{"exact", "whole"}; }

/// Budgets fall from layer to layer in equal steps, so that they are the even budget on average: without the newest rows, which all layers keep,
/// the last layer has 1/beta of it. Prompts that are too short for that get the even budget.
///
/// Source: "PyramidKV: Dynamic KV Cache Compression based on Pyramidal Information Funneling". PyramidSteps::exact as
/// NVIDIA/kvpress@8bb29b9c3078:pyramidkv_press.py computes it: rounded half to even, so that the sum over the layers may miss that of even budgets by
/// some rows. PyramidSteps::whole as Zefan-Cai/KVCache-Factory@c97f9d706d63:pyramidkv/pyramidkv_utils.py: the sum is more than that of even budgets,
/// by up to half a row for each layer and each layer below it. Cost: none.
struct Pyramid {
  static constexpr std::string_view name = "pyramid";
  static constexpr Scope sees = Scope::lane;
  struct Options {
    std::size_t beta = 20;  ///< at least 1
    PyramidSteps steps = PyramidSteps::exact;
    static void fields(auto& options, auto&& field) {
      field("beta", options.beta);
      field("steps", options.steps);
    }
  };
  static void validate(const Options& options) {
    check_bounds("pyramid: beta", options.beta, 1);
    check_named("pyramid: steps", options.steps);
  }

  static void allocate(const Options& options, const Allocation& allocation, std::span<std::size_t> budgets) noexcept {
    for (std::size_t i = 0; i < budgets.size(); ++i) {
      const Site& site = allocation.sets[i].lanes.front().site;
      const std::size_t tokens = allocation.sets[i].rows.live();
      const std::size_t newest = allocation.protected_rows.recent;
      const auto even = static_cast<std::size_t>(allocation.rows);
      if (options.steps == PyramidSteps::exact) {
        budgets[i] = rows_of_layer(options, allocation.rows, tokens, newest, site.layer, site.shape.layers);
      } else if (newest < even && tokens >= even && tokens >= 2 * (even - newest)) {
        budgets[i] = newest + whole_rows_of_layer(options, even - newest, tokens - newest, site.layer, site.shape.layers);
      }
    }
  }
  /// The budget of one layer in whole steps, without the newest rows: `even` rows on average, or more, of `tokens` rows.
  static std::size_t whole_rows_of_layer(const Options& options, std::size_t even, std::size_t tokens, std::size_t layer,
                                         std::size_t layers) noexcept {
    const std::size_t first = std::min(2 * even - even / options.beta, tokens);
    const std::size_t last = 2 * even - std::min(2 * even, first);
    const std::size_t step = layers > 1 && first > last ? (first - last) / (layers - 1) : 0;
    return first - std::min(first, layer * step);
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
