// include/kvcompress/policies/pyramidkv.hpp - PyramidKV: SnapKV with more rows in the first layers than in the last.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/eviction/allocators/pyramid.hpp"
#include "kvcompress/eviction/evict.hpp"
#include "kvcompress/eviction/scorers/window_attention.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// "PyramidKV: Dynamic KV Cache Compression based on Pyramidal Information Funneling"; NVIDIA/kvpress@8bb29b9c3078:pyramidkv_press.py (there
/// window 64, kernel 5, average pooling). Keeps: `budget` rows per lane on average over the layers (see Pyramid). Observes: the last `window`
/// queries of a prompt. Loses: what they do not look at.
struct PyramidKV {
  using Eviction = Evict<WindowAttention, Pyramid>;
};

}  // namespace kvcompress
