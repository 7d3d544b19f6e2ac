// include/kvcompress/cache/queries.hpp - the queries of a call: where they stand, how they are loaded, and where their outputs go.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>

#include "kvcompress/attention/attend.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

/// Queries of the newest `tokens` rows, or at options.query_position and behind all rows: their positions to ws.positions, the rows they may
/// see to ws.limits.
inline void place_queries(const RowTable& table, std::size_t tokens, Workspace& ws, const AttendOptions& options = {}) {
  const Position position = options.query_position;
  ws.positions.resize(tokens);
  ws.limits.resize(tokens);
  if (position != no_position) {
    for (std::size_t t = 0; t < tokens; ++t) { ws.positions[t] = position + static_cast<Position>(t); }
    std::fill(ws.limits.begin(), ws.limits.end(), table.rows());
    return;
  }
  const std::size_t first = table.rows() - tokens;
  for (std::size_t t = 0; t < tokens; ++t) {
    ws.positions[t] = table.position(first + t);
    ws.limits[t] = options.among_open.empty() ? first + t + 1 : table.rows();
    for (std::size_t end = table.rows(); !options.until.empty() && ws.limits[t] < end;) {  // open rows lie at the end in order
      const std::size_t middle = (ws.limits[t] + end) / 2;
      (table.position(middle) < options.until[t] ? ws.limits[t] : end) = table.position(middle) < options.until[t] ? middle + 1 : middle;
    }
  }
}

/// Writes the query of (token, query head of the group) in the stored keys' form; ws.positions are the tokens' positions.
inline auto query_loader(const Shape& shape, const Rows& queries, std::size_t head, Workspace& ws) {
  return [&shape, &queries, head, &ws](std::size_t token, std::size_t h, float* row) {
    queries.load(token, head * shape.group() + h, row);
    if (shape.keys == KeyForm::unrotated) {
      Rotation& rotation = ws.turning();
      rotation.turn_by(ws.positions[token]);
      rotation.embed(row);
    }
  };
}

/// Takes the output of (token, query head of the group), and its log-sum-exp, if that is wanted.
inline auto output_storer(const Shape& shape, std::size_t head, const Output& out, const AttendOptions& options) {
  return [&shape, head, &out, &options](std::size_t token, std::size_t h, const float* output, float log_sum_exp) {
    const std::size_t query_head = head * shape.group() + h;
    std::copy_n(output, shape.value_width(), out.row(token, query_head));
    if (options.log_sum_exp != nullptr) { options.log_sum_exp[token * shape.query_heads + query_head] = log_sum_exp; }
  };
}

}  // namespace kvcompress::detail
