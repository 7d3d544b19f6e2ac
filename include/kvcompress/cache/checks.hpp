// include/kvcompress/cache/checks.hpp - what KVCache asks of its arguments, each failure a sentence with argument, value and bound.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <span>

#include "kvcompress/core/math.hpp"
#include "kvcompress/core/shape.hpp"
#include "kvcompress/core/views.hpp"
#include "kvcompress/kernels/exact.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

inline void check_layer(const Shape& shape, const char* verb, std::size_t layer) {
  require(layer < shape.layers, ErrorCode::shape, verb, ": layer is ", layer, ", must be less than ", shape.layers);
}

inline void check_equal(const char* name, std::size_t value, const char* bound_name, std::size_t bound) {
  require(value == bound, ErrorCode::shape, name, " is ", value, ", must be ", bound_name, " = ", bound);
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

/// `key_bound` and `value_bound`: the largest magnitudes that the stores can hold.
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
  require(keys.tokens() < no_position - first_position, ErrorCode::position, "append: the last position is ",
          first_position + keys.tokens() - 1, ", must be less than ", no_position);
  const float turning = shape.keys == KeyForm::unrotated ? 1.5F : 1.0F;  // a rotation can grow a channel by sqrt(2)
  check_finite("append: keys", keys, key_bound / turning, 0, shape.kv_heads, row);
  check_finite("append: values", values, value_bound, 0, shape.kv_heads, row);
}

/// Queries of the KV heads [first, last).
inline void check_queries(const Shape& shape, const Rows& queries, std::size_t first, std::size_t last, float* row) {
  require(queries.tokens() > 0, ErrorCode::shape, "queries.tokens() is 0, must be at least 1");
  check_equal("queries.heads()", queries.heads(), "shape.query_heads", shape.query_heads);
  check_equal("queries.dim()", queries.dim(), "the key width", shape.key_width());
  require(!queries.empty(), ErrorCode::input, "queries is null");
  require(first < last, ErrorCode::shape, "heads.first is ", first, ", must be less than heads.last = ", last);
  check_finite("queries", queries, largest<float>, first * shape.group(), last * shape.group(), row);
}

/// One position per query, ascending, none newer than the newest row.
inline void check_positions(std::span<const Position> positions, std::size_t tokens, Position next) {
  check_equal("observe: positions.size()", positions.size(), "queries.tokens()", tokens);
  for (std::size_t t = 0; t < tokens; ++t) {
    const bool last = t + 1 == tokens;
    const Position bound = last ? next : positions[t + 1];
    require(positions[t] < bound, ErrorCode::position, "observe: positions[", t, "] is ", positions[t], ", must be less than ", bound,
            last ? ", the position after the newest row" : ", the one after it");
  }
}

}  // namespace kvcompress::detail
