// include/kvcompress/reference/snapkv.hpp - one selection at the end of the prompt, by its last queries.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/low_rank/eigen_core.hpp"

#include <algorithm>
#include <limits>
#include <span>
#include <vector>

#include "kvcompress/reference/attention.hpp"

/// "SnapKV: LLM Knows What You are Looking for Before Generation" (arXiv:2404.14469), as in
/// FasterDecoding/SnapKV@e216ddc84c5b; per KV head as in Zefan-Cai/KVCache-Factory@c97f9d706d63.
namespace kvcompress::inline KVCOMPRESS_ABI::reference {

/// `average` always divides by the kernel, also where it hangs over an end; `max` ignores what hangs over.
enum class Pooling { average, max };

struct SnapKVOptions {
  Index window = 32;      // last prompt queries, which vote, and whose rows always stay
  Index capacity = 2048;  // rows that stay, window included
  Index kernel = 5;       // pooled scores, odd
  Pooling pooling = Pooling::average;
  HeadReduction reduction = HeadReduction::mean;  // of the query heads of one KV head, before pooling
};

/// Attention that the last `window` queries give to each key before the window: (tokens - window). Rotated
/// inputs of one head; row i is token i; `queries` may hold the window only. The softmax runs over all keys,
/// window included.
inline Vector snapkv_scores(const Matrix& queries, const Matrix& keys, Index window, const AttentionOptions& options = {}) {
  const Index tokens = keys.rows();
  require(window >= 1 && window <= queries.rows() && window <= tokens, ErrorCode::option, "reference: window is ", window,
          ", must be 1 to the number of queries, ", queries.rows(), ", and of tokens, ", tokens);
  const Matrix last = queries.bottomRows(window);
  const AttentionResult seen =
      attention(last, keys, Matrix::Zero(tokens, 0), consecutive(tokens - window, window), consecutive(0, tokens), options);
  return column_sums(seen.probabilities).head(tokens - window);
}

/// Scores smoothed along the tokens, stride 1, same length.
inline Vector snapkv_pool(const Vector& scores, Index kernel, Pooling pooling) {
  require(kernel >= 1 && kernel % 2 == 1, ErrorCode::option, "reference: kernel is ", kernel, ", must be odd and at least 1");
  Vector out(scores.size());
  for (Index j = 0; j < scores.size(); ++j) {
    double sum = 0.0;
    double largest = -std::numeric_limits<double>::infinity();
    for (Index i = std::max(Index{0}, j - kernel / 2); i <= std::min(scores.size() - 1, j + kernel / 2); ++i) {
      sum += scores(i);
      largest = std::max(largest, scores(i));
    }
    out(j) = pooling == Pooling::average ? sum / static_cast<double>(kernel) : largest;
  }
  return out;
}

/// The rows that stay, ascending: the best `capacity - window` of the pooled scores, then the window.
/// `tokens` is the prompt length; a prompt shorter than the capacity stays whole.
inline Rows snapkv_keep(const Vector& pooled, Index tokens, const SnapKVOptions& options) {
  require(options.capacity >= options.window, ErrorCode::option, "reference: capacity is ", options.capacity,
          ", must be at least window = ", options.window);
  if (tokens < options.capacity) { return top_rows(Vector::Zero(tokens), tokens); }
  require(pooled.size() == tokens - options.window, ErrorCode::shape, "reference: pooled.size() is ", pooled.size(), ", must be ",
          tokens - options.window, ", the rows before the window");
  Rows kept = top_rows(pooled, options.capacity - options.window);
  for (Index row = tokens - options.window; row < tokens; ++row) { kept.push_back(row); }
  return kept;
}

/// The whole rule for one KV head, whose query heads come as one matrix each (a single one: per query head,
/// as in the official code).
inline Rows snapkv_select(std::span<const Matrix> queries, const Matrix& keys, const SnapKVOptions& options) {
  if (keys.rows() < options.capacity) { return snapkv_keep(Vector(), keys.rows(), options); }
  std::vector<Vector> scores;
  for (const Matrix& head : queries) { scores.push_back(snapkv_scores(head, keys, options.window)); }
  const Vector reduced = reduce_heads(scores, options.reduction);
  return snapkv_keep(snapkv_pool(reduced, options.kernel, options.pooling), keys.rows(), options);
}

}  // namespace kvcompress::reference
