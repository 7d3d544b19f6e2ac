// include/kvcompress/cache/share_rows.hpp - one token's attention, spread over an executor by parts of the rows.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

#include "kvcompress/attention/executor.hpp"
#include "kvcompress/cache/layer.hpp"
#include "kvcompress/cache/queries.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

/// A task is a part of the rows of a head; the results of a head are merged in order at the end, so that they do not depend on the executor.
template <class P, class Executor>
void share_rows(const Shape& shape, const Layer<P>& layer, const Rows& queries, const Output& out, std::span<Workspace> workspaces,
                Executor&& executor, const AttendOptions& options) {
  const auto attention = [&](std::size_t head) {
    const Lane<P>& lane = layer.lanes[head];
    return LaneAttention(shape, lane.keys, &lane.value_store(), layer.table(head), options, {head * shape.group()}, layer.open);
  };
  std::size_t parts = 1;
  for (std::size_t head = 0; head < shape.kv_heads; ++head) {
    Workspace& ws = workspaces.front();
    place_queries(layer.table(head), 1, ws, options);
    parts = std::max(parts, attention(head).parts(ws.positions[0], ws.limits[0]));
  }
  const std::size_t floats = attention(0).part_floats();
  float* results = Workspace::ensure(workspaces.front().parts, shape.kv_heads * parts * floats);
  run_tasks(executor, shape.kv_heads * parts, workspaces.size(), [&](std::size_t task, std::size_t worker) {
    const std::size_t head = task / parts;
    Workspace& ws = workspaces[worker];
    place_queries(layer.table(head), 1, ws, options);
    attention(head).run_part(task % parts, ws.positions, ws.limits, ws, query_loader(shape, queries, head, ws), results + task * floats);
  });
  for (std::size_t head = 0; head < shape.kv_heads; ++head) {
    attention(head).finish_parts(results + head * parts * floats, parts, output_storer(shape, head, out, options));
  }
}

}  // namespace kvcompress::detail
