// include/kvcompress/reference/streaming_llm.hpp - attention sinks and a rolling window of rows.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/low_rank/eigen_core.hpp"

#include <algorithm>

#include "kvcompress/reference/attention.hpp"
#include "kvcompress/reference/rope.hpp"

/// "Efficient Streaming Language Models with Attention Sinks" (arXiv:2309.17453), as in
/// mit-han-lab/streaming-llm@2e5042606d69 (kv_cache.py, pos_shift/modify_llama.py).
namespace kvcompress::inline KVCOMPRESS_ABI::reference {

struct StreamingLLMOptions {
  Index sinks = 4;     // leading rows that always stay
  Index recent = 512;  // newest rows that stay; sinks not included

  [[nodiscard]] Index budget() const { return sinks + recent; }
};

/// The rows [0, rows) without [first, last).
inline Rows drop_range(Index rows, Index first, Index last) {
  Rows kept;
  for (Index row = 0; row < rows; ++row) {
    if (row < first || row >= last) { kept.push_back(row); }
  }
  return kept;
}

/// The rows that stay so that `incoming` more fit the budget: the sinks, and the newest `recent - incoming`,
/// which is none when `incoming >= recent`.
inline Rows make_room(Index rows, Index incoming, const StreamingLLMOptions& options) {
  if (rows + incoming <= options.budget()) { return drop_range(rows, rows, rows); }
  return drop_range(rows, options.sinks, rows - options.recent + incoming);
}

/// The rows that stay after a step: all of them, or the sinks and the newest `recent`.
inline Rows trim(Index rows, const StreamingLLMOptions& options) { return make_room(rows, 0, options); }

/// One KV head of the cache. A step is append, attend (every query head), commit: a row is dropped only after
/// the step's queries have read it, so a full cache attends to budget + 1 rows while decoding.
struct StreamingLLMState {
  StreamingLLMOptions options{};
  Rope rope{};
  Matrix keys{};          // (rows, key_dim), not rotated
  Matrix values{};        // (rows, value_dim)
  Positions positions{};  // (rows), place in the text; attention uses the row number instead
  Index seen = 0;         // tokens appended so far

  void append(const Matrix& new_keys, const Matrix& new_values) {
    require(new_keys.rows() == new_values.rows(), ErrorCode::shape, "reference: there are ", new_values.rows(),
            " values, must be one for every key, ", new_keys.rows());
    keys = append_rows(keys, new_keys);
    values = append_rows(values, new_values);
    positions = append_rows(positions, consecutive(seen, new_keys.rows()));
    seen += new_keys.rows();
  }

  /// Attention of one query head; `queries` (not rotated) belong to the newest rows. Row r has position r.
  [[nodiscard]] AttentionResult attend(const Matrix& queries, const AttentionOptions& attend_options = {}) const {
    const Positions slots = consecutive(0, keys.rows());
    const Positions query_slots = consecutive(keys.rows() - queries.rows(), queries.rows());
    return attention(rotate(queries, query_slots, rope), rotate(keys, slots, rope), values, query_slots, slots, attend_options);
  }

  /// Keeps the named rows only.
  void keep(const Rows& rows) {
    keys = Matrix(keys(rows, Eigen::all));
    values = Matrix(values(rows, Eigen::all));
    positions = Positions(positions(rows));
  }

  void commit() { keep(trim(keys.rows(), options)); }
};

}  // namespace kvcompress::reference
