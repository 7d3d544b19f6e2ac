// include/kvcompress/eviction/scorers/key_norm.hpp - Knorm's score: how short a key is.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/core/math.hpp"
#include "kvcompress/eviction/scored.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Minus the length of a key, as it was before it was encoded: short keys tend to be attended most. Observes no attention. Cost: one pass over
/// each key that is appended; 4 bytes per row and lane.
///
/// Source: "A Simple and Effective L2 Norm-Based Strategy for KV Cache Compression"; NVIDIA/kvpress@8bb29b9c3078:knorm_press.py, which
/// evicts at the end of a prompt only; here every commit may.
struct KeyNorm : ScoredRows {
  static constexpr std::string_view name = "key_norm";

  static constexpr std::size_t recent(const Options&, std::size_t /*budget*/) noexcept { return 0; }
  static void observe_row(const Options&, State& state, std::size_t row, std::span<const float> key, std::span<const float> /*value*/) {
    double sum = 0.0;
    for (const float x : key) { sum += static_cast<double>(x) * static_cast<double>(x); }
    state.set(row, 0, static_cast<float>(-math::sqrt(sum)));
  }
};

}  // namespace kvcompress
