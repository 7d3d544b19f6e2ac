// include/kvcompress/eviction/selectors/sentences.hpp - whole sentences stay or go, as the caller has said where they end.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <string_view>

#include "kvcompress/core/tokens.hpp"
#include "kvcompress/eviction/selectors/chunk.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Like ChunkKV's choice (see Chunks), but over sentences, or whatever else ends at the boundaries of KVCache::describe, instead of equal chunks: those
/// with the largest mean scores stay whole, one after the other, as long as they fit in the budget; what is left of it goes to the best rows of the best
/// one that did not. A sentence with protected rows comes first; if it does not fit, these stay at least. Of a sentence that lost rows before the rest is
/// one. Tokens that nothing is known of belong to the last sentence. Cost: a sort of the sentences, and of rows whose store is not in text order.
struct Sentences {
  static constexpr std::string_view name = "sentences";
  static constexpr bool needs_tokens = true;
  struct Options {
    static void fields(auto&, auto&&) {}
  };
  static void choose(const Options& /*options*/, RowSet& set, std::span<const float> scores, const Protected& protected_rows,
                     std::size_t budget) {
    if (set.rows.live() <= budget) { return; }
    set.sort_rows();
    Vector<detail::Chunk> sentences(Allocator<detail::Chunk>(set.order.get_allocator()));
    const std::size_t rows = set.order.size();
    double sum = 0.0;
    bool ended = false;  // between the row before and this one
    std::size_t first = 0;
    const auto close = [&](std::size_t last) {
      if (last == first) { return; }
      const bool holds = first < protected_rows.sinks || last + protected_rows.recent > rows;
      sentences.push_back({first, last, sum / static_cast<double>(last - first), holds});
      first = last;
      sum = 0.0;
    };
    Position before = 0;
    for (std::size_t i = 0; i < rows; ++i) {
      const Position position = set.rows.position(set.order[i]);
      for (; !ended && before < position; ++before) { ended = set.tokens != nullptr && set.tokens->ends(before); }
      if (ended) { close(i); }
      before = position;
      ended = false;
      sum += static_cast<double>(scores[set.order[i]]);
    }
    close(rows);
    detail::Keeping keeping(set, protected_rows, budget);
    std::sort(sentences.begin(), sentences.end(), detail::Chunk::before);
    const detail::Chunk* torn = nullptr;
    for (const detail::Chunk& sentence : sentences) {
      if (keeping.missing(sentence) <= keeping.left()) {
        keeping.keep(sentence.first, sentence.last);
      } else if (torn == nullptr) {
        torn = &sentence;
      }
    }
    if (torn != nullptr) { keeping.keep_best(torn->first, torn->last, keeping.left(), scores); }
  }
};

}  // namespace kvcompress
