// include/kvcompress/eviction/prefix_profile.hpp - how much each layer can drop, from the attention of a sample text.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <span>
#include <vector>

#include "kvcompress/core/error.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Rows that each layer drops so that all keep the same share of their attention and together about `share` of the rows go, all but `guarded` per
/// layer of which may. `scores`: (layers, tokens), attention over all queries, in the mean over the heads, 0 or more. Bisection until the sum is less
/// than 5 rows off, at most 60 steps.
inline std::vector<std::size_t> prefix_removals(std::span<const float> scores, std::size_t layers, double share, std::size_t guarded = 5) {
  require(layers > 0 && !scores.empty() && scores.size() % layers == 0, ErrorCode::input, "prefix_removals: scores has ", scores.size(),
          " numbers, must have a multiple of ", layers, " layers");
  require(share >= 0.0 && share <= 1.0, ErrorCode::option, "prefix_removals: share is ", share, ", must be 0 to 1");
  const std::size_t tokens = scores.size() / layers;
  std::vector<double> sums(scores.begin(), scores.end());  // of the best rows of a layer, as shares of all
  for (std::size_t layer = 0; layer < layers; ++layer) {
    const auto first = sums.begin() + static_cast<std::ptrdiff_t>(layer * tokens);
    std::sort(first, first + static_cast<std::ptrdiff_t>(tokens), std::greater<>());
    double sum = 0.0;
    for (std::size_t i = 0; i < tokens; ++i) { first[static_cast<std::ptrdiff_t>(i)] = sum += first[static_cast<std::ptrdiff_t>(i)]; }
    for (std::size_t i = 0; i < tokens && sum > 0.0; ++i) { first[static_cast<std::ptrdiff_t>(i)] /= sum; }
  }
  const double target = share * static_cast<double>(scores.size());
  std::vector<std::size_t> removed(layers);
  double low = 0.0;
  double high = 1.0;
  for (std::size_t step = 0; step < 60; ++step) {
    const double kept_share = (low + high) / 2.0;
    double total = 0.0;
    for (std::size_t layer = 0; layer < layers; ++layer) {
      const auto first = sums.begin() + static_cast<std::ptrdiff_t>(layer * tokens);
      const auto needed = std::lower_bound(first, first + static_cast<std::ptrdiff_t>(tokens), kept_share) - first + 1;
      removed[layer] = tokens - std::min(tokens, static_cast<std::size_t>(needed) + guarded);
      total += static_cast<double>(removed[layer]);
    }
    if (total - target < 5.0 && target - total < 5.0) { break; }
    (total < target ? high : low) = kept_share;
  }
  return removed;
}

/// The shares that PrefixLayers takes: the same, brought to `share` in all. A model's are the mean over some texts.
inline std::vector<float> prefix_profile(std::span<const float> scores, std::size_t layers, double share, std::size_t guarded = 5) {
  const std::vector<std::size_t> removed = prefix_removals(scores, layers, share, guarded);
  double total = 0.0;
  for (const std::size_t rows : removed) { total += static_cast<double>(rows); }
  const auto tokens = static_cast<double>(scores.size() / layers);
  std::vector<float> shares;
  for (const std::size_t rows : removed) {
    const double scaled = total > 0.0 ? static_cast<double>(rows) * share * static_cast<double>(scores.size()) / total : 0.0;
    shares.push_back(static_cast<float>(std::min(1.0, static_cast<double>(static_cast<std::size_t>(scaled)) / tokens)));
  }
  return shares;
}

}  // namespace kvcompress
