// include/kvcompress/cache/attend_shared.hpp - one step of many sequences that share a prefix, which is attended once for all of them.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <span>

#include "kvcompress/cache/attend_batch.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Attention of a layer for every sequence of a batch, whose rows lie behind those of `prefix`, which all of them share: the prefix answers the
/// queries of all items as the tokens of one call, and each item's own cache is attended as attend_batch does, with the prefix's part beside
/// its rows. A cache of an item holds only what comes after the prefix, from position prefix.tokens(layer) on. So the prefix's rows are read
/// once for up to 32 queries of a KV head instead of once for each sequence; the outputs are those of each sequence's whole cache up to the
/// order of a sum. `scratch` keeps its memory from call to call; `workspaces` as for attend_batch.
///
/// Keys and queries come rotated: queries of sequences of different lengths stand at positions of their own. A scale, a soft cap and sinks are
/// those of all items; a window, ALiBi and masks are refused, since the prefix does not know where a query stands; a prefix that observes every
/// query refuses them itself. What attend would refuse of an item is an Error as in attend_batch.
template <class Prefix, class Cache, class Executor>
void attend_shared(std::size_t layer, Prefix& prefix, std::span<const BatchItem<Cache>> batch, Vector<float>& scratch,
                   std::span<Workspace> workspaces, Executor&& executor) {
  if (batch.empty()) { return; }
  const Shape& shape = prefix.shape();
  const AttendOptions& first = batch[0].options;
  const std::size_t heads = shape.query_heads;
  require(shape.keys == KeyForm::rotated, ErrorCode::shape,
          "attend_shared: keys come unrotated, must come rotated: each query is at a position of its sequence");
  std::size_t tokens = 0;
  for (std::size_t i = 0; i < batch.size(); ++i) {
    const BatchItem<Cache>& item = batch[i];
    require(item.options.window == 0 && item.options.alibi_slopes.empty() && item.options.until.empty() &&
                item.options.among_open.empty() && item.options.query_position == no_position && item.options.start == 0,
            ErrorCode::option, "attend_shared: batch[", i,
            "].options has a window, ALiBi, a mask or positions, must have none: the prefix does not know where a query stands");
    require(item.options.scale == first.scale && item.options.soft_cap == first.soft_cap, ErrorCode::option, "attend_shared: batch[", i,
            "].options has another scale or soft cap than batch[0]'s, must have the same");
    require(!item.queries.empty() && item.queries.heads() == heads && item.queries.dim() == shape.key_width(), ErrorCode::shape,
            "attend_shared: batch[", i, "].queries has ", item.queries.heads(), " heads of ", item.queries.dim(), ", must have ", heads,
            " of ", shape.key_width());
    tokens += item.queries.tokens();
  }
  const std::size_t key_width = shape.key_width();
  const std::size_t value_width = shape.value_width();
  scratch.resize(tokens * heads * (key_width + value_width + 1));
  float* const queries = scratch.data();
  float* const outputs = queries + tokens * heads * key_width;
  float* const sums = outputs + tokens * heads * value_width;
  for (std::size_t i = 0, row = 0; i < batch.size(); ++i) {
    for (std::size_t t = 0; t < batch[i].queries.tokens(); ++t) {
      for (std::size_t h = 0; h < heads; ++h, ++row) { batch[i].queries.load(t, h, queries + row * key_width); }
    }
  }
  prefix.attend(layer, Rows::tokens_first(queries, tokens, heads, key_width), Output::tokens_first(outputs, tokens, heads, value_width),
                workspaces, executor,
                {.scale = first.scale,
                 .soft_cap = first.soft_cap,
                 .log_sum_exp = sums,
                 .query_position = static_cast<Position>(prefix.tokens(layer))});
  Vector<BatchItem<Cache>> own(scratch.get_allocator());
  Vector<Partial> parts(scratch.get_allocator());
  for (std::size_t i = 0, row = 0; i < batch.size(); ++i) {  // those that items have beside it, and the prefix's
    parts.insert(parts.end(), batch[i].options.partials.begin(), batch[i].options.partials.end());
    parts.push_back({sums + row, outputs + row * value_width});
    row += batch[i].queries.tokens() * heads;
  }
  for (std::size_t i = 0, part = 0; i < batch.size(); ++i) {
    own.push_back(batch[i]);
    own.back().options.partials = {parts.data() + part, batch[i].options.partials.size() + 1};
    part += batch[i].options.partials.size() + 1;
  }
  attend_batch(layer, std::span<const BatchItem<Cache>>(own.data(), own.size()), workspaces, executor);
}

}  // namespace kvcompress
