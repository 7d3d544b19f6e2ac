// include/kvcompress/eviction/selectors/two_stages.hpp - CriticalKV's choice: by scores first, then by scores times the size of the values.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <string_view>

#include "kvcompress/eviction/row_set.hpp"
#include "kvcompress/eviction/value_norm.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// A share of the budget, protected rows counted in, goes to the rows with the largest scores, the rest to those with the largest (score + epsilon) *
/// norm of the value, in the mean over the lanes of the set. Ties go to the older row. Cost: decodes the values and computes their norms; 12 bytes
/// per row of scratch.
///
/// Source: "Identify Critical KV Cache in LLM Inference from an Output Perturbation Perspective"; NVIDIA/kvpress@8bb29b9c3078:criticalkv_press.py. Its
/// epsilon is added to mean attention; where a scorer's scores are sums, as those of WindowAttention over window and group, it is that much larger.
struct TwoStages {
  static constexpr std::string_view name = "two_stages";
  struct Options {
    double first_share = 0.5;  ///< 0 to 1
    double epsilon = 1e-4;     ///< in units of the scores
    ValueNorm norm{};
    static void fields(auto& options, auto&& field) {
      field("first_share", options.first_share);
      field("epsilon", options.epsilon);
    }
  };
  static void choose(const Options& options, RowSet& set, std::span<const float> scores, const Protected& protected_rows,
                     std::size_t budget) {
    if (set.rows.live() <= budget) { return; }
    const auto share = static_cast<std::size_t>(static_cast<double>(budget) * std::clamp(options.first_share, 0.0, 1.0));
    const std::size_t first = std::max(share, protected_rows.sinks + protected_rows.recent);
    set.keep_best(first, protected_rows, [of = scores.data()](std::size_t row) { return of[row]; });
    if (first == budget) { return; }
    Vector<double> second(set.rows.rows(), 0.0, Allocator<double>(set.order.get_allocator()));
    for (const LaneView& lane : set.lanes) { add_norms(options.norm, lane, set, second); }
    set.order.clear();
    for (std::size_t r = 0; r < second.size(); ++r) {
      second[r] *= static_cast<double>(scores[r]) + options.epsilon;
      if (set.drop[r] != 0) { set.order.push_back(static_cast<Position>(r)); }
    }
    const auto before = [&](Position a, Position b) {
      return second[a] != second[b] ? second[a] > second[b] : set.rows.position(a) < set.rows.position(b);
    };
    const std::size_t back = std::min(budget - first, set.order.size());
    std::nth_element(set.order.begin(), set.order.begin() + static_cast<std::ptrdiff_t>(back - 1), set.order.end(), before);
    for (std::size_t i = 0; i < back; ++i) { set.drop[set.order[i]] = 0; }
  }

 private:
  /// Of the rows that the first stage dropped.
  static void add_norms(const ValueNorm& norm, const LaneView& lane, const RowSet& set, Vector<double>& norms) {
    const std::size_t width = lane.site.shape.value_width();
    Vector<float> value(width, 0.0F, Allocator<float>(set.order.get_allocator()));
    for (std::size_t r = 0; r < norms.size(); ++r) {
      if (set.drop[r] == 0) { continue; }
      lane.values({r, r + 1}, value.data());
      norms[r] += norm(lane.site, value) / static_cast<double>(set.lanes.size());
    }
  }
};

}  // namespace kvcompress
