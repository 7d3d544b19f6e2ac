// include/kvcompress/cache/observe.hpp - how queries reach an eviction that observes attention.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

#include "kvcompress/attention/attend.hpp"
#include "kvcompress/cache/layer.hpp"

namespace kvcompress::detail {

/// Writes the query of (token, query head of the group) in the stored keys' form; ws.positions are the tokens' positions.
inline auto query_loader(const Shape& shape, const Rows& queries, std::size_t head, Workspace& ws) {
  return [&shape, &queries, head, &ws](std::size_t token, std::size_t h, float* row) {
    queries.load(token, head * shape.group() + h, row);
    if (shape.keys == KeyForm::unrotated) {
      ws.rotation.turn_by(ws.positions[token]);
      ws.rotation.apply(row);
    }
  };
}

/// Keeps queries that may turn out to be the last of a prompt.
template <class P>
void remember(const Shape& shape, const PolicyOptions<P>& options, Lane<P>& lane, const Rows& queries, std::size_t head,
              const AttendOptions& attended, Workspace& ws) {
  const auto load = query_loader(shape, queries, head, ws);
  lane.last.remember(ws.positions, attended, Lane<P>::Eviction::window(options.eviction), shape.group() * shape.key_width(),
                     [&](std::size_t token, float* to) {
                       for (std::size_t h = 0; h < shape.group(); ++h) { load(token, h, to + h * shape.key_width()); }
                     });
}

/// One query's probabilities, for an eviction that observes every query.
template <class P>
void record(const Shape& shape, const PolicyOptions<P>& options, Layer<P>& layer, std::size_t head, Position position, std::size_t h,
            std::span<const float> probabilities) {
  const std::size_t revocable = layer.in_prompt ? 0 : options.speculation * shape.group();
  layer.lanes[head].record(options.eviction, revocable, position, h, probabilities);
}

/// Computes the probabilities of the queries at ws.positions over the lane's rows, without outputs, and shows them to the eviction.
template <class P>
void see(const Shape& shape, const PolicyOptions<P>& options, Layer<P>& layer, std::size_t head, auto&& load, const AttendOptions& attended,
         Workspace& ws) {
  using Eviction = typename Lane<P>::Eviction;
  Lane<P>& lane = layer.lanes[head];
  const RowTable& table = layer.table(head);
  ws.limits.resize(ws.positions.size());
  for (std::size_t t = 0; t < ws.positions.size(); ++t) { ws.limits[t] = table.rows_up_to(ws.positions[t]); }
  LaneAttention<typename Lane<P>::Keys, typename Lane<P>::Values>(shape, lane.keys, nullptr, table, attended)
      .run(ws.positions, ws.limits, true, ws, true, load, [](auto&&...) {},
           [&](std::size_t t, std::size_t h, std::span<const float> probabilities) {
             if constexpr (Eviction::observes == Observes::every_query) {
               record<P>(shape, options, layer, head, ws.positions[t], h, probabilities);
             } else {
               Eviction::observe(options.eviction, lane.state, h, probabilities);
             }
           });
}

/// The same for the last queries of a prompt that has ended.
template <class P>
void see_last(const Shape& shape, const PolicyOptions<P>& options, Layer<P>& layer, std::size_t head, Workspace& ws) {
  const LastQueries& last = layer.lanes[head].last;
  ws.positions.assign(last.positions().begin(), last.positions().end());
  see<P>(shape, options, layer, head,
         [&](std::size_t token, std::size_t h, float* row) {
           std::copy_n(last.query(token, shape.group() * shape.key_width()) + h * shape.key_width(), shape.key_width(), row);
         },
         last.options(), ws);
}

}  // namespace kvcompress::detail
