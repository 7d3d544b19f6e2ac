// include/kvcompress/policies/knorm.hpp - Knorm: the rows with the shortest keys.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/eviction/evict.hpp"
#include "kvcompress/eviction/scorers/key_norm.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// "A Simple and Effective L2 Norm-Based Strategy for KV Cache Compression"; scores as NVIDIA/kvpress@8bb29b9c3078:knorm_press.py. Keeps: `budget`
/// rows per lane. Observes: nothing. Loses: rows with long keys, for good; later questions are as safe as the first.
struct Knorm {
  using Eviction = Evict<KeyNorm>;
};

}  // namespace kvcompress
