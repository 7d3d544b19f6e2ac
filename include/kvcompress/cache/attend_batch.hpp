// include/kvcompress/cache/attend_batch.hpp - one step of many sequences, of any lengths, in one call.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <span>

#include "kvcompress/attention/executor.hpp"
#include "kvcompress/cache.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// A sequence's part of a batch: see KVCache::attend. Sequences may differ in length, in how many tokens they ask for, and in options.
template <class Cache>
struct BatchItem {
  Cache* cache = nullptr;
  Rows queries{};
  Output out{};
  AttendOptions options{};
};

/// Attention of a layer for every sequence of a batch, whose new rows were appended. A task is a KV head of a sequence, so a batch keeps
/// threads busy that one sequence's heads would not. The outputs are the bits that attend gives each sequence alone. Caches with equally many
/// KV heads, each at most once; `workspaces` of their shape, one per worker. What attend would refuse of an item is an Error that a task raises
/// and the executor passes on: then some outputs are missing, and what the policies observe is not all there.
///
/// A prefix that sequences share is attended once for all of them: ask its cache with the queries of all as tokens, with
/// AttendOptions::query_position and log_sum_exp, and give each item its part as AttendOptions::partials.
template <class Cache, class Executor>
void attend_batch(std::size_t layer, std::span<const BatchItem<Cache>> batch, std::span<Workspace> workspaces, Executor&& executor) {
  require(!workspaces.empty(), ErrorCode::input, "attend_batch: workspaces is empty, must have one per worker");
  if (batch.empty()) { return; }
  for (std::size_t i = 0; i < batch.size(); ++i) {
    require(batch[i].cache != nullptr, ErrorCode::input, "attend_batch: batch[", i, "].cache is null");
    for (std::size_t j = 0; j < i; ++j) {
      require(batch[j].cache != batch[i].cache, ErrorCode::input, "attend_batch: batch[", i, "].cache is that of batch[", j,
              "], must be another sequence's");
    }
    detail::check_layer(batch[i].cache->shape(), "attend_batch", layer);
    const auto heads_of = [&](std::size_t item) { return batch[item].cache->shape().of(layer).kv_heads; };
    require(heads_of(i) == heads_of(0), ErrorCode::shape, "attend_batch: batch[", i, "] has ", heads_of(i),
            " KV heads, must have those of batch[0], ", heads_of(0));
  }
  const std::size_t heads = batch[0].cache->shape().of(layer).kv_heads;
  detail::run_tasks(executor, batch.size() * heads, workspaces.size(), [&](std::size_t task, std::size_t worker) {
    const BatchItem<Cache>& item = batch[task / heads];
    item.cache->attend(layer, item.queries, item.out, workspaces[worker], item.options, {task % heads, task % heads + 1});
  });
}

}  // namespace kvcompress
