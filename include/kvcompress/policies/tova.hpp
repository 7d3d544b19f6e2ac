// include/kvcompress/policies/tova.hpp - TOVA: the rows that the newest query attends to.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/eviction/evict.hpp"
#include "kvcompress/eviction/scorers/last_attention.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// "Transformers are Multi-State RNNs" (TOVA); scores as NVIDIA/kvpress@8bb29b9c3078:tova_press.py, at the end of a prompt and, as in the paper, at
/// every step of decoding. Keeps: `budget` rows, the same in all lanes of a layer; the newest always. Observes: the newest query. Loses:
/// what it does not look at, for good. Drafts can be taken back as far as Options::speculation.
struct TOVA {
  using Eviction = Evict<LastAttention>;
};

}  // namespace kvcompress
