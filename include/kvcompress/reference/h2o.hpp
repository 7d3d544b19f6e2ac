// include/kvcompress/reference/h2o.hpp - heavy hitters by accumulated attention, kept beside the newest rows.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/low_rank/eigen_core.hpp"

#include <algorithm>
#include <optional>
#include <span>
#include <vector>

#include "kvcompress/reference/attention.hpp"
#include "kvcompress/reference/rope.hpp"

/// "H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large Language Models" (arXiv:2306.14048),
/// as in FMInference/H2O@ac75c2a8a9e7 (utils_real_drop); GQA reductions as in
/// Zefan-Cai/KVCache-Factory@c97f9d706d63.
namespace kvcompress::inline KVCOMPRESS_ABI::reference {

struct H2OOptions {
  Index heavy = 4;                                // rows kept for their score
  Index recent = 512;                             // newest rows, always kept
  HeadReduction reduction = HeadReduction::mean;  // of the query heads of one KV head
  bool in_cache_positions = false;                // row r has position r instead of its place in the text
  std::optional<Rope> rope = Rope{};              // none: queries and keys enter rotated, or never are

  [[nodiscard]] Index budget() const { return heavy + recent; }
};

/// Accumulated scores after a call: old rows add the attention received, new rows start with theirs.
inline Vector h2o_update(const Vector& scores, const Vector& received) {
  require(scores.size() <= received.size(), ErrorCode::shape, "reference: received.size() is ", received.size(), ", must be at least the ",
          scores.size(), " scored rows");
  Vector out = received;
  for (Index j = 0; j < scores.size(); ++j) { out(j) += scores(j); }
  return out;
}

/// The rows that stay, ascending: all within the budget, else the `heavy` best of the older rows and the
/// newest `recent`.
inline Rows h2o_keep(const Vector& scores, Index heavy, Index recent) {
  const Index rows = scores.size();
  if (rows <= heavy + recent) { return top_rows(scores, rows); }
  Rows kept = top_rows(scores.head(rows - recent), heavy);
  for (Index row = rows - recent; row < rows; ++row) { kept.push_back(row); }
  return kept;
}

/// One KV head of the cache. A step is append, attend, commit. A prompt is one step with many tokens: every
/// query is causal and counts, and one commit evicts at the end (KVCache-Factory's prompt rule, too, with
/// heavy = capacity - window and recent = window).
struct H2OState {
  H2OOptions options{};
  Matrix keys{};          // (rows, key_dim), as they came
  Matrix values{};        // (rows, value_dim)
  Positions positions{};  // (rows), place in the text
  Vector scores{};        // (rows), probability received so far
  Index seen = 0;         // tokens appended so far

  void append(const Matrix& new_keys, const Matrix& new_values) {
    require(new_keys.rows() == new_values.rows(), ErrorCode::shape, "reference: there are ", new_values.rows(),
            " values, must be one for every key, ", new_keys.rows());
    keys = append_rows(keys, new_keys);
    values = append_rows(values, new_values);
    positions = append_rows(positions, consecutive(seen, new_keys.rows()));
    scores = append_rows(scores, Vector(Vector::Zero(new_keys.rows())));
    seen += new_keys.rows();
  }

  /// Attention of all query heads of this KV head, whose queries belong to the newest rows; adds the column
  /// sums, reduced over the heads, to the scores.
  std::vector<AttentionResult> attend(std::span<const Matrix> queries, const AttentionOptions& attend_options = {}) {
    require(!queries.empty(), ErrorCode::shape, "reference: there must be at least one query head");
    const Index count = queries.front().rows();
    const Index rows = keys.rows();
    const Positions key_positions = options.in_cache_positions ? consecutive(0, rows) : positions;
    const Positions query_positions = options.in_cache_positions ? consecutive(rows - count, count) : consecutive(seen - count, count);
    const auto turned = [&](const Matrix& x, const Positions& at) { return options.rope ? rotate(x, at, *options.rope) : x; };
    const Matrix turned_keys = turned(keys, key_positions);
    std::vector<AttentionResult> results;
    std::vector<Vector> received;
    for (const Matrix& head : queries) {
      results.push_back(attention(turned(head, query_positions), turned_keys, values, query_positions, key_positions, attend_options));
      received.push_back(column_sums(results.back().probabilities));
    }
    scores = h2o_update(scores, reduce_heads(received, options.reduction));
    return results;
  }

  /// Evicts down to the budget, after the outputs of the step were computed. What goes, goes with its score.
  void commit() {
    const Rows kept = h2o_keep(scores, options.heavy, options.recent);
    keys = Matrix(keys(kept, Eigen::all));
    values = Matrix(values(kept, Eigen::all));
    positions = Positions(positions(kept));
    scores = Vector(scores(kept));
  }
};

}  // namespace kvcompress::reference
