// include/kvcompress/policies/landmarks.hpp - ShadowKV's choice of rows, over any storage.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/policies/combine.hpp"
#include "kvcompress/retrieval/landmarks.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// The retrieval of "ShadowKV: KV Cache in Shadows for High-Throughput Long-Context LLM Inference" alone: chunk means choose what a query
/// reads. Keeps: every row. Loses: rows of other chunks, for this query only. `Combine<Landmarks, Kivi<4>>` reads only the chosen chunks;
/// ShadowKV adds low-rank keys and values in a slow tier.
struct Landmarks {
  using Retrieval = LandmarkIndex<half>;
};

}  // namespace kvcompress
