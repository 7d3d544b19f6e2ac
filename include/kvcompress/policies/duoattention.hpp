// include/kvcompress/policies/duoattention.hpp - DuoAttention: retrieval heads keep everything, the others stream.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kvcompress/any/any_eviction.hpp"
#include "kvcompress/eviction/sink_window.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// "DuoAttention: Efficient Long-Context LLM Inference with Retrieval and Streaming Heads", the side of it that runs: lanes with large gates, which
/// a training found for the model, keep everything, the others the first and the newest rows. Keeps: n or sinks + window rows per lane. Observes:
/// nothing. Loses: the middle of the text, in streaming heads.
///
/// Source: mit-han-lab/duo-attention@fe93c314ae87:duo_attn/utils.py.
struct DuoAttention {
  using Eviction = AnyEviction;

  /// Which of the lanes, (layers, KV heads), keep everything: all but a share of `sparsity`, the ones with the smallest gates. Gates are cut to 0 to
  /// 1. Those above the linearly interpolated quantile, `noise` per lane (there random, below 1e-6) added against ties; without it the later lane wins.
  [[nodiscard]] static std::vector<bool> full_lanes(std::span<const float> gates, double sparsity, std::span<const double> noise = {}) {
    require(!gates.empty() && (noise.empty() || noise.size() == gates.size()), ErrorCode::option, "duo_attention: gates has ", gates.size(),
            " numbers and noise ", noise.size(), ", must have one per lane, or no noise");
    require(sparsity >= 0.0 && sparsity <= 1.0, ErrorCode::option, "duo_attention: sparsity is ", sparsity, ", must be 0 to 1");
    std::vector<double> values(gates.size());
    for (std::size_t lane = 0; lane < gates.size(); ++lane) {
      require(gates[lane] - gates[lane] == 0.0F, ErrorCode::option, "duo_attention: gates has ", gates[lane], ", must be finite numbers");
      const double own = noise.empty() ? 1e-6 * static_cast<double>(lane) / static_cast<double>(gates.size()) : noise[lane];
      values[lane] = std::clamp(static_cast<double>(gates[lane]), 0.0, 1.0) + own;
    }
    std::vector<double> sorted(values);
    std::sort(sorted.begin(), sorted.end());
    const double place = sparsity * static_cast<double>(sorted.size() - 1);
    const auto below = static_cast<std::size_t>(place);
    const double above = sorted[std::min(below + 1, sorted.size() - 1)];
    const double threshold = sorted[below] + (place - static_cast<double>(below)) * (above - sorted[below]);
    std::vector<bool> full(values.size());
    for (std::size_t lane = 0; lane < values.size(); ++lane) {
      full[lane] = sparsity <= 0.0 || (sparsity < 1.0 && values[lane] >= threshold);
    }
    return full;
  }
  /// Options of a cache of such lanes.
  [[nodiscard]] static AnyEviction::Options options(const std::vector<bool>& full, const SinkWindow::Options& streaming) {
    AnyEviction::Options options;
    options.chosen.entries.clear();
    for (const bool all : full) {  // entries stand in the order of their first lanes
      std::vector<detail::Choice<AnyEviction::Ops>>& entries = options.chosen.entries;
      const bool as_first = all == full.front();
      if (entries.size() == (as_first ? 0U : 1U)) {
        entries.push_back(all ? AnyEviction::of<KeepAll>() : AnyEviction::of<SinkWindow>(streaming));
      }
      options.chosen.of_lane.push_back(as_first ? std::uint16_t{0} : std::uint16_t{1});
    }
    return options;
  }
};

}  // namespace kvcompress
