// include/kvcompress/policies/d2o.hpp - D2O: what attention forgets is merged into rows like it, if there are any.
// SPDX-License-Identifier: MIT
#pragma once

#include <string_view>

#include "kvcompress/eviction/dispose.hpp"
#include "kvcompress/eviction/dispositions/merge_ranked.hpp"
#include "kvcompress/eviction/scorers/accumulated_attention.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// "D2O: Dynamic Discriminative Operations for Efficient Long-Context Inference of Large Language Models"; AIoT-MLSys-Lab/d2o@12c99d8a9961. Keeps:
/// `budget` rows per lane, sinks and recent ones among them, by accumulated attention; rows that go are merged as MergeRanked says, `weights=cosine`
/// as the code does it, `exponential` as the paper does. Observes: every query. Acts at every commit. Loses: rows unlike all that stay; a merge
/// forgets how many rows it was. Deviations: the code leaves layers 0, 1 and the last one alone and gives the others budgets by how their attention
/// varies, as the allocator VarianceShares does ("h2o+variance_shares", without merging); here every layer has the same.
struct D2O {
  struct Eviction : Evict<AccumulatedAttention, Uniform, Best, MergeRanked> {
    using Base = Evict<AccumulatedAttention, Uniform, Best, MergeRanked>;
    static constexpr std::string_view name = "d2o";
    struct Options : Base::Options {
      constexpr Options() { this->sinks = 4; }
    };
  };
};

}  // namespace kvcompress
