// include/kvcompress/policies/full.hpp - the uncompressed cache: every row, in f32, f16 or bf16.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/policies/combine.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// All rows in T (float, half, bfloat16): the baseline. Beside an eviction it says how the rows that stay are held:
/// `Combine<H2O, Full<float>>`.
/// Keeps: everything. Observes: nothing. Loses: the rounding to T. Bytes per token and lane: (key_dim + value_dim) * sizeof(T).
template <class T = half>
struct Full {
  using Storage = ExactStorage<T>;
};

}  // namespace kvcompress
