// include/kvcompress/cache/checks.hpp - what KVCache asks of its arguments, each failure a sentence with argument, value and bound.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

#include "kvcompress/attention/attend.hpp"
#include "kvcompress/core/math.hpp"
#include "kvcompress/core/shape.hpp"
#include "kvcompress/core/views.hpp"
#include "kvcompress/kernels/exact.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

/// The largest magnitude of keys, values and queries, and of queries times the attention's scale: then no logit, sum of values or sum of
/// squares in fp32 overflows, at any width and number of rows.
inline constexpr float largest_number = 0x1p50F;  // 1.1259e15

inline void check_layer(const Shape& shape, const char* verb, std::size_t layer) {
  require(layer < shape.layers, ErrorCode::shape, verb, ": layer is ", layer, ", must be less than ", shape.layers);
}
inline void check_lane(const Shape& shape, const char* verb, std::size_t layer, std::size_t kv_head) {
  check_layer(shape, verb, layer);
  const std::size_t heads = shape.of(layer).kv_heads;
  require(kv_head < heads, ErrorCode::shape, verb, ": kv_head is ", kv_head, ", must be less than ", heads);
}
inline void check_row_count(const char* verb, std::size_t tokens) {
  require(tokens <= most_rows, ErrorCode::shape, verb, ": tokens is ", tokens, ", must be at most ", most_rows);
}

inline void check_equal(const char* name, std::size_t value, const char* bound_name, std::size_t bound) {
  require(value == bound, ErrorCode::shape, name, " is ", value, ", must be ", bound_name, " = ", bound);
}

/// The last row of a view (Rows or Output) ends within the address space. Sizes and pointer must have been checked.
inline void check_extent(const char* name, const auto& view) {
  constexpr auto most = static_cast<std::size_t>(PTRDIFF_MAX) / sizeof(float);
  std::size_t tokens = 0;
  std::size_t heads = 0;
  const bool overflows = __builtin_mul_overflow(view.tokens() - 1, view.token_stride(), &tokens) ||
                         __builtin_mul_overflow(view.heads() - 1, view.head_stride(), &heads);
  require(!overflows && tokens <= most && heads <= most - tokens && view.dim() <= most - tokens - heads, ErrorCode::shape, name,
          " has the strides ", view.token_stride(), " (tokens) and ", view.head_stride(), " (heads), must end within ", most, " elements");
}

/// Every number of the heads [first, last) is finite and at most `bound` in magnitude. `row` holds one row.
inline void check_finite(const char* name, const Rows& rows, float bound, std::size_t first, std::size_t last, float* row) {
  for (std::size_t t = 0; t < rows.tokens(); ++t) {
    const float* all = rows.rows_together(t, first);
    if (all != nullptr && kernels::all_within(all, (last - first) * rows.dim(), bound)) { continue; }
    for (std::size_t h = first; h < last; ++h) {
      const float* numbers = rows.row(t, h, row);
      if (kernels::all_within(numbers, rows.dim(), bound)) { continue; }
      for (std::size_t c = 0; c < rows.dim(); ++c) {
        require(math::abs(numbers[c]) <= bound, ErrorCode::input, name, " is ", numbers[c], " at token ", t, ", head ", h, ", channel ", c,
                ", must be finite and at most ", bound, " in magnitude");
      }
    }
  }
}

/// By how much a channel of a key may grow when the cache turns it: sqrt(2) by the rotation, and Rope::magnitude.
inline float key_growth(const Shape& shape) noexcept {
  return shape.keys == KeyForm::unrotated ? 1.5F * std::max(1.0F, static_cast<float>(shape.rope.magnitude)) : 1.0F;
}

/// `key_bound` and `value_bound`: the largest magnitudes that the stores, and an index of the keys, can hold.
inline void check_rows(const Shape& shape, const Rows& keys, const Rows& values, Position first_position, Position next, float key_bound,
                       float value_bound, float* row) {
  require(keys.tokens() > 0, ErrorCode::shape, "append: keys.tokens() is 0, must be at least 1");
  check_equal("append: values.tokens()", values.tokens(), "keys.tokens()", keys.tokens());
  check_equal("append: keys.heads()", keys.heads(), "shape.kv_heads", shape.kv_heads);
  check_equal("append: values.heads()", values.heads(), "shape.kv_heads", shape.kv_heads);
  check_equal("append: keys.dim()", keys.dim(), "the key width", shape.key_width());
  check_equal("append: values.dim()", values.dim(), "the value width", shape.value_width());
  require(!keys.empty() && !values.empty(), ErrorCode::input, "append: keys or values is null");
  require(first_position >= next, ErrorCode::position, "append: first_position is ", first_position, ", must be at least ", next,
          ", the position after the newest row");
  require(keys.tokens() <= no_position - first_position, ErrorCode::position, "append: the last position is ",
          first_position + keys.tokens() - 1, ", must be less than ", no_position);
  check_extent("append: keys", keys);
  check_extent("append: values", values);
  check_finite("append: keys", keys, key_bound / key_growth(shape), 0, shape.kv_heads, row);
  check_finite("append: values", values, value_bound, 0, shape.kv_heads, row);
}

/// Positions that are given to an append of `tokens` rows.
inline void check_places(std::span<const Position> positions, std::size_t tokens, Position next, bool in_prompt) {
  check_equal("append: positions.size()", positions.size(), "keys.tokens()", tokens);
  for (std::size_t t = 0; t < positions.size(); ++t) {
    require(positions[t] >= next, ErrorCode::position, "append: positions[", t, "] is ", positions[t], ", must be at least ", next,
            ", the position after the newest row");
    require(positions[t] < no_position, ErrorCode::position, "append: positions[", t, "] is ", positions[t], ", must be less than ",
            no_position);
    require(!in_prompt || t == 0 || positions[t] > positions[t - 1], ErrorCode::position, "append: positions[", t, "] is ", positions[t],
            ", must be above the one before it, ", t > 0 ? positions[t - 1] : 0, ", while a prompt is open: its rows come in order");
  }
}

/// How a verb attends, as far as it must be looked at again: raises an Error for what is no number, and gives a cap of infinity as none.
inline AttendOptions checked(const char* verb, const AttendOptions& options) {
  constexpr float most = std::numeric_limits<float>::max();
  require(options.scale >= 0.0F && options.scale <= most, ErrorCode::option, verb, ": scale is ", options.scale,
          ", must be finite and above 0, or 0 for 1/sqrt(key width)");
  require(options.soft_cap >= 0.0F, ErrorCode::option, verb, ": soft_cap is ", options.soft_cap,
          ", must be above 0, or 0 or infinity for none");
  AttendOptions checked = options;
  if (options.soft_cap > most) { checked.soft_cap = 0.0F; }
  return checked;
}

inline void check_slopes(const Shape& shape, const char* verb, std::span<const float> slopes) {
  require(slopes.size() == shape.query_heads, ErrorCode::shape, verb, ": alibi_slopes has ", slopes.size(),
          " numbers, must have one for each of the ", shape.query_heads, " query heads");
  for (std::size_t h = 0; h < slopes.size(); ++h) {
    require(slopes[h] >= 0.0F && slopes[h] <= 1e6F, ErrorCode::input, verb, ": alibi_slopes[", h, "] is ", slopes[h], ", must be 0 to 1e6");
  }
}

/// What a softmax counts beside the rows of a cache, of `tokens` queries per head.
inline void check_beside(const Shape& shape, const char* verb, std::size_t tokens, const AttendOptions& options) {
  require(options.sinks.empty() || options.sinks.size() == shape.query_heads, ErrorCode::shape, verb, ": sinks has ", options.sinks.size(),
          " numbers, must have one for each of the ", shape.query_heads, " query heads");
  for (std::size_t h = 0; h < options.sinks.size(); ++h) {
    require(options.sinks[h] <= largest_number, ErrorCode::input, verb, ": sinks[", h, "] is ", options.sinks[h], ", must be at most ",
            largest_number);
  }
  for (std::size_t i = 0; i < options.partials.size(); ++i) {
    const Partial& partial = options.partials[i];
    require(partial.log_sum_exp != nullptr && partial.output != nullptr, ErrorCode::input, verb, ": partials[", i,
            "] is null, must have a log-sum-exp and an output");
    for (std::size_t q = 0; q < tokens * shape.query_heads; ++q) {
      require(partial.log_sum_exp[q] <= std::numeric_limits<float>::max(), ErrorCode::input, verb, ": partials[", i, "].log_sum_exp is ",
              partial.log_sum_exp[q], " at token ", q / shape.query_heads, ", head ", q % shape.query_heads,
              ", must be finite, or -inf for a query that sees nothing");
    }
  }
}

/// Queries of the KV heads [first, last), which will be multiplied by `scale` (0: at most 1).
inline void check_queries(const Shape& shape, const Rows& queries, std::size_t first, std::size_t last, float scale, float* row) {
  require(queries.tokens() > 0, ErrorCode::shape, "queries.tokens() is 0, must be at least 1");
  check_equal("queries.heads()", queries.heads(), "shape.query_heads", shape.query_heads);
  check_equal("queries.dim()", queries.dim(), "the key width", shape.key_width());
  require(!queries.empty(), ErrorCode::input, "queries is null");
  require(first < last, ErrorCode::shape, "heads.first is ", first, ", must be less than heads.last = ", last);
  require(last <= shape.kv_heads, ErrorCode::shape, "heads.last is ", last, ", must be at most shape.kv_heads = ", shape.kv_heads);
  check_extent("queries", queries);
  check_finite("queries", queries, largest_number / std::max(1.0F, scale), first * shape.group(), last * shape.group(), row);
}

/// Room for the results of `tokens` tokens, row beside row.
inline void check_output(const Shape& shape, const Output& out, std::size_t tokens) {
  require(!out.empty(), ErrorCode::input, "attend: out is null");
  check_equal("attend: out.tokens()", out.tokens(), "queries.tokens()", tokens);
  check_equal("attend: out.heads()", out.heads(), "shape.query_heads", shape.query_heads);
  check_equal("attend: out.dim()", out.dim(), "the value width", shape.value_width());
  check_extent("attend: out", out);
  const bool heads_inside = out.tokens() == 1 || (out.heads() > 1 && out.head_stride() <= out.token_stride());
  const std::size_t inner = heads_inside ? out.heads() : out.tokens();
  const std::size_t inner_stride = heads_inside ? out.head_stride() : out.token_stride();
  const std::size_t outer = heads_inside ? out.tokens() : out.heads();
  const std::size_t outer_stride = heads_inside ? out.token_stride() : out.head_stride();
  require((inner == 1 || inner_stride >= out.dim()) && (outer == 1 || outer_stride >= (inner - 1) * inner_stride + out.dim()),
          ErrorCode::shape, "attend: out has the strides ", out.token_stride(), " (tokens) and ", out.head_stride(),
          " (heads), must keep rows of ", out.dim(), " numbers apart");
}

/// One number per query head: a log-sum-exp is finite, or -infinity where a query sees nothing.
inline void check_log_sum_exp(const Shape& shape, std::size_t tokens, const float* log_sum_exp) {
  for (std::size_t i = 0; log_sum_exp != nullptr && i < tokens * shape.query_heads; ++i) {
    require(log_sum_exp[i] <= std::numeric_limits<float>::max(), ErrorCode::input, "observe: log_sum_exp is ", log_sum_exp[i], " at token ",
            i / shape.query_heads, ", head ", i % shape.query_heads, ", must be finite, or -inf for a query that sees nothing");
  }
}

/// How masks go together, in a layer with `open` rows since its last commit.
inline void check_masks(const char* verb, const AttendOptions& options, std::size_t open, bool in_prompt, bool branches) {
  const bool masks = !options.until.empty() || !options.among_open.empty();
  require(!masks || options.query_position == no_position, ErrorCode::option, verb, ": query_position is ", options.query_position,
          ", must be the default with until or among_open, which are about the newest rows");
  require(options.until.empty() || options.among_open.empty(), ErrorCode::option, verb,
          ": until and among_open are given, must be one of them");
  require(options.among_open.empty() || !in_prompt, ErrorCode::phase, verb,
          ": among_open is given while a prompt is open, must be empty: until says how far its tokens see");
  require(!options.among_open.empty() || !branches, ErrorCode::input, verb, ": among_open is empty, must say which of the ", open,
          " open rows each query sees: they are a tree of drafts");
}
/// Masks of `tokens` queries, of `open` rows; position(t) is that of a query.
inline void check_until(const char* verb, const AttendOptions& options, std::size_t tokens, std::size_t open, Position next,
                        auto&& position) {
  const std::size_t words = tokens * ((open + 63) / 64);
  require(options.among_open.empty() || options.among_open.size() == words, ErrorCode::shape, verb, ": among_open has ",
          options.among_open.size(), " words, must have ", (open + 63) / 64, " for each of ", tokens, " queries: a bit for each of the ",
          open, " rows since the last commit");
  require(options.until.empty() || options.until.size() == tokens, ErrorCode::shape, verb, ": until has ", options.until.size(),
          " positions, must have one for each of the ", tokens, " queries");
  for (std::size_t t = 0; t < options.until.size(); ++t) {
    require(options.until[t] > position(t) && options.until[t] <= next, ErrorCode::position, verb, ": until[", t, "] is ", options.until[t],
            ", must be above the query's position ", position(t), " and at most ", next, ", the position after the newest row");
  }
}

/// One position per query, ascending, none newer than the newest row.
inline void check_positions(std::span<const Position> positions, std::size_t tokens, Position next) {
  check_equal("observe: positions.size()", positions.size(), "queries.tokens()", tokens);
  require(positions.data() != nullptr, ErrorCode::input, "observe: positions is null");
  for (std::size_t t = 0; t < tokens; ++t) {
    const bool last = t + 1 == tokens;
    const Position bound = last ? next : positions[t + 1];
    require(positions[t] < bound, ErrorCode::position, "observe: positions[", t, "] is ", positions[t], ", must be less than ", bound,
            last ? ", the position after the newest row" : ", the one after it");
  }
}

}  // namespace kvcompress::detail
