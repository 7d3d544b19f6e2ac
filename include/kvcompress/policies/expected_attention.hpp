// include/kvcompress/policies/expected_attention.hpp - Expected Attention: the rows that queries to come are expected to need.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/eviction/evict.hpp"
#include "kvcompress/eviction/scorers/expected_attention.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// "Expected Attention: KV Cache Compression by Estimating Attention from Future Queries Distribution";
/// NVIDIA/kvpress@8bb29b9c3078:expected_attention_press.py (epsilon 0.02 there). Keeps: `budget` rows per lane of the prompt. Observes: the queries
/// of the prompt, not their attention, so it goes with engines that have their own. Loses: rows that such queries would not look at. Later
/// questions are as safe as they resemble the prompt. `Evict<ExpectedQueries, Ada>` shares the budget out among the heads of a layer.
struct ExpectedAttention {
  using Eviction = Evict<ExpectedQueries>;
};

}  // namespace kvcompress
