// include/kvcompress/eviction/allocators/variance_shares.hpp - D2O's budgets: layers whose attention is even get more rows.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

#include "kvcompress/core/memory.hpp"
#include "kvcompress/eviction/allocators/uniform.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Layers share the rows of all of them by softmax(-metric); the metric of a layer is the mean over its heads of the variance of their scores, taken
/// from 0 for the least of these heads to 1 for the largest. A layer keeps 1 % of its rows at least. The first two layers and the last keep all.
///
/// Source: "D2O: Dynamic Discriminative Operations for Efficient Long-Context Inference of Large Language Models";
/// AIoT-MLSys-Lab/d2o@12c99d8a9961. Taking the heads of a layer from 0 to 1 is the code's, the paper has the variances themselves. Without its
/// merging. Cost: O(rows); until the last layer has ended its prompt all prompts are held in full.
struct VarianceShares {
  static constexpr std::string_view name = "variance_shares";
  static constexpr Scope sees = Scope::model;
  struct Options {
    static void fields(auto&, auto&&) {}
  };

  static void allocate(const Options&, const Allocation& allocation, std::span<std::size_t> budgets) {
    const std::span<RowSet> sets = allocation.sets;
    Vector<double> metrics(Allocator<double>(allocation.moment.scratch.rows.get_allocator()));
    Vector<double> variances(metrics.get_allocator());
    const auto layer_of = [&](std::size_t set) { return sets[set].lanes.front().site.layer; };
    for (std::size_t i = 0; i < sets.size(); ++i) {
      variances.push_back(variance(sets[i].rows, allocation.scores[i]));
      if (i + 1 < sets.size() && layer_of(i) == layer_of(i + 1)) { continue; }
      metrics.push_back(metric(variances));
      variances.clear();
    }
    std::size_t l = 0;
    const std::size_t last = sets.back().lanes.front().site.shape.layers - 1;
    for (std::size_t i = 0; i < sets.size(); ++i) {
      if (i > 0 && layer_of(i) != layer_of(i - 1)) { ++l; }
      const auto live = static_cast<double>(std::max<std::size_t>(1, sets[i].rows.live()));
      const bool all = layer_of(i) < 2 || layer_of(i) == last;
      budgets[i] = std::max<std::size_t>(1, static_cast<std::size_t>(live * (all ? 1.0 : share(metrics, l, allocation.rows / live))));
    }
  }
  /// Unbiased.
  static double variance(const RowTable& rows, std::span<const float> scores) {
    double sum = 0.0;
    double squares = 0.0;
    const auto count = static_cast<double>(rows.live());
    for (std::size_t r = 0; r < rows.rows(); ++r) { sum += rows.alive(r) ? static_cast<double>(scores[r]) : 0.0; }
    for (std::size_t r = 0; r < rows.rows(); ++r) {
      const double difference = rows.alive(r) ? static_cast<double>(scores[r]) - sum / count : 0.0;
      squares += difference * difference;
    }
    return squares / std::max(1.0, count - 1.0);
  }
  /// Of a layer with these variances of its heads.
  static double metric(std::span<const double> variances) {
    double least = variances.front();
    double largest = least;
    for (const double own : variances) {
      least = std::min(least, own);
      largest = std::max(largest, own);
    }
    double sum = 0.0;
    for (const double own : variances) { sum += largest > least ? (own - least) / (largest - least) : 0.0; }
    return sum / static_cast<double>(variances.size());
  }
  /// The share of its rows that layer `layer` keeps where `even` of all are kept.
  static double share(std::span<const double> metrics, std::size_t layer, double even) {
    double sum = 0.0;
    for (const double own : metrics) { sum += __builtin_exp(metrics[layer] - own); }
    return std::clamp(static_cast<double>(metrics.size()) / sum * even, 0.01, 1.0);
  }
};

}  // namespace kvcompress
