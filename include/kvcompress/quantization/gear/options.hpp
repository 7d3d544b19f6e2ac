// include/kvcompress/quantization/gear/options.hpp - the settings of GEAR's stores.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

#include "kvcompress/core/accumulation.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Settings of GEAR's stores; `Buffer` is the default of `buffer`.
template <std::size_t Buffer>
struct GearOptions {
  std::size_t prompt_rank = 4;                           ///< rank of the low-rank part of a prompt, at most 1024; 0 leaves it out
  std::size_t decode_rank = 2;                           ///< rank in later segments, at most 1024
  std::size_t sweeps = 3;                                ///< of the power iteration, 1 to 1000; its residual falls with each
  double sparsity = 0.02;                                ///< share of entries kept exact; 0 is GEAR-L, 1 keeps all
  std::size_t buffer = Buffer;                           ///< exact rows that become a segment
  std::size_t merge = 0;                                 ///< so many segments of decoded tokens become one, once; 0: never
  std::size_t seed = 1;                                  ///< of the start of the power iteration
  Accumulation accumulation = Accumulation::near_exact;  ///< how attention adds up products with codes
  bool official_simulation = false;  ///< the official code's outlier counts of keys and its rounding before the low-rank part
  /// Start of the power iteration of prompts instead of the seed's: (dim, prompt_rank), and for values whose vectors run over all heads
  /// (heads, dim, prompt_rank). A cache keeps a copy; a GearStore of one's own does not.
  const float* start = nullptr;

  static void fields(auto& options, auto&& field) {
    field("prompt_rank", options.prompt_rank);
    field("decode_rank", options.decode_rank);
    field("sweeps", options.sweeps);
    field("sparsity", options.sparsity);
    field("buffer", options.buffer);
    field("merge", options.merge);
    field("seed", options.seed);
    field("accumulation", options.accumulation);
    field("official_simulation", options.official_simulation);
  }
  static void unnamed_fields(auto& options, auto&& field) { field("start", options.start != nullptr); }
};

}  // namespace kvcompress
