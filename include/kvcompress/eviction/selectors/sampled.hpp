// include/kvcompress/eviction/selectors/sampled.hpp - rows stay by chance, those with larger scores more often.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <string_view>

#include "kvcompress/core/bounds.hpp"
#include "kvcompress/core/math.hpp"
#include "kvcompress/core/random_bits.hpp"
#include "kvcompress/eviction/decoded_rows.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Of the rows that are not protected, `best_share` of their places go to those with the largest scores, and the others are drawn without replacement
/// with probabilities softmax(score / temperature), scores taken from 0 for the least to 1 for the largest of the lane. The same position has the
/// same luck at every decision. Protected rows stay. Cost: a logarithm per row and a sort.
///
/// Source: the random half of "NACL: A General and Effective KV Cache Eviction Framework for LLMs at Inference Time" and of "Scissorhands: Exploiting the
/// Persistence of Importance Hypothesis for LLM KV Cache Compression at Test Time", as Zefan-Cai/KVCache-Factory@c97f9d706d63 has them. Deviations: random
/// numbers are hashes; one scale of scores for all scorers.
struct Sampled {
  static constexpr std::string_view name = "sampled";
  struct Options {
    double best_share = 0.7;   ///< 0 to 1
    double temperature = 0.2;  ///< 1e-6 to 1e6; small ones choose the best rows
    std::size_t seed = 0;
    static void fields(auto& options, auto&& field) {
      field("best_share", options.best_share);
      field("temperature", options.temperature);
      field("seed", options.seed);
    }
  };
  static void validate(const Options& options) {
    require(options.best_share >= 0.0 && options.best_share <= 1.0, ErrorCode::option, "sampled: best_share is ", options.best_share,
            ", must be 0 to 1");
    require(options.temperature >= 1e-6 && options.temperature <= 1e6, ErrorCode::option, "sampled: temperature is ", options.temperature,
            ", must be 1e-6 to 1e6");
  }

  static void choose(const Options& options, RowSet& set, std::span<const float> scores, const Protected& protected_rows,
                     std::size_t budget) {
    if (set.rows.live() <= budget) { return; }
    set.sort_rows();
    const std::size_t first = std::min(protected_rows.sinks, set.order.size());
    const std::size_t last = set.order.size() - std::min(protected_rows.recent, set.order.size() - first);
    const std::size_t places = budget - std::min(budget, set.order.size() - (last - first));
    const std::span<Position> rows(set.order.data() + first, last - first);
    std::stable_sort(rows.begin(), rows.end(), [&](Position a, Position b) { return scores[a] > scores[b]; });
    const auto best = static_cast<std::size_t>(options.best_share * static_cast<double>(places));
    double least = 1e300;
    double largest = -1e300;
    for (const Position row : rows) {  // what a scorer keeps or drops whatever happens does not belong to the scale
      if (scores[row] >= guard || scores[row] <= -guard) { continue; }
      least = std::min(least, static_cast<double>(scores[row]));
      largest = std::max(largest, static_cast<double>(scores[row]));
    }
    const double range = std::max(largest - least, 1e-30);
    const std::uint64_t lane = random_bits(options.seed, set.lanes.front().site);
    Vector<double> luck(set.rows.rows(), 0.0, Allocator<double>(set.order.get_allocator()));
    for (const Position row : rows.subspan(std::min(best, rows.size()))) {  // the largest of such sums are a draw without replacement
      const double uniform = (static_cast<double>(random_bits(lane + set.rows.position(row)) >> 11U) + 0.5) * 0x1p-53;
      luck[row] = (static_cast<double>(scores[row]) - least) / (range * options.temperature) - math::log(-math::log(uniform));
    }
    std::stable_sort(rows.begin() + static_cast<std::ptrdiff_t>(std::min(best, rows.size())), rows.end(),
                     [&](Position a, Position b) { return luck[a] > luck[b]; });
    for (std::size_t i = places; i < rows.size(); ++i) { set.drop[rows[i]] = 1; }
  }

 private:
  static constexpr float guard = 1e37F;
};

}  // namespace kvcompress
