// include/kvcompress/attention/logits.hpp - what a model's attention may vary, and the logits of a block of queries with a batch of rows.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <utility>

#include "kvcompress/attention/batches.hpp"
#include "kvcompress/attention/partial.hpp"
#include "kvcompress/attention/workspace.hpp"
#include "kvcompress/concepts.hpp"
#include "kvcompress/concepts/store_facts.hpp"
#include "kvcompress/core/math.hpp"
#include "kvcompress/core/visible.hpp"
#include "kvcompress/kernels/exact.hpp"
#include "kvcompress/kernels/softmax.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// What a model's attention may vary; the defaults are plain causal attention. A query that sees no row gives an output of 0 and a
/// log-sum-exp of -infinity.
struct AttendOptions {
  float scale = 0.0F;            ///< factor on q . k, finite and above 0; 0 means 1/sqrt(key width)
  float soft_cap = 0.0F;         ///< logits become cap * tanh(logit / cap), a cap above 0; 0 or infinity means no cap
  std::size_t window = 0;        ///< sliding window: a query sees the rows less than this far behind it, by in-cache positions where the
                                 ///< policy has them; 0 means all. What lies before them is not read, but for at most 127 rows. Where the
                                 ///< layer's shape has one, too, the smaller one counts
  Position start = 0;            ///< rows before this position (left padding) are not seen: see KVCache::end_prompt
  float* log_sum_exp = nullptr;  ///< optional output (tokens, query_heads): log of the softmax's denominator
  std::span<const float>
      sinks{};  ///< a learned logit per query head, finite or -infinity, that takes part in every softmax and has no value
                ///< (gpt-oss); empty: none
  std::span<const Partial> partials{};  ///< attention of the same queries over rows elsewhere, merged in this order after the sinks
  std::span<const float>
      alibi_slopes{};  ///< ALiBi: a slope per query head; a row that is d positions behind a query has d * slope less of a
                       ///< logit, after the cap, by in-cache positions where the policy has them; empty: none
  std::span<const Position>
      until{};  ///< a position per token: it sees the rows before that, newer ones than itself among them (the other tokens of an image, a
                ///< prompt that is read in both directions); above its own position, at most the next one; empty: none is seen. ALiBi
                ///< counts distances in both directions
  std::span<const std::uint64_t>
      among_open{};  ///< which of the rows since the last commit a token sees, itself among them or not: bit r of its ceil(rows / 64) words is
                     ///< the r-th of these rows (a tree of drafts: the token's ancestors, see KVCache::keep_open); empty: the older ones
  Position query_position = no_position;  ///< of the first query, where the queries' own rows lie elsewhere (on another machine, behind a
                                          ///< shared prefix): then they see all rows, none of which need be new. By default they are those
                                          ///< of the newest rows
};

namespace detail {

/// Rows that one chunk of the driver covers: its logits stay in the first-level cache.
inline constexpr std::size_t chunk_rows = 256;
/// Rows after which the running softmax starts anew. The parts are merged in order, so that threads can share them and get the same numbers.
inline constexpr std::size_t part_rows = 16 * chunk_rows;
/// Queries (tokens times heads of the group) that one block serves together, if one token's group is not larger.
inline constexpr std::size_t block_queries = 32;
/// What a query does not see at the front is not read, in steps of so many rows: a block of the stores that encode.
inline constexpr std::size_t unread_step = 128;

/// Which rows of the open step, from row `first` on, each token sees: words of bits, token by token.
struct OpenRows {
  const std::uint64_t* bits = nullptr;  // null: those that are no newer
  std::size_t words = 0;                // of a token
  std::size_t first = 0;
  [[nodiscard]] bool sees(std::size_t token, std::size_t row) const noexcept {
    return ((bits[token * words + (row - first) / 64] >> ((row - first) % 64)) & 1U) != 0;
  }
  [[nodiscard]] OpenRows from(std::size_t token) const noexcept { return {bits != nullptr ? bits + token * words : nullptr, words, first}; }
};

/// The queries of a block: `tokens` tokens of one KV head's group, each with the rows it may see.
struct QueryBlock {
  std::size_t tokens;
  std::size_t group;
  const Position* positions;      // (tokens)
  const std::size_t* row_limits;  // (tokens) a query sees no row from here on
  bool by_position;               // rows need not be older than the query: compare positions
  std::int64_t shift;             // how far the queries are rotated beyond where attention sees them
  const Position* until;          // (tokens) a query sees rows before this position, or null: before its own
  OpenRows open;                  // which of these rows the queries see, from that of the first token on
  [[nodiscard]] std::size_t queries() const noexcept { return tokens * group; }
  [[nodiscard]] Visible visible(std::size_t token, const AttendOptions& options) const noexcept {
    const Position newest = open.bits != nullptr ? no_position - 1 : until != nullptr ? until[token] - 1 : positions[token];
    return {options.start, options.window, newest, static_cast<Position>(positions[token] - shift)};
  }
};

/// Whether keys, values lie in a frame of their own.
template <class Store>
bool frames(const Store& store) noexcept {
  if constexpr (FramesQueries<Store> || FramesOutputs<Store>) {
    return facts_of(store).frames;
  } else {
    return false;
  }
}
/// Brings queries into the frame of the keys.
template <class Keys>
void frame_queries(const Keys& keys, Vector<float>& queries, std::size_t stride, std::size_t count) noexcept {
  if constexpr (FramesQueries<Keys>) {
    if (frames(keys)) { keys.frame_queries(queries.data(), stride, count); }
  }
}

/// Logits of the rows in `range` to ws.logits + offset, as runs of rows with equal shift: where slots replace positions, or positions were
/// shifted, the query is turned by the difference instead of every key, which is the same dot product.
template <KeyStore Keys>
void score_chunk(const Keys& keys, const RowTable& table, RowRange range, const QueryBlock& block, std::size_t key_stride,
                 std::size_t logit_stride, float* logits, Workspace& ws) noexcept {
  for (std::size_t row = range.first; row < range.last;) {
    const std::int64_t shift = table.shift(row);
    std::size_t end = table.shifts() ? row + 1 : range.last;
    while (end < range.last && (table.shift(end) == shift || !table.alive(end))) { ++end; }
    const float* queries = frames(keys) ? ws.framed.data() : ws.queries.data();
    if (shift != block.shift) {
      ws.turning().turn_by(shift - block.shift);
      std::copy_n(ws.queries.data(), block.queries() * key_stride, ws.turned.data());
      for (std::size_t q = 0; q < block.queries(); ++q) { ws.turning().apply(ws.turned.data() + q * key_stride); }
      frame_queries(keys, ws.turned, key_stride, block.queries());
      queries = ws.turned.data();
    }
    float* out = logits + (row - range.first);
    if constexpr (UnrotatedKeyStore<Keys>) {
      keys.scores({row, end}, table, ws.turning(), queries, key_stride, block.queries(), out, logit_stride, ws.store.data());
    } else {
      keys.scores({row, end}, queries, key_stride, block.queries(), out, logit_stride, ws.store.data());
    }
    row = end;
  }
}

/// Adds the logarithms of the rows' weights to their logits.
inline void weigh_batch(const RowTable& table, const QueryBlock& block, const Batches& batch, std::size_t stride, float* logits) noexcept {
  batch.parts([&](RowRange part, std::size_t offset) {
    for (std::size_t q = 0; q < block.queries(); ++q) {
      kernels::add_multiple(logits + q * stride + offset, table.log_weights().data() + part.first, part.size(), 1.0F);
    }
  });
}

/// Takes from each logit what ALiBi takes for the row's distance; the options' slopes are those of the block's group.
inline void bias_chunk(const RowTable& table, RowRange range, const QueryBlock& block, const AttendOptions& options,
                       std::size_t logit_stride, float* logits) noexcept {
  for (std::size_t q = 0; q < block.queries(); ++q) {
    const float slope = options.alibi_slopes[q % block.group];
    const std::int64_t at = std::int64_t{block.positions[q / block.group]} - block.shift;
    float* row_logits = logits + q * logit_stride;
    for (std::size_t r = range.first; r < range.last; ++r) {
      row_logits[r - range.first] -= slope * math::abs(static_cast<float>(at - std::int64_t{table.slot(r)}));
    }
  }
}

/// Sets the logits of rows that a query may not see to -infinity.
inline void mask_chunk(const RowTable& table, RowRange range, const QueryBlock& block, const AttendOptions& options,
                       std::size_t logit_stride, float* logits) noexcept {
  const bool by_row = !table.all_alive() || options.window > 0 || options.start > 0 || block.by_position;
  for (std::size_t token = 0; token < block.tokens; ++token) {
    const auto hide = [&](std::size_t first, std::size_t last) {
      for (std::size_t q = token * block.group; q < (token + 1) * block.group; ++q) {
        float* row_logits = logits + q * logit_stride;
        std::fill(row_logits + (first - range.first), row_logits + (last - range.first), kernels::minus_infinity);
      }
    };
    std::size_t limit = std::clamp(block.row_limits[token], range.first, range.last);
    if (by_row) {
      const Visible visible = block.visible(token, options);
      if (Visible::in_text_order(table)) {
        const std::size_t first = visible.first_seen(table, range.first, limit);
        limit = first + visible.count(table, first, limit);
        hide(range.first, first);
      } else {
        for (std::size_t r = range.first; r < limit; ++r) {
          if (!visible.sees(table, r)) { hide(r, r + 1); }
        }
      }
    }
    hide(limit, range.last);
    for (std::size_t r = std::max(range.first, block.open.first); block.open.bits != nullptr && r < range.last; ++r) {
      if (!block.open.sees(token, r)) { hide(r, r + 1); }
    }
  }
}

/// Logits of the current batch, rows that a query may not see at -infinity; returns the number of rows. `values` (or null) will be read next.
template <KeyStore Keys, ValueStore Values>
std::size_t score_batch(const Keys& keys, const Values* values, const RowTable& table, const QueryBlock& block, const Batches& batch,
                        std::size_t key_stride, std::size_t stride, float* logits, const AttendOptions& options, Workspace& ws) noexcept {
  const std::size_t size = batch.parts([&](RowRange part, std::size_t offset) {
    if constexpr (requires { values->fetch(part.first); }) {
      if (values != nullptr) { values->fetch(part.first); }
    }
    score_chunk(keys, table, part, block, key_stride, stride, logits + offset, ws);
  });
  if (options.soft_cap > 0.0F) {
    for (std::size_t q = 0; q < block.queries(); ++q) { kernels::soft_cap(logits + q * stride, size, options.soft_cap); }
  }
  if (table.weighs()) { weigh_batch(table, block, batch, stride, logits); }
  if (!options.alibi_slopes.empty()) {
    batch.parts([&](RowRange part, std::size_t offset) { bias_chunk(table, part, block, options, stride, logits + offset); });
  }
  batch.parts([&](RowRange part, std::size_t offset) { mask_chunk(table, part, block, options, stride, logits + offset); });
  return size;
}

}  // namespace detail
}  // namespace kvcompress
