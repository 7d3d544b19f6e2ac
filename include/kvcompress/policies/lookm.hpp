// include/kvcompress/policies/lookm.hpp - LOOK-M: text before images, and what goes of images merged into what stays.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/eviction/dispose.hpp"
#include "kvcompress/eviction/dispositions/merge_nearest.hpp"
#include "kvcompress/eviction/scorers/accumulated_attention.hpp"
#include "kvcompress/eviction/scorers/text_first.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// "LOOK-M: Look-Once Optimization in KV Cache for Efficient Multimodal Long-Context Inference"; SUSTechBruce/LOOK-M@ecf0f51a9c41, its pivot merge. Where
/// the images are must be told, as positions (see TextFirst for source and deviations). Keeps: `budget` rows per lane, half of them recent. Observes
/// every query. Acts at every commit; there once, at the end of the prompt. Loses: rows of images sooner than of text, and what merged rows had
/// apart.
struct LookM {
  struct Eviction : Evict<TextFirst<AccumulatedAttention>, Uniform, Best, MergeNearest<false>> {
    using Parts = Evict<TextFirst<AccumulatedAttention>, Uniform, Best, MergeNearest<false>>;
    struct Options : Parts::Options {
      Options() { this->fate.weights = MergeWeights::pivot; }
    };
  };
};

}  // namespace kvcompress
