// include/kvcompress/attention/attend.hpp - the one attention driver: a block of queries of one KV head over the rows of its lane.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <type_traits>
#include <utility>

#include "kvcompress/attention/batches.hpp"
#include "kvcompress/attention/logits.hpp"
#include "kvcompress/attention/partial.hpp"
#include "kvcompress/attention/running_softmax.hpp"
#include "kvcompress/attention/workspace.hpp"
#include "kvcompress/concepts.hpp"
#include "kvcompress/concepts/store_facts.hpp"
#include "kvcompress/core/function_ref.hpp"
#include "kvcompress/core/math.hpp"
#include "kvcompress/core/visible.hpp"
#include "kvcompress/kernels/exact.hpp"
#include "kvcompress/kernels/softmax.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

namespace detail {

/// Attention of one block, ws.queries already filled and scaled, over up to part_rows rows from `batch` on, which moves behind them. Their
/// logits, row stride `stride`, start at `logits`; with `keep_logits` those of each batch stay, one behind the other. `values` may be null:
/// then there are no outputs.
template <KeyStore Keys, ValueStore Values>
void attend_part(const Keys& keys, const Values* values, const RowTable& table, const QueryBlock& block, Batches& batch,
                 std::size_t key_stride, bool keep_logits, float*& logits, std::size_t stride, const AttendOptions& options,
                 const RunningSoftmax& running, Workspace& ws) noexcept {
  const std::size_t queries = block.queries();
  running.start();
  for (std::size_t rows = 0; rows < part_rows && !batch.done(); rows += chunk_rows, batch.next()) {
    const std::size_t size = score_batch(keys, values, table, block, batch, key_stride, stride, logits, options, ws);
    for (std::size_t q = 0; q < queries; ++q) {
      float* weights = ws.weights.data() + q * chunk_rows;
      const float top = std::max(running.maxima[q], kernels::largest_of(logits + q * stride, size));
      if (top == kernels::minus_infinity) {  // nothing to see so far
        std::fill_n(weights, size, 0.0F);
        continue;
      }
      if (top > running.maxima[q]) { running.raise(q, top); }
      running.sums[q] += kernels::exponentials(logits + q * stride, size, top, weights);
    }
    if (values != nullptr) {
      batch.parts([&](RowRange part, std::size_t offset) {
        values->accumulate(part, ws.weights.data() + offset, chunk_rows, queries, running.outputs, running.value_stride, ws.store.data());
      });
    }
    if (keep_logits) { logits += size; }
  }
}

/// Logits of -infinity for the first `count` rows, which are not read, of queries whose logits are kept, `rows` each. Returns their number.
inline std::size_t skip_logits(std::size_t queries, std::size_t rows, std::size_t count, Workspace& ws) noexcept {
  for (std::size_t q = 0; q < queries; ++q) { std::fill_n(ws.logits.data() + q * rows, count, kernels::minus_infinity); }
  return count;
}

/// Logits of a block that lie one behind the other, as the ranges that were read do, come to where their rows are; those of rows that were not
/// read become -infinity.
inline void spread_logits(std::size_t queries, std::size_t rows, std::span<const RowRange> ranges, Workspace& ws) noexcept {
  if (ranges.size() == 1 && ranges.front().last == rows) { return; }
  std::size_t read = ranges.front().first;
  for (const RowRange& range : ranges) { read += range.size(); }
  for (std::size_t q = 0; q < queries; ++q) {
    float* const logits = ws.logits.data() + q * rows;
    std::size_t end = rows;
    std::size_t from = read;
    for (auto range = ranges.rbegin(); range != ranges.rend(); ++range) {
      std::fill(logits + range->last, logits + end, kernels::minus_infinity);
      std::copy_backward(logits + from - range->size(), logits + from, logits + range->last);
      from -= range->size();
      end = range->first;
    }
  }
}

/// The same over all the rows of `ranges`, not yet divided. The rows are met in batches with a running softmax, so that any number of rows needs the
/// same scratch; with `keep_logits` all logits of the block stay in ws.logits, row stride `rows`, from that of the first row on: those of rows
/// outside the ranges are -infinity.
template <KeyStore Keys, ValueStore Values>
RunningSoftmax attend_block(const Keys& keys, const Values* values, const RowTable& table, const QueryBlock& block,
                            std::span<const RowRange> ranges, std::size_t rows, std::size_t key_stride, std::size_t value_stride,
                            bool keep_logits, const AttendOptions& options, Workspace& ws) noexcept {
  const std::size_t stride = keep_logits ? rows : chunk_rows;
  const RunningSoftmax whole(ws.outputs.data(), block.queries(), value_stride);
  const RunningSoftmax part(ws.outputs.data() + RunningSoftmax::floats(block.queries(), value_stride), block.queries(), value_stride);
  float* logits = ws.logits.data();
  if (keep_logits) { logits += skip_logits(block.queries(), rows, ranges.front().first, ws); }
  Batches batch(ranges, chunk_rows);
  attend_part(keys, values, table, block, batch, key_stride, keep_logits, logits, stride, options, whole, ws);
  while (!batch.done()) {
    attend_part(keys, values, table, block, batch, key_stride, keep_logits, logits, stride, options, part, ws);
    whole.merge(part);
  }
  if (keep_logits) { spread_logits(block.queries(), rows, ranges, ws); }
  return whole;
}

}  // namespace detail

/// A query whose known log-sum-exp would make a probability larger than 1, if there is one.
struct TooLikely {
  bool found = false;
  std::size_t token = 0;
  std::size_t head = 0;  ///< of the group
  float log_sum_exp = 0.0F;
  float logit = 0.0F;  ///< the largest one
};

/// Which rows a block of queries reads: choose(queries, stride, shift, visible, rows) -> ascending ranges of the rows [0, rows), at least one, which
/// may be empty. Null: all that it sees.
struct Reading {
  using Choose = FunctionRef<std::span<const RowRange>(const float* queries, std::size_t stride, std::int64_t shift, const Visible& visible,
                                                       std::size_t rows)>;
  Choose choose{};
  bool by_token = true;  ///< it goes by queries, so that it is asked for one token's at a time
};

/// What the softmax of a query counts beside the rows of the lane: sinks and partials of the heads from `first_head` on, or the log of a mass
/// per query, (tokens, heads of the group), without values.
struct Beside {
  std::size_t first_head = 0;
  const float* masses = nullptr;
};

/// Attention of `tokens` queries per head over the rows of one lane; reports each query's probabilities if asked to.
///
/// `load(token, head, row)` writes one query in the stored keys' form; `store(token, head, output, log_sum_exp)` receives the result;
/// `see(token, head, probabilities, output)` is called, if `observe`, in text order with heads ascending. Results do not depend on how queries
/// are spread over calls.
template <KeyStore Keys, ValueStore Values>
class LaneAttention {
 public:
  /// `open_rows`: rows since the last commit, where the options have masks over these.
  LaneAttention(const Shape& shape, const Keys& keys, const Values* values, const RowTable& table, const AttendOptions& options,
                const Beside& beside = {}, std::size_t open_rows = 0)
      : shape_(shape), keys_(keys), values_(values), table_(table), options_(options), beside_(beside),
        scale_(options.scale != 0.0F ? options.scale : 1.0F / math::sqrt(static_cast<float>(shape.key_width()))),
        key_stride_(kernels::padded(shape.key_width())), value_stride_(kernels::padded(shape.value_width())) {
    if (!options.among_open.empty()) { open_ = {options.among_open.data(), (open_rows + 63) / 64, table.rows() - open_rows}; }
    if (!options.alibi_slopes.empty()) { options_.alibi_slopes = options.alibi_slopes.subspan(beside.first_head, shape.group()); }
  }

  /// Room for any `tokens` queries over all rows, so that run and run_known take no memory themselves.
  void make_room(std::size_t tokens, bool observe, Workspace& ws) const {
    prepare(std::min(tokens, at_once({})) * shape_.group(), observe ? table_.rows() : detail::chunk_rows, ws);
  }
  void run(std::span<const Position> positions, std::span<const std::size_t> row_limits, bool by_position, Workspace& ws, bool observe,
           auto&& load, auto&& store, auto&& see, const Reading& reading = {}) const {
    const std::size_t group = shape_.group();
    for_blocks(positions, row_limits, by_position, at_once(reading),
               [&](const detail::QueryBlock& block, std::size_t first, const RowRange& all) {
      const std::size_t rows = all.last;
      prepare(block.queries(), observe ? rows : detail::chunk_rows, ws);
      load_queries(block, first, ws, load);
      const std::span<const RowRange> ranges = ranges_of(reading, block, all, ws);
      const detail::RunningSoftmax done =
          detail::attend_block(keys_, values_, table_, block, ranges, rows, key_stride_, value_stride_, observe, options_, ws);
      finish(done, first, block.tokens);
      for (std::size_t q = 0; q < block.queries(); ++q) {
        const float log_sum_exp = done.maxima[q];
        store(first + q / group, q % group, done.outputs + q * value_stride_, log_sum_exp);
        if (observe && log_sum_exp != kernels::minus_infinity) {
          kernels::exponentials(ws.logits.data() + q * rows, rows, log_sum_exp, ws.weights.data());
          see(first + q / group, q % group, std::span<const float>(ws.weights.data(), rows), done.outputs + q * value_stride_);
        }
      }
    });
  }
  /// The probabilities alone, of queries whose log-sum-exp is known, (tokens, query heads of the group), `stride` from token to token. One pass.
  /// Stops at a query with a probability larger than 1; within `slack` of it (of the logarithm: a number, and a share of the logit) it is 1.
  TooLikely run_known(std::span<const Position> positions, std::span<const std::size_t> row_limits, const float* log_sum_exp,
                      std::size_t stride, std::pair<float, float> slack, Workspace& ws, auto&& load, auto&& see,
                      const Reading& reading = {}) const {
    TooLikely too_likely;
    for_blocks(positions, row_limits, true, at_once(reading), [&](const detail::QueryBlock& block, std::size_t first, const RowRange& all) {
      if (too_likely.found) { return; }
      const std::size_t rows = all.last;
      prepare(block.queries(), rows, ws);
      load_queries(block, first, ws, load);
      const std::span<const RowRange> ranges = ranges_of(reading, block, all, ws);
      float* logits = ws.logits.data() + detail::skip_logits(block.queries(), rows, ranges.front().first, ws);
      for (detail::Batches batch(ranges, detail::chunk_rows); !batch.done(); batch.next()) {
        logits +=
            detail::score_batch(keys_, static_cast<const Values*>(nullptr), table_, block, batch, key_stride_, rows, logits, options_, ws);
      }
      detail::spread_logits(block.queries(), rows, ranges, ws);
      for (std::size_t q = 0; q < block.queries(); ++q) {
        const float known = log_sum_exp[(first + q / block.group) * stride + q % block.group];
        float* row = ws.logits.data() + q * rows;
        const float top = kernels::largest_of(row, rows);
        if (top == kernels::minus_infinity) { continue; }
        if (!(top - known <= slack.first + slack.second * math::abs(top))) {
          too_likely = {true, first + q / block.group, q % block.group, known, top};
          return;
        }
        for (std::size_t r = 0; top > known && r < rows; ++r) { row[r] = std::min(row[r], known); }
        kernels::exponentials(row, rows, known, ws.weights.data());
        see(first + q / block.group, q % block.group, std::span<const float>(ws.weights.data(), rows), nullptr);
      }
    });
    return too_likely;
  }
  /// What `reading` gives for one token's queries, without attention.
  std::span<const RowRange> choose(std::span<const Position> positions, std::span<const std::size_t> row_limits, Workspace& ws, auto&& load,
                                   const Reading& reading) const {
    const detail::QueryBlock block = block_of(positions.data(), row_limits.data());
    prepare(block.queries(), detail::chunk_rows, ws);
    load_queries(block, 0, ws, load);
    return ranges_of(reading, block, {0, row_limits[0]}, ws);
  }
  /// Parts that the rows fall into which the queries of one token read.
  [[nodiscard]] std::size_t parts(Position position, std::size_t row_limit) const noexcept {
    return (row_limit - unread(block_of(&position, &row_limit)) + detail::part_rows - 1) / detail::part_rows;
  }
  /// Numbers of the result of one part.
  [[nodiscard]] std::size_t part_floats() const noexcept { return detail::RunningSoftmax::floats(shape_.group(), value_stride_); }
  /// One token's queries over one part of the rows; parts may run at the same time, each with a workspace of its own.
  void run_part(std::size_t index, std::span<const Position> positions, std::span<const std::size_t> row_limits, Workspace& ws, auto&& load,
                float* result) const {
    const detail::QueryBlock block = block_of(positions.data(), row_limits.data());
    prepare(block.queries(), detail::chunk_rows, ws);
    load_queries(block, 0, ws, load);
    const std::size_t first = unread(block) + index * detail::part_rows;
    const RowRange rows{std::min(first, row_limits[0]), std::min(first + detail::part_rows, row_limits[0])};
    float* logits = ws.logits.data();
    detail::Batches batch(std::span<const RowRange>(&rows, 1), detail::chunk_rows);
    detail::attend_part(keys_, values_, table_, block, batch, key_stride_, false, logits, detail::chunk_rows, options_,
                        detail::RunningSoftmax(result, block.queries(), value_stride_), ws);
  }
  /// Merges the results of all parts, one behind the other, and stores what run would have.
  void finish_parts(float* results, std::size_t count, auto&& store) const {
    const detail::RunningSoftmax whole(results, shape_.group(), value_stride_);
    for (std::size_t i = 1; i < count; ++i) {
      whole.merge(detail::RunningSoftmax(results + i * part_floats(), shape_.group(), value_stride_));
    }
    finish(whole, 0, 1);
    for (std::size_t h = 0; h < shape_.group(); ++h) { store(std::size_t{0}, h, whole.outputs + h * value_stride_, whole.maxima[h]); }
  }

 private:
  /// Tokens of a block.
  [[nodiscard]] std::size_t at_once(const Reading& reading) const noexcept {
    return reading.choose && reading.by_token ? 1 : std::max<std::size_t>(1, detail::block_queries / shape_.group());
  }
  /// What a block reads of the rows that it sees.
  std::span<const RowRange> ranges_of(const Reading& reading, const detail::QueryBlock& block, const RowRange& all, Workspace& ws) const {
    if (!reading.choose) { return {&all, 1}; }
    return reading.choose(ws.queries.data(), key_stride_, block.shift, block.visible(0, options_), all.last);
  }
  /// Adds what is beside the rows to the softmax of `tokens` tokens from `first` on, and divides.
  void finish(const detail::RunningSoftmax& running, std::size_t first, std::size_t tokens) const noexcept {
    const std::size_t group = shape_.group();
    if constexpr (detail::FramesOutputs<Values>) {
      if (values_ != nullptr && detail::frames(*values_)) { values_->unframe_outputs(running.outputs, value_stride_, tokens * group); }
    }
    const bool alone = options_.sinks.empty() && options_.partials.empty() && beside_.masses == nullptr;
    for (std::size_t q = 0; !alone && q < tokens * group; ++q) {
      const std::size_t query = (first + q / group) * shape_.query_heads + beside_.first_head + q % group;
      if (!options_.sinks.empty()) { running.add(q, options_.sinks[beside_.first_head + q % group], nullptr, 0); }
      for (const Partial& partial : options_.partials) {
        running.add(q, partial.log_sum_exp[query], partial.output + query * shape_.value_width(), shape_.value_width());
      }
      if (beside_.masses != nullptr) { running.add(q, beside_.masses[first * group + q], nullptr, 0); }
    }
    running.finish();
  }
  static std::ptrdiff_t at(std::size_t index) noexcept { return static_cast<std::ptrdiff_t>(index); }
  /// A block of one token, the `index`-th, of those whose positions and row limits these are.
  [[nodiscard]] detail::QueryBlock block_of(const Position* positions, const std::size_t* row_limits, std::size_t index = 0,
                                            bool by_position = false) const noexcept {
    const Position* const until = options_.until.empty() ? nullptr : options_.until.data() + index;
    return {1,     shape_.group(),   positions + index, row_limits + index, by_position, shift_of(positions[index], row_limits[index]),
            until, open_.from(index)};
  }
  /// How far a token's queries are rotated beyond where attention sees them: as far as its own row, or the newest one that is older.
  [[nodiscard]] std::int64_t shift_of(Position position, std::size_t row_limit) const noexcept {
    if (options_.query_position != no_position) {  // as if its row came next
      return table_.renumbers() ? std::int64_t{options_.query_position} - static_cast<std::int64_t>(table_.live()) : 0;
    }
    if (!table_.shifts()) { return 0; }
    if (open_.bits != nullptr) {
      while (row_limit > 0 && table_.position(row_limit - 1) != position) { --row_limit; }
    } else if (!options_.until.empty()) {
      while (row_limit > 0 && table_.position(row_limit - 1) > position) { --row_limit; }
    }
    return row_limit > 0 ? table_.shift(row_limit - 1) : 0;
  }
  /// Rows at the front that a token's queries need not read, since they see none of them. Follows from the token alone, so that its batches and
  /// its numbers do.
  [[nodiscard]] std::size_t unread(const detail::QueryBlock& token) const noexcept {
    if (options_.window == 0 && options_.start == 0) { return 0; }
    return token.visible(0, options_).first_seen(table_, 0, *token.row_limits) / detail::unread_step * detail::unread_step;
  }

  /// Calls visit(block, first token, rows that it reads) for blocks of up to `at_once` tokens.
  void for_blocks(std::span<const Position> positions, std::span<const std::size_t> row_limits, bool by_position, std::size_t at_once,
                  auto&& visit) const {
    for (std::size_t first = 0; first < positions.size();) {
      detail::QueryBlock block = block_of(positions.data(), row_limits.data(), first, by_position);
      const std::size_t skipped = unread(block);
      while (first + block.tokens < positions.size() && block.tokens < at_once) {
        const detail::QueryBlock next = block_of(positions.data(), row_limits.data(), first + block.tokens);
        if (next.shift != block.shift || unread(next) != skipped) { break; }
        ++block.tokens;
      }
      const std::size_t end = first + block.tokens;
      visit(block, first, RowRange{skipped, *std::max_element(row_limits.begin() + at(first), row_limits.begin() + at(end))});
      first = end;
    }
  }
  void prepare(std::size_t queries, std::size_t logit_stride, Workspace& ws) const {
    Workspace::ensure(ws.queries, queries * key_stride_);
    if (detail::frames(keys_)) { Workspace::ensure(ws.framed, queries * key_stride_); }
    if (table_.shifts()) { Workspace::ensure(ws.turned, queries * key_stride_); }
    Workspace::ensure(ws.logits, queries * logit_stride);
    Workspace::ensure(ws.weights, std::max(queries * detail::chunk_rows, logit_stride));
    Workspace::ensure(ws.outputs, 2 * detail::RunningSoftmax::floats(queries, value_stride_));
    Workspace::ensure(ws.store, std::max(keys_.scratch_floats(shape_.key_width(), queries),
                                         values_ != nullptr ? values_->scratch_floats(shape_.value_width(), queries) : 0));
  }
  void load_queries(const detail::QueryBlock& block, std::size_t first, Workspace& ws, auto&& load) const {
    for (std::size_t q = 0; q < block.queries(); ++q) {
      float* query = ws.queries.data() + q * key_stride_;
      load(first + q / block.group, q % block.group, query);
      for (std::size_t c = 0; c < shape_.key_width(); ++c) { query[c] *= scale_; }
      std::fill(query + shape_.key_width(), query + key_stride_, 0.0F);
    }
    if (!detail::frames(keys_)) { return; }
    std::copy_n(ws.queries.data(), block.queries() * key_stride_, ws.framed.data());
    detail::frame_queries(keys_, ws.framed, key_stride_, block.queries());
  }

  const Shape& shape_;
  const Keys& keys_;
  const Values* values_;
  const RowTable& table_;
  AttendOptions options_;
  Beside beside_;
  detail::OpenRows open_;
  float scale_;
  std::size_t key_stride_;
  std::size_t value_stride_;
};

}  // namespace kvcompress
