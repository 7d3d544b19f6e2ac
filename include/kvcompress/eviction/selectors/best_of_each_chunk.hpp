// include/kvcompress/eviction/selectors/best_of_each_chunk.hpp - the same share of every chunk of neighbouring rows stays.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/eviction/selectors/chunks.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Of every chunk of `length` rows in text order, the last one shorter, the best rows stay: the budget's share of its rows, rounded down, at least 1
/// as long as the budget lasts. Protected rows stay first. Cost: a sort.
///
/// Source: NVIDIA/kvpress@8bb29b9c3078:chunk_press.py; with scores of each chunk for itself it is that code's (see InChunks).
struct BestOfEachChunk {
  static constexpr std::string_view name = "best_of_each_chunk";
  struct Options {
    std::size_t length = 1024;  ///< rows of a chunk, at least 1
    static void fields(auto& options, auto&& field) { field("length", options.length); }
  };
  static void choose(const Options& options, RowSet& set, std::span<const float> scores, const Protected& protected_rows,
                     std::size_t budget) {
    const std::size_t live = set.rows.live();
    if (live <= budget) { return; }
    const Vector<detail::Chunk> chunks = detail::chunks_of(set, scores, protected_rows, std::max<std::size_t>(1, options.length));
    detail::Keeping keeping(set, protected_rows, budget);
    for (const detail::Chunk& chunk : chunks) {
      const std::size_t share = std::max<std::size_t>(1, chunk.size() * budget / live);
      const std::size_t kept = chunk.size() - keeping.missing(chunk);
      keeping.keep_best(chunk.first, chunk.last, share - std::min(share, kept), scores);
    }
  }
};

}  // namespace kvcompress
