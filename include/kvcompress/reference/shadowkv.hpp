// include/kvcompress/reference/shadowkv.hpp - low-rank keys, chunks chosen by landmarks.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/reference/xkv.hpp"  // first: its Eigen includes are guarded

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "kvcompress/reference/attention.hpp"
#include "kvcompress/reference/rope.hpp"

/// "ShadowKV: KV Cache in Shadows for High-Throughput Long-Context LLM Inference" (arXiv:2410.21465), as in
/// ByteDance-Seed/ShadowKV@e51904cdeab7 (models/kv_cache.py, class ShadowKVCache unless said otherwise).
namespace kvcompress::inline KVCOMPRESS_ABI::reference {

struct ShadowKVOptions {
  Index rank = 160;            // of the keys of all heads together
  Index chunk = 8;             // tokens
  Index local_chunks = 4;      // newest chunks of the prompt, always read
  Index outlier_chunks = 48;   // per KV head, always read, exact
  Index sparse_tokens = 2048;  // read by choice at every step
  Index chunk_multiple = 1;    // chunks before the local ones are rounded down to a multiple of it
};

/// The class that keeps values in slow memory (ShadowKVCache_CPU) counts chunks by eights, and outliers by
/// the budget: none below 1024 tokens.
inline ShadowKVOptions shadowkv_offload(ShadowKVOptions options) {
  options.outlier_chunks = 24 * (options.sparse_tokens / 1024);
  options.chunk_multiple = 8;
  return options;
}

/// Places in fast memory: [local | outliers | selected | generated].
struct ShadowKVLayout {
  Index prompt = 0;
  Index context_chunks = 0;   // the prompt's first tokens, in whole chunks; the others are local
  Index local_tokens = 0;     // the rest of the prompt, whole chunks or not
  Index outlier_chunks = 0;   // of the context chunks
  Index selected_chunks = 0;  // of those that are not outliers
  Index sparse_start = 0;     // first place of a selected row
  Index sparse_end = 0;       // first place of a generated row
};

inline ShadowKVLayout shadowkv_layout(Index prompt, const ShadowKVOptions& options) {
  require(options.chunk >= 1 && options.chunk_multiple >= 1, ErrorCode::option, "reference: chunk is ", options.chunk,
          " and chunk_multiple is ", options.chunk_multiple, ", must be at least 1");
  Index context = prompt / options.chunk - options.local_chunks;
  context -= context % options.chunk_multiple;
  const Index selected = options.sparse_tokens / options.chunk;
  require(context >= 0, ErrorCode::shape, "reference: the prompt has ", context, " chunks beside the local ones, must have at least 0");
  require(selected + options.outlier_chunks <= context, ErrorCode::shape, "reference: the prompt has ", context,
          " chunks to choose from, must have at least ", selected + options.outlier_chunks);
  const Index local = prompt - context * options.chunk;
  const Index start = local + options.outlier_chunks * options.chunk;
  return {prompt, context, local, options.outlier_chunks, selected, start, start + selected * options.chunk};
}

/// The mean of the keys (rotated) of each chunk: (chunks, dim).
inline Matrix chunk_means(const Matrix& keys, Index chunk, Index chunks) {
  Matrix means = Matrix::Zero(chunks, keys.cols());
  for (Index j = 0; j < chunks; ++j) {
    for (Index t = j * chunk; t < (j + 1) * chunk; ++t) { means.row(j) += keys.row(t); }
    means.row(j) /= static_cast<double>(chunk);
  }
  return means;
}

/// The smallest cosine between the mean of a chunk and one of its keys (rotated): (chunks).
inline Vector chunk_cosines(const Matrix& keys, Index chunk, Index chunks) {
  const Matrix means = chunk_means(keys, chunk, chunks);
  Vector smallest = Vector::Constant(chunks, 1.0);
  for (Index j = 0; j < chunks; ++j) {
    for (Index t = j * chunk; t < (j + 1) * chunk; ++t) {
      double dot = 0.0;
      double mean_square = 0.0;
      double key_square = 0.0;
      for (Index c = 0; c < keys.cols(); ++c) {
        dot += means(j, c) * keys(t, c);
        mean_square += means(j, c) * means(j, c);
        key_square += keys(t, c) * keys(t, c);
      }
      smallest(j) = std::min(smallest(j), dot / std::max(std::sqrt(mean_square * key_square), 1e-8));
    }
  }
  return smallest;
}

/// Scores of the landmarks for one KV head: softmax over the landmarks for each query, summed over the
/// queries of a query head, largest of the group's query heads. Rotated queries, (queries, dim) each.
inline Vector shadowkv_scores(std::span<const Matrix> queries, const Matrix& landmarks, const AttentionOptions& options = {}) {
  std::vector<Vector> scores;
  for (const Matrix& head : queries) {
    const AttentionResult seen =
        attention(head, landmarks, Matrix::Zero(landmarks.rows(), 0), Positions::Constant(head.rows(), landmarks.rows()),
                  consecutive(0, landmarks.rows()), {.scale = options.scale});
    scores.push_back(column_sums(seen.probabilities));
  }
  return reduce_heads(scores, HeadReduction::max);
}

/// The order of the selected chunks in the offload class, where chunks that were selected before keep their
/// rows: hits by their old place, then misses by chunk. A hit's key stays as it is, so keys that the prompt's
/// last query selected stay exact while they hit.
struct ShadowKVOrder {
  Rows chunks{};
  Index hits = 0;  // the first `hits` of `chunks` were selected before
};
inline ShadowKVOrder shadowkv_reorder(const Rows& previous, const Rows& selected) {
  ShadowKVOrder out;
  for (const Index chunk : previous) {
    if (std::find(selected.begin(), selected.end(), chunk) != selected.end()) { out.chunks.push_back(chunk); }
  }
  out.hits = static_cast<Index>(out.chunks.size());
  for (const Index chunk : selected) {
    if (std::find(previous.begin(), previous.end(), chunk) == previous.end()) { out.chunks.push_back(chunk); }
  }
  std::sort(out.chunks.begin() + out.hits, out.chunks.end());
  return out;
}

/// One layer. Keys enter before the rotation, queries after it. The prompt is one call; its own attention is
/// exact and not part of this. A step is append, then select and attend for each KV head.
struct ShadowKVState {
  struct Lane {
    Matrix keys{};       // (tokens, key_dim), rotated: prompt, then generated
    Matrix values{};     // (tokens, value_dim)
    Vector cosines{};    // (context_chunks), smallest of each chunk
    Rows outliers{};     // chunks, ascending
    Rows candidates{};   // the other context chunks, ascending
    Matrix landmarks{};  // (candidates, key_dim)
  };

  /// Turns keys by their places in the text.
  using Rotation = std::function<Matrix(const Matrix&, const Positions&)>;

  ShadowKVOptions options{};
  Rotation rotation = [](const Matrix& rows, const Positions& at) { return rotate(rows, at); };
  ShadowKVLayout layout{};
  SharedBasis factors{};  // of the prompt's keys before the rotation, all heads
  std::vector<Lane> lanes{};

  /// Takes the prompt. Outliers are the chunks of the smallest cosines; among equal ones the lower chunk
  /// wins.
  void prompt(const Heads& keys, const Heads& values) {
    require(!keys.empty() && keys.size() == values.size(), ErrorCode::shape, "reference: keys and values must have the same heads");
    layout = shadowkv_layout(keys.front().rows(), options);
    factors = shared_basis(std::vector<Heads>{keys}, options.rank);
    lanes.clear();
    for (std::size_t h = 0; h < keys.size(); ++h) {
      Lane& lane = lanes.emplace_back();
      lane.keys = rotation(keys[h], consecutive(0, layout.prompt));
      lane.values = values[h];
      lane.cosines = chunk_cosines(lane.keys, options.chunk, layout.context_chunks);
      lane.outliers = top_rows(-lane.cosines, layout.outlier_chunks);
      for (Index j = 0; j < layout.context_chunks; ++j) {
        if (!std::binary_search(lane.outliers.begin(), lane.outliers.end(), j)) { lane.candidates.push_back(j); }
      }
      lane.landmarks = chunk_means(lane.keys, options.chunk, layout.context_chunks)(lane.candidates, Eigen::all);
    }
  }

  /// Generated tokens: always read, exact.
  void append(const Heads& keys, const Heads& values) {
    require(keys.size() == lanes.size() && values.size() == lanes.size(), ErrorCode::shape, "reference: there must be rows for every head");
    for (std::size_t h = 0; h < lanes.size(); ++h) {
      const Positions at = consecutive(lanes[h].keys.rows(), keys[h].rows());
      lanes[h].keys = append_rows(lanes[h].keys, rotation(keys[h], at));
      lanes[h].values = append_rows(lanes[h].values, values[h]);
    }
  }

  /// The chunks that the query heads of one KV head read, ascending; among equal scores the lower chunk wins.
  [[nodiscard]] Rows select(Index head, std::span<const Matrix> queries, const AttentionOptions& attend_options = {}) const {
    const Lane& lane = lanes[static_cast<std::size_t>(head)];
    const Vector scores = shadowkv_scores(queries, lane.landmarks, attend_options);
    Rows chunks = top_rows(scores, layout.selected_chunks);
    for (Index& chunk : chunks) { chunk = lane.candidates[static_cast<std::size_t>(chunk)]; }
    return chunks;
  }

  /// What is read for a selection: tokens in the order of fast memory, which the keys and values follow.
  struct Attended {
    Positions positions{};
    Matrix keys{};    // exact, but low-rank where selected
    Matrix values{};  // exact
  };
  [[nodiscard]] Attended attended(Index head, const Rows& selected) const {
    const Lane& lane = lanes[static_cast<std::size_t>(head)];
    Rows tokens;
    const auto add = [&](Index first, Index end) {
      for (Index t = first; t < end; ++t) { tokens.push_back(t); }
    };
    add(layout.prompt - layout.local_tokens, layout.prompt);
    for (const Index j : lane.outliers) { add(j * options.chunk, (j + 1) * options.chunk); }
    const std::size_t low_rank = tokens.size();
    for (const Index j : selected) { add(j * options.chunk, (j + 1) * options.chunk); }
    const std::size_t generated = tokens.size();
    add(layout.prompt, lane.keys.rows());

    Attended out{Positions(static_cast<Index>(tokens.size())), lane.keys(tokens, Eigen::all), lane.values(tokens, Eigen::all)};
    for (std::size_t i = 0; i < tokens.size(); ++i) { out.positions(static_cast<Index>(i)) = static_cast<std::int64_t>(tokens[i]); }
    const Matrix rotated = low_rank_keys(
        head, Rows(tokens.begin() + static_cast<std::ptrdiff_t>(low_rank), tokens.begin() + static_cast<std::ptrdiff_t>(generated)));
    out.keys.middleRows(static_cast<Index>(low_rank), rotated.rows()) = rotated;
    return out;
  }

  /// Keys of prompt tokens from the factors, rotated at the tokens' places in the text: (tokens, key_dim).
  [[nodiscard]] Matrix low_rank_keys(Index head, const Rows& tokens) const {
    Positions at(static_cast<Index>(tokens.size()));
    for (Index i = 0; i < at.size(); ++i) { at(i) = tokens[static_cast<std::size_t>(i)]; }
    SharedBasis part = factors;
    part.basis = Matrix(factors.basis(tokens, Eigen::all));
    return rotation(part.reconstruct(0, head), at);
  }

  /// Attention of one query head over what its KV head reads; `queries` belong to the newest tokens.
  [[nodiscard]] AttentionResult attend(Index head, const Matrix& queries, const Rows& selected,
                                       const AttentionOptions& attend_options = {}) const {
    const Attended read = attended(head, selected);
    const Index tokens = lanes[static_cast<std::size_t>(head)].keys.rows();
    return attention(queries, read.keys, read.values, consecutive(tokens - queries.rows(), queries.rows()), read.positions, attend_options);
  }
};

}  // namespace kvcompress::reference
