// include/kvcompress/policies/key_diff.hpp - KeyDiff: the rows whose keys resemble the others least.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/eviction/evict.hpp"
#include "kvcompress/eviction/scorers/key_difference.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// "KeyDiff: Key Similarity-Based KV Cache Eviction for Long-Context LLM Inference in Resource-Constrained Environments"; scores as
/// NVIDIA/kvpress@8bb29b9c3078:keydiff_press.py, block after block as its block_press.py: a commit is a block. Keeps: `budget` rows per lane. Observes:
/// nothing. Loses: rows that look like the rest, for good; later questions are as safe as the first.
struct KeyDiff {
  using Eviction = Evict<KeyDifference>;
};

}  // namespace kvcompress
