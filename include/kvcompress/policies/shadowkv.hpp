// include/kvcompress/policies/shadowkv.hpp - ShadowKV: low-rank keys, values in a slow tier, landmarks choose what a query reads.
// SPDX-License-Identifier: MIT
#pragma once

#include <type_traits>

#include "kvcompress/low_rank/rebuilt_keys.hpp"
#include "kvcompress/offload/offloaded_values.hpp"
#include "kvcompress/policies/combine.hpp"
#include "kvcompress/retrieval/landmarks.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// ShadowKV's storage; see ShadowKV.
template <class T, class F = T>
struct ShadowKVStorage {
  using Keys = RebuiltKeys<T, F>;
  using Values = OffloadedValues<T>;
  static constexpr bool needs_retrieval = true;

  struct Options {
    std::size_t rank = 0;  ///< of the keys of all heads of a layer; 0 means 5/32 of their channels (160 at 8 heads of 128)
    bool reuse = true;     ///< rows that the last query chose too are not fetched again; changes no result
    SlowTier slow{};       ///< where the values of the prompt go: RAM, or a file in a directory
    low_rank::Factorisation factorisation = low_rank::Factorisation::automatic;
    static void fields(auto& options, auto&& field) {
      field("rank", options.rank);
      field("reuse", options.reuse);
      field("directory", options.slow.directory);
    }
    static void unnamed_fields(auto& options, auto&& field) { field("factorisation", options.factorisation); }
  };
  static void validate(const Options& options) {
    check_bounds("shadowkv: rank", options.rank);
    check_named("shadowkv: factorisation", options.factorisation);
  }
};

/// "ShadowKV: KV Cache in Shadows for High-Throughput Long-Context LLM Inference"; ByteDance-Seed/ShadowKV@e51904cdeab7. At the end of a
/// prompt the keys of a layer, before their rotary embedding, are factorised together, its values move to a slow tier, and chunk means of
/// the rotated keys become landmarks. A query reads the local, the outlier and all decoded rows, which are exact, and the chunks that it
/// chooses, whose keys are multiplied out and rotated and whose values are fetched. T (half, bfloat16, float) holds rows, F landmarks and
/// factors: bfloat16 beside 16-bit rows, as the official code has them, which hardware multiplies two at a time.
/// `retrieval.behaviour` says which of the official classes it follows; deviations stand in LandmarkIndex. `retrieval.fold_in` is ours.
/// With ShadowKVClass::offload a query cannot be taken back by truncate: which keys are still exact depends on what was chosen.
///
/// Keeps: every row. Observes: the current query. Loses: chunks that landmarks do not show, for this query; keys outside the subspace.
/// Bytes per lane, fast: tokens * rank / heads + rank * dim in F, a landmark per chunk, and budget + outlier + local + decoded rows; slow:
/// the values. A later end_prompt leaves its rows exact, as decoded ones. Evicted rows go in whole blocks of 128.
template <class T = half, class F = std::conditional_t<sizeof(T) == 2, bfloat16, T>>
struct ShadowKV {
  using Storage = ShadowKVStorage<T, F>;
  using Retrieval = LandmarkIndex<F>;
};

}  // namespace kvcompress
