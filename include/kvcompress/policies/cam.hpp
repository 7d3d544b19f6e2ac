// include/kvcompress/policies/cam.hpp - CaM: values of rows that go while decoding are merged into the rows that follow.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/eviction/dispose.hpp"
#include "kvcompress/eviction/dispositions/value_spread.hpp"
#include "kvcompress/eviction/scorers/in_layer.hpp"
#include "kvcompress/eviction/scorers/key_norm.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// An eviction E that lets prompts be, and then waits until `period` rows are decoded.
template <Eviction E>
struct WhileDecoding : E {
  static void select(const typename E::Options& options, std::span<RowSet> sets, const Moment& moment) {
    const auto decoded = [&](RowSet& set) {
      return set.rows.live() > 0 && set.newest(0) + std::size_t{1} >= moment.prompt_tokens + options.period;
    };
    if (!moment.end_of_prompt && std::any_of(sets.begin(), sets.end(), decoded)) { E::select(options, sets, moment); }
  }
};

/// "CaM: Cache Merging for Memory-efficient LLMs Inference", as NVIDIA/kvpress@8bb29b9c3078:kvpress/presses/cam_press.py has it, over the norms of keys
/// (`Disposed<E, ValueSpread<>>` has it over others). Keeps: the prompt until `period` rows are decoded, then `budget` rows, the same in all heads of a
/// layer, at every `period` rows more. Observes: every query. Loses: what ValueSpread does not merge.
struct CaM {
  using Eviction = Disposed<WhileDecoding<Evict<InLayer<KeyNorm>>>, ValueSpread<>>;
};

}  // namespace kvcompress
