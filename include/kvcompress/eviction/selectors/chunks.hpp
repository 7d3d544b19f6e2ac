// include/kvcompress/eviction/selectors/chunks.hpp - ChunkKV's choice: chunks of neighbouring rows stay or go as a whole.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <string_view>

#include "kvcompress/eviction/selectors/chunk.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Chunks of `length` rows in text order, the last one shorter; those with the largest mean scores stay whole, as many as the budget is a share of the
/// rows and as fit in it, so that fewer rows than the budget may stay. A chunk with protected rows comes first; if it does not fit, these stay alone.
/// Cost: a sort of the chunks, and of rows whose store is not in text order.
///
/// Source: "ChunkKV: Semantic-Preserving KV Cache Compression for Efficient Long-Context LLM Inference"; NVIDIA/kvpress@8bb29b9c3078:chunkkv_press.py.
/// Deviation: that code keeps so many chunks even if they are more rows than the budget.
struct Chunks {
  static constexpr std::string_view name = "chunks";
  struct Options {
    std::size_t length = 20;  ///< rows of a chunk, at least 1
    static void fields(auto& options, auto&& field) { field("length", options.length); }
  };
  static void choose(const Options& options, RowSet& set, std::span<const float> scores, const Protected& protected_rows,
                     std::size_t budget) {
    if (set.rows.live() <= budget) { return; }
    Vector<detail::Chunk> chunks = detail::chunks_of(set, scores, protected_rows, std::max<std::size_t>(1, options.length));
    const std::size_t most = chunks.size() * budget / set.rows.live();
    detail::Keeping keeping(set, protected_rows, budget);
    std::sort(chunks.begin(), chunks.end(), detail::Chunk::before);
    std::size_t taken = 0;
    for (const detail::Chunk& chunk : chunks) {
      const bool fits = keeping.missing(chunk) <= keeping.left();
      if (taken == most || !(fits || chunk.holds_protected)) { break; }
      if (fits) { keeping.keep(chunk.first, chunk.last); }
      ++taken;
    }
  }
};

}  // namespace kvcompress
