// tests/support/landmark_reading.hpp - what a cache with landmarks must read, and attention over just that, as it decodes its rows.
// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <set>
#include <vector>

#include "kvcompress/policies/shadowkv.hpp"
#include "support/policies.hpp"
#include "support/random_rows.hpp"

namespace kvcompress::test::landmarks {

using reference::Index;
using reference::Matrix;

using Shadow = ShadowKV<float>;
inline const Shape shape{.query_heads = 4, .kv_heads = 2, .head_dim = 16};
inline constexpr std::size_t prompt = 150;

/// Chunks of 4, 2 local ones, 3 outliers, 6 chosen.
template <class P>
PolicyOptions<P> small_options(std::size_t budget = 24) {
  PolicyOptions<P> options{};
  options.retrieval = {.budget = budget, .chunk = 4, .local_chunks = 2, .outlier_chunks = 3};
  add_up_exactly(options.storage);
  return options;
}
/// After `prompt` tokens.
template <class P>
KVCache<P> prompted(const Text& text, const PolicyOptions<P>& options, std::size_t tokens = prompt) {
  KVCache<P> cache(text.shape, options);
  static_cast<void>(step(cache, text, 0, tokens));
  cache.end_prompt(0);
  return cache;
}

inline Index index(std::size_t n) { return static_cast<Index>(n); }

/// The ranges that the index of a lane chooses for the queries of token `token`, outliers included.
template <class Cache>
std::vector<RowRange> chosen(const Cache& cache, const Text& text, std::size_t token, std::size_t lane, const Visible& visible = {},
                             float soft_cap = 0.0F) {
  const std::size_t stride = kernels::padded(text.shape.head_dim);
  const std::size_t group = text.shape.group();
  const float scale = 1.0F / math::sqrt(static_cast<float>(text.shape.head_dim));
  std::vector<float> queries(group * stride, 0.0F);
  for (std::size_t h = 0; h < group; ++h) {
    for (std::size_t c = 0; c < text.shape.head_dim; ++c) {
      queries[h * stride + c] = scale * text.queries[(token * text.shape.query_heads + lane * group + h) * text.shape.head_dim + c];
    }
  }
  Workspace ws(text.shape);
  Vector<RowRange> ranges;
  KVCache<typename Cache::Policy>::Retrieval::select(
      cache.options().retrieval, cache.index(0, lane),
      {cache.table(0, lane), queries.data(), stride, group, text.shape.head_dim, 0, ws.rotation, ws.chosen, ws.order, visible, soft_cap},
      ranges);
  return {ranges.begin(), ranges.end()};
}
/// The chunks among them that are not outliers.
template <class Cache>
std::set<std::size_t> chosen_chunks(const Cache& cache, const Text& text, std::size_t token, std::size_t lane) {
  const std::size_t chunk = cache.options().retrieval.chunk;
  std::set<std::size_t> chunks;
  for (const RowRange range : chosen(cache, text, token, lane)) {
    for (std::size_t row = range.first; row < range.last; row += chunk) { chunks.insert(row / chunk); }
  }
  for (const RowRange range : cache.index(0, lane).outliers()) { chunks.erase(range.first / chunk); }
  return chunks;
}
/// All live rows that a query of the newest token must read, ascending.
template <class Cache>
std::vector<std::size_t> rows_read(const Cache& cache, const Text& text, std::size_t token, std::size_t lane) {
  std::vector<std::size_t> rows;
  for (const RowRange range : chosen(cache, text, token, lane)) {
    for (std::size_t row = range.first; row < range.last; ++row) { rows.push_back(row); }
  }
  for (std::size_t row = cache.index(0, lane).indexed(); row < cache.table(0, lane).rows(); ++row) { rows.push_back(row); }
  std::erase_if(rows, [&](std::size_t row) { return !cache.table(0, lane).alive(row); });
  return rows;
}

/// How far outputs of the newest token are from attention over rows_read, as the cache decodes them.
template <class Cache>
double output_deviation(Cache& cache, const Text& text, std::size_t token, const Outputs& out) {
  double worst = 0.0;
  std::vector<float> key(shape.head_dim);
  std::vector<float> value(shape.head_dim);
  for (std::size_t head = 0; head < text.shape.query_heads; ++head) {
    const std::size_t lane = head / text.shape.group();
    const std::vector<std::size_t> rows = rows_read(cache, text, token, lane);
    Matrix keys(index(rows.size()), index(shape.head_dim));
    Matrix values = keys;
    reference::Positions positions(keys.rows());
    for (Index i = 0; i < keys.rows(); ++i) {
      const std::size_t row = rows[static_cast<std::size_t>(i)];
      cache.read(0, lane, row, key.data(), value.data());
      for (Index c = 0; c < keys.cols(); ++c) {
        keys(i, c) = static_cast<double>(key[static_cast<std::size_t>(c)]);
        values(i, c) = static_cast<double>(value[static_cast<std::size_t>(c)]);
      }
      positions(i) = cache.table(0, lane).position(row);
    }
    const Matrix expected =
        reference::attention(text.query_matrix(head).row(index(token)), keys, values, reference::consecutive(index(token), 1), positions)
            .output;
    for (Index c = 0; c < keys.cols(); ++c) {
      worst = std::max(worst, std::abs(expected(0, c) - static_cast<double>(out[head * shape.head_dim + static_cast<std::size_t>(c)])));
    }
  }
  return worst;
}
/// Decodes [first, last) and checks every output.
template <class Cache>
void expect_outputs(Cache& cache, const Text& text, std::size_t first, std::size_t last) {
  for (std::size_t t = first; t < last; ++t) {
    const Outputs out = step(cache, text, t, 1);
    ASSERT_LT(output_deviation(cache, text, t, out), 2e-5) << "token " << t;
    cache.commit(0);
  }
}

}  // namespace kvcompress::test::landmarks
