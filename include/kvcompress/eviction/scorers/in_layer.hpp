// include/kvcompress/eviction/scorers/in_layer.hpp - a scorer whose scores are added up over the lanes of a layer, which keep the same rows.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>

#include "kvcompress/eviction/evict.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// The scores of S, added up over the KV heads of a layer, so that all of them keep the same rows. What S does to the scores of a set, as pooling, it
/// does to the sum.
template <Scorer S>
struct InLayer : S {
  static constexpr Needs may = [] {
    Needs needs = S::may;
    needs.agrees = std::max(needs.agrees, Scope::layer);
    return needs;
  }();
};

}  // namespace kvcompress
