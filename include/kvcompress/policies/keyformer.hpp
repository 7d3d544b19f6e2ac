// include/kvcompress/policies/keyformer.hpp - Keyformer: key rows by noisy attention, and the newest ones.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/eviction/evict.hpp"
#include "kvcompress/eviction/scorers/noisy_attention.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// "Keyformer: KV Cache Reduction through Key Tokens Selection for Efficient Generative Inference"; see NoisyAttention. There the budget is 60 %
/// of the prompt, of which the newest 30 % always stay. Keeps: `budget` rows per lane, the newest 30 % of them or `recent`. Observes: every query.
/// Loses: rows that nobody attended to yet, for good.
struct Keyformer {
  using Eviction = Evict<NoisyAttention<>>;
};

}  // namespace kvcompress
