// tests/support/random_rows.hpp - random texts (keys, values, queries of one layer) from fixed seeds, and caches fed from them.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <random>
#include <span>
#include <vector>

#include "kvcompress/cache.hpp"
#include "kvcompress/reference/attention.hpp"
#include "kvcompress/reference/rope.hpp"

namespace kvcompress::test {

/// `count` normal numbers.
inline std::vector<float> normal_numbers(std::size_t count, std::mt19937& rng, float spread = 1.0F) {
  std::normal_distribution<float> normal(0.0F, spread);
  std::vector<float> numbers(count);
  for (float& number : numbers) { number = normal(rng); }
  return numbers;
}

/// Keys, values and queries of one layer, each (tokens, heads, dim). Queries have twice the spread of keys, so that attention has peaks.
struct Text {
  Text(const Shape& of, std::size_t count, unsigned seed) : shape(of), tokens(count) {
    std::mt19937 rng(seed);
    keys = normal_numbers(count * shape.kv_heads * shape.key_width(), rng);
    values = normal_numbers(count * shape.kv_heads * shape.value_width(), rng);
    queries = normal_numbers(count * shape.query_heads * shape.key_width(), rng, 2.0F);
  }

  [[nodiscard]] Rows key_rows(std::size_t first, std::size_t count) const {
    return part(keys, first, count, shape.kv_heads, shape.key_width());
  }
  [[nodiscard]] Rows value_rows(std::size_t first, std::size_t count) const {
    return part(values, first, count, shape.kv_heads, shape.value_width());
  }
  [[nodiscard]] Rows query_rows(std::size_t first, std::size_t count) const {
    return part(queries, first, count, shape.query_heads, shape.key_width());
  }
  /// One head as the references take it: (tokens, dim).
  [[nodiscard]] reference::Matrix key_matrix(std::size_t head) const { return matrix(keys, head, shape.kv_heads, shape.key_width()); }
  [[nodiscard]] reference::Matrix value_matrix(std::size_t head) const { return matrix(values, head, shape.kv_heads, shape.value_width()); }
  [[nodiscard]] reference::Matrix query_matrix(std::size_t head) const {
    return matrix(queries, head, shape.query_heads, shape.key_width());
  }
  /// Numbers of one output token.
  [[nodiscard]] std::size_t output_width() const { return shape.query_heads * shape.value_width(); }

  Shape shape;
  std::size_t tokens;
  std::vector<float> keys;     // (tokens, kv_heads, key width)
  std::vector<float> values;   // (tokens, kv_heads, value width)
  std::vector<float> queries;  // (tokens, query_heads, key width)

 private:
  static Rows part(const std::vector<float>& data, std::size_t first, std::size_t count, std::size_t heads, std::size_t dim) {
    return Rows::tokens_first(data.data() + first * heads * dim, count, heads, dim);
  }
  [[nodiscard]] reference::Matrix matrix(const std::vector<float>& data, std::size_t head, std::size_t heads, std::size_t dim) const {
    const auto i = [](std::size_t n) { return static_cast<reference::Index>(n); };
    return reference::HeadsView<float>{data.data(), i(tokens), i(heads), i(dim), i(heads * dim), i(dim)}.head(i(head));
  }
};

/// Outputs, (tokens, query_heads, value width).
using Outputs = std::vector<float>;

/// Attends the newest `count` tokens, the last of which is token `end` - 1 of the text.
template <class Cache>
Outputs attend(Cache& cache, const Text& text, std::size_t end, std::size_t count, std::size_t layer = 0,
               const AttendOptions& options = {}) {
  Outputs out(count * text.output_width(), -1.0F);
  Workspace workspace(text.shape);
  cache.attend(layer, text.query_rows(end - count, count),
               Output::tokens_first(out.data(), count, text.shape.query_heads, text.shape.value_width()), workspace, options, HeadRange{});
  return out;
}

/// Appends and attends the tokens [first, first + count).
template <class Cache>
Outputs step(Cache& cache, const Text& text, std::size_t first, std::size_t count, std::size_t layer = 0,
             const AttendOptions& options = {}) {
  cache.append(layer, text.key_rows(first, count), text.value_rows(first, count));
  return attend(cache, text, first + count, count, layer, options);
}

/// A prompt in one piece, its commit, and decoding token by token up to `end`: all outputs. `repeated`: so many of its tokens are repeated for the
/// policy.
template <class Cache>
Outputs run(Cache& cache, const Text& text, std::size_t prompt, std::size_t end, std::size_t layer = 0, std::size_t repeated = 0) {
  Outputs all = step(cache, text, 0, prompt, layer);
  if (repeated > 0) {
    static_cast<void>(step(cache, text, 0, repeated, layer, {.record = Record::kept}));
    cache.truncate(static_cast<Position>(prompt));
  }
  cache.end_prompt(layer);
  for (std::size_t t = prompt; t < end; ++t) {
    const Outputs one = step(cache, text, t, 1, layer);
    all.insert(all.end(), one.begin(), one.end());
  }
  cache.commit(layer);
  return all;
}

/// The largest difference of two equally long series, relative to the larger of 1 and the second's number.
inline double deviation(std::span<const float> a, std::span<const float> b) {
  double worst = a.size() == b.size() ? 0.0 : 1e300;
  for (std::size_t i = 0; i < a.size() && i < b.size(); ++i) {
    const double difference = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    worst = std::isfinite(difference) ? std::max(worst, difference / std::max(1.0, std::abs(static_cast<double>(b[i])))) : 1e300;
  }
  return worst;
}

inline reference::AttentionOptions reference_options(const AttendOptions& options) {
  return {.scale = static_cast<double>(options.scale),
          .soft_cap = static_cast<double>(options.soft_cap),
          .window = static_cast<std::int64_t>(options.window),
          .start = static_cast<std::int64_t>(options.start)};
}

/// Plain causal attention of the whole text in double: (tokens, query_heads, value width). Keys and queries enter as they are.
inline Outputs full_attention(const Text& text, const AttendOptions& options = {}, std::vector<float>* log_sum_exp = nullptr) {
  const auto count = static_cast<reference::Index>(text.tokens);
  Outputs out(text.tokens * text.output_width());
  if (log_sum_exp != nullptr) { log_sum_exp->assign(text.tokens * text.shape.query_heads, 0.0F); }
  for (std::size_t head = 0; head < text.shape.query_heads; ++head) {
    const std::size_t lane = head / text.shape.group();
    const auto result =
        reference::attention(text.query_matrix(head), text.key_matrix(lane), text.value_matrix(lane), reference::consecutive(0, count),
                             reference::consecutive(0, count), reference_options(options));
    for (reference::Index t = 0; t < count; ++t) {
      const std::size_t row = static_cast<std::size_t>(t) * text.shape.query_heads + head;
      for (reference::Index c = 0; c < result.output.cols(); ++c) {
        out[row * text.shape.value_width() + static_cast<std::size_t>(c)] = static_cast<float>(result.output(t, c));
      }
      if (log_sum_exp != nullptr) { (*log_sum_exp)[row] = static_cast<float>(result.log_sum_exp(t)); }
    }
  }
  return out;
}

}  // namespace kvcompress::test
