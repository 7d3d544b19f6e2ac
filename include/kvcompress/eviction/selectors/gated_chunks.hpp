// include/kvcompress/eviction/selectors/gated_chunks.hpp - chunks of neighbouring rows stay, but of spiky ones the best rows only.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/core/math.hpp"
#include "kvcompress/eviction/selectors/chunks.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Chunks of `length` rows in text order, by their mean scores: they stay whole until the budget is used up, but where the score is spread over less
/// than usual (the entropy of its shares is below the median of the chunks) in a chunk of at least median score, only its best `spiky_rows` rows
/// stay. The last chunk is cut to what is left; what is then left goes to the best rows. A chunk with protected rows comes first and is never
/// spiky. Cost: as Chunks, and a logarithm per row.
///
/// Source: NVIDIA/kvpress@21f6ed634361:entropy_gated_chunkkv_press.py. Deviation: there protected rows are rows of very large scores, so that they can
/// go with the others of a chunk that they make spiky.
struct GatedChunks {
  static constexpr std::string_view name = "gated_chunks";
  struct Options {
    std::size_t length = 10;     ///< rows of a chunk, at least 2
    std::size_t spiky_rows = 4;  ///< that stay of a spiky chunk
    static void fields(auto& options, auto&& field) {
      field("length", options.length);
      field("spiky_rows", options.spiky_rows);
    }
  };
  static void choose(const Options& options, RowSet& set, std::span<const float> scores, const Protected& protected_rows,
                     std::size_t budget) {
    if (set.rows.live() <= budget) { return; }
    Vector<detail::Chunk> chunks = detail::chunks_of(set, scores, protected_rows, std::max<std::size_t>(2, options.length));
    detail::Keeping keeping(set, protected_rows, budget);
    std::sort(chunks.begin(), chunks.end(), detail::Chunk::before);
    Vector<double> spreads(Allocator<double>(set.order.get_allocator()));
    for (const detail::Chunk& chunk : chunks) { spreads.push_back(chunk.holds_protected ? 1.0 : spread(chunk, set, scores)); }
    Vector<double> sorted(spreads);
    const auto median = sorted.begin() + static_cast<std::ptrdiff_t>((sorted.size() - 1) / 2);  // the lower one
    std::nth_element(sorted.begin(), median, sorted.end());
    const detail::Chunk& middle = chunks[chunks.size() / 2];  // of descending scores
    for (std::size_t i = 0; i < chunks.size(); ++i) {
      const detail::Chunk& chunk = chunks[i];
      const bool spiky = (chunk.holds_protected || chunk.score >= middle.score) && spreads[i] < *median;
      keeping.keep_best(chunk.first, chunk.last, spiky ? options.spiky_rows : chunk.size(), scores);
    }
    keeping.keep_best(0, set.order.size(), budget, scores);
  }

 private:
  /// Entropy of the shares that the rows have in the score of a chunk, 0 to 1. Negative scores are counted from the smallest one.
  static double spread(const detail::Chunk& chunk, const RowSet& set, std::span<const float> scores) {
    if (chunk.size() == 1) { return 0.0; }
    double least = 0.0;
    double sum = 1e-8;
    const auto score = [&](std::size_t i) { return static_cast<double>(scores[set.order[i]]); };
    for (std::size_t i = chunk.first; i < chunk.last; ++i) { least = std::min(least, score(i)); }
    for (std::size_t i = chunk.first; i < chunk.last; ++i) { sum += score(i) - least; }
    double entropy = 0.0;
    for (std::size_t i = chunk.first; i < chunk.last; ++i) {
      const double share = (score(i) - least) / sum;
      entropy -= share * __builtin_log(share + 1e-8);
    }
    return std::clamp(entropy / __builtin_log(static_cast<double>(chunk.size())), 0.0, 1.0);
  }
};

}  // namespace kvcompress
