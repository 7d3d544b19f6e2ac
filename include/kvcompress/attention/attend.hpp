// include/kvcompress/attention/attend.hpp - the one attention driver: a block of queries of one KV head over the rows of its lane.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <type_traits>

#include "kvcompress/attention/batches.hpp"
#include "kvcompress/attention/workspace.hpp"
#include "kvcompress/concepts.hpp"
#include "kvcompress/core/math.hpp"
#include "kvcompress/kernels/exact.hpp"
#include "kvcompress/kernels/softmax.hpp"

namespace kvcompress {

/// What a model's attention may vary; the defaults are plain causal attention.
struct AttendOptions {
  float scale = 0.0F;             ///< factor on q . k; 0 means 1/sqrt(key width)
  float soft_cap = 0.0F;          ///< logits become cap * tanh(logit / cap); 0 means no cap
  std::size_t window = 0;         ///< sliding window: a query sees the rows less than this far behind it; 0 means all
  Position start = 0;             ///< rows before this position (left padding) are not seen
  float* log_sum_exp = nullptr;   ///< optional output (tokens, query_heads): log of the softmax's denominator
};

namespace detail {

/// Rows that one chunk of the driver covers: its logits stay in the first-level cache.
inline constexpr std::size_t chunk_rows = 256;
/// Queries (tokens times heads of the group) that one block serves together, if one token's group is not larger.
inline constexpr std::size_t block_queries = 32;

/// The queries of a block: `tokens` tokens of one KV head's group, each with the rows it may see.
struct QueryBlock {
  std::size_t tokens;
  std::size_t group;
  const Position* positions;      // (tokens)
  const std::size_t* row_limits;  // (tokens) a query sees no row from here on
  bool by_position;               // rows need not be older than the query: compare positions
  Position shift;                 // the queries' distance between position and slot
  [[nodiscard]] std::size_t queries() const noexcept { return tokens * group; }
};

/// Logits of the rows in `range` to ws.logits + offset, as runs of rows with equal shift: where slots replace positions, the query is
/// turned by the difference instead of every key, which is the same dot product.
template <KeyStore Keys>
void score_chunk(const Keys& keys, const RowTable& table, RowRange range, const QueryBlock& block, std::size_t key_stride,
                 std::size_t logit_stride, float* logits, Workspace& ws) noexcept {
  for (std::size_t row = range.first; row < range.last;) {
    const Position shift = table.shift(row);
    std::size_t end = table.renumbers() ? row + 1 : range.last;
    while (end < range.last && (table.shift(end) == shift || !table.alive(end))) { ++end; }
    const float* queries = ws.queries.data();
    if (shift != block.shift) {
      ws.rotation.turn_by(static_cast<std::int64_t>(shift) - static_cast<std::int64_t>(block.shift));
      std::copy_n(ws.queries.data(), block.queries() * key_stride, ws.turned.data());
      for (std::size_t q = 0; q < block.queries(); ++q) { ws.rotation.apply(ws.turned.data() + q * key_stride); }
      queries = ws.turned.data();
    }
    float* out = logits + (row - range.first);
    if constexpr (UnrotatedKeyStore<Keys>) {
      keys.scores({row, end}, table, ws.rotation, queries, key_stride, block.queries(), out, logit_stride, ws.store.data());
    } else {
      keys.scores({row, end}, queries, key_stride, block.queries(), out, logit_stride, ws.store.data());
    }
    row = end;
  }
}

/// Sets the logits of rows that a query may not see to -infinity.
inline void mask_chunk(const RowTable& table, RowRange range, const QueryBlock& block, const AttendOptions& options,
                       std::size_t logit_stride, float* logits) noexcept {
  const bool by_row = !table.all_alive() || options.window > 0 || options.start > 0 || block.by_position;
  for (std::size_t q = 0; q < block.queries(); ++q) {
    float* row_logits = logits + q * logit_stride;
    const std::size_t token = q / block.group;
    const std::size_t limit = std::clamp(block.row_limits[token], range.first, range.last);
    std::fill(row_logits + (limit - range.first), row_logits + range.size(), kernels::minus_infinity);
    if (!by_row) { continue; }
    const Position at = block.positions[token];
    for (std::size_t r = range.first; r < limit; ++r) {
      const Position p = table.position(r);
      const bool seen = p <= at && p >= options.start && (options.window == 0 || at - p < options.window);
      if (!seen) { row_logits[r - range.first] = kernels::minus_infinity; }
    }
  }
}

/// Attention of one block, ws.queries already filled and scaled: normalised outputs to ws.outputs, log-sum-exp per query to
/// ws.running. The rows of `ranges` are met in batches with a running softmax, so that any number of rows needs the same scratch; with
/// `keep_logits` all logits of the block stay in ws.logits, row stride `rows`, the number of rows in the ranges. `values` may be null:
/// then there are no outputs.
template <KeyStore Keys, ValueStore Values>
void attend_block(const Keys& keys, const Values* values, const RowTable& table, const QueryBlock& block, std::span<const RowRange> ranges,
                  std::size_t rows, std::size_t key_stride, std::size_t value_stride, bool keep_logits, const AttendOptions& options,
                  Workspace& ws) noexcept {
  const std::size_t queries = block.queries();
  const std::size_t stride = keep_logits ? rows : chunk_rows;
  float* maxima = ws.running.data();
  float* sums = maxima + queries;
  std::fill(maxima, sums, kernels::minus_infinity);
  std::fill(sums, sums + queries, 0.0F);
  std::fill_n(ws.outputs.data(), queries * value_stride, 0.0F);
  float* logits = ws.logits.data();
  for (Batches batch(ranges, chunk_rows); !batch.done(); batch.next()) {
    const std::size_t size = batch.parts([&](RowRange part, std::size_t offset) {
      score_chunk(keys, table, part, block, key_stride, stride, logits + offset, ws);
    });
    if (options.soft_cap > 0.0F) {
      for (std::size_t q = 0; q < queries; ++q) { kernels::soft_cap(logits + q * stride, size, options.soft_cap); }
    }
    batch.parts([&](RowRange part, std::size_t offset) { mask_chunk(table, part, block, options, stride, logits + offset); });
    for (std::size_t q = 0; q < queries; ++q) {
      float* weights = ws.weights.data() + q * chunk_rows;
      const float top = std::max(maxima[q], kernels::largest_of(logits + q * stride, size));
      if (top == kernels::minus_infinity) {  // nothing to see so far
        std::fill_n(weights, size, 0.0F);
        continue;
      }
      if (top > maxima[q]) {
        const float shrink = math::exp(maxima[q] - top);
        sums[q] *= shrink;
        kernels::multiply(ws.outputs.data() + q * value_stride, value_stride, shrink);
        maxima[q] = top;
      }
      sums[q] += kernels::exponentials(logits + q * stride, size, top, weights);
    }
    if (values != nullptr) {
      batch.parts([&](RowRange part, std::size_t offset) {
        values->accumulate(part, ws.weights.data() + offset, chunk_rows, queries, ws.outputs.data(), value_stride, ws.store.data());
      });
    }
    if (keep_logits) { logits += size; }
  }
  for (std::size_t q = 0; q < queries; ++q) {
    if (sums[q] > 0.0F) { kernels::multiply(ws.outputs.data() + q * value_stride, value_stride, 1.0F / sums[q]); }
    maxima[q] = sums[q] > 0.0F ? maxima[q] + math::log(sums[q]) : kernels::minus_infinity;
  }
}

}  // namespace detail

/// Which rows a block of queries reads, when nothing chooses: all.
struct ReadEverything {};

/// Attention of `tokens` queries per head over the rows of one lane; reports each query's probabilities if asked to.
///
/// `load(token, head, row)` writes one query in the stored keys' form; `store(token, head, output, log_sum_exp)` receives the result;
/// `see(token, head, probabilities)` is called, if `observe`, in text order with heads ascending. `reading`, unless it is ReadEverything,
/// is asked for one token's queries at a time: reading(queries, stride, shift, rows) -> ascending ranges of the rows [0, rows). Results
/// do not depend on how queries are spread over calls.
template <KeyStore Keys, ValueStore Values>
class LaneAttention {
 public:
  LaneAttention(const Shape& shape, const Keys& keys, const Values* values, const RowTable& table, const AttendOptions& options)
      : shape_(shape), keys_(keys), values_(values), table_(table), options_(options),
        scale_(options.scale != 0.0F ? options.scale : 1.0F / math::sqrt(static_cast<float>(shape.key_width()))) {}

  template <class Reading = ReadEverything>
  void run(std::span<const Position> positions, std::span<const std::size_t> row_limits, bool by_position, Workspace& ws, bool observe,
           auto&& load, auto&& store, auto&& see, Reading&& reading = {}) const {
    constexpr bool chooses = !std::is_same_v<std::remove_cvref_t<Reading>, ReadEverything>;
    const std::size_t group = shape_.group();
    const std::size_t at_once = chooses ? 1 : std::max<std::size_t>(1, detail::block_queries / group);
    const std::size_t key_stride = kernels::padded(shape_.key_width());
    const std::size_t value_stride = kernels::padded(shape_.value_width());
    for (std::size_t first = 0; first < positions.size();) {
      const Position shift = shift_of(row_limits[first]);
      std::size_t end = first + 1;
      while (end < positions.size() && end - first < at_once && shift_of(row_limits[end]) == shift) { ++end; }
      const detail::QueryBlock block{end - first, group, positions.data() + first, row_limits.data() + first, by_position, shift};
      const std::size_t rows = *std::max_element(row_limits.begin() + at(first), row_limits.begin() + at(end));
      prepare(block.queries(), observe ? rows : detail::chunk_rows, key_stride, value_stride, ws);
      for (std::size_t q = 0; q < block.queries(); ++q) {
        float* query = ws.queries.data() + q * key_stride;
        load(first + q / group, q % group, query);
        for (std::size_t c = 0; c < shape_.key_width(); ++c) { query[c] *= scale_; }
        std::fill(query + shape_.key_width(), query + key_stride, 0.0F);
      }
      const RowRange all{0, rows};
      std::span<const RowRange> ranges(&all, 1);
      if constexpr (chooses) { ranges = reading(ws.queries.data(), key_stride, shift, rows); }
      detail::attend_block(keys_, values_, table_, block, ranges, rows, key_stride, value_stride, observe, options_, ws);
      for (std::size_t q = 0; q < block.queries(); ++q) {
        const float log_sum_exp = ws.running[q];
        store(first + q / group, q % group, ws.outputs.data() + q * value_stride, log_sum_exp);
        if (observe && log_sum_exp != kernels::minus_infinity) {
          kernels::exponentials(ws.logits.data() + q * rows, rows, log_sum_exp, ws.weights.data());
          see(first + q / group, q % group, std::span<const float>(ws.weights.data(), rows));
        }
      }
      first = end;
    }
  }

 private:
  static std::ptrdiff_t at(std::size_t index) noexcept { return static_cast<std::ptrdiff_t>(index); }
  [[nodiscard]] Position shift_of(std::size_t row_limit) const noexcept { return row_limit > 0 ? table_.shift(row_limit - 1) : 0; }

  void prepare(std::size_t queries, std::size_t logit_stride, std::size_t key_stride, std::size_t value_stride, Workspace& ws) const {
    Workspace::ensure(ws.queries, queries * key_stride);
    if (table_.renumbers()) { Workspace::ensure(ws.turned, queries * key_stride); }
    Workspace::ensure(ws.logits, queries * logit_stride);
    Workspace::ensure(ws.weights, std::max(queries * detail::chunk_rows, logit_stride));
    Workspace::ensure(ws.outputs, queries * value_stride);
    Workspace::ensure(ws.running, 2 * queries);
    Workspace::ensure(ws.store, std::max(keys_.scratch_floats(shape_.key_width(), queries),
                                         values_ != nullptr ? values_->scratch_floats(shape_.value_width(), queries) : 0));
  }

  const Shape& shape_;
  const Keys& keys_;
  const Values* values_;
  const RowTable& table_;
  AttendOptions options_;
  float scale_;
};

}  // namespace kvcompress
