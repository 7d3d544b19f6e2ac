// include/kvcompress/reference/attention.hpp - causal attention by position, written out in double.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/low_rank/eigen_core.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <vector>

#include "kvcompress/core/error.hpp"

/// The slow definitions that every kernel and policy of the library answers to: double precision, loop by
/// loop, in the order of the papers. Shapes and options that do not fit are an Error.
namespace kvcompress::inline KVCOMPRESS_ABI::reference {

using Index = Eigen::Index;
using Matrix = Eigen::MatrixXd;                                    // (tokens, channels) unless said otherwise
using Vector = Eigen::VectorXd;                                    // one number per row
using Positions = Eigen::Matrix<std::int64_t, Eigen::Dynamic, 1>;  // place of each row in the text
using Rows = std::vector<Index>;                                   // places in a cache, ascending

/// The numbers first, first + 1, ..., first + count - 1.
inline Positions consecutive(std::int64_t first, Index count) {
  Positions out(count);
  for (Index i = 0; i < count; ++i) { out(i) = first + i; }
  return out;
}

/// The rows of `a` followed by the rows of `b`; a matrix without rows may have any width.
template <class M>
M append_rows(const M& a, const M& b) {
  if (a.rows() == 0) { return b; }
  if (b.rows() == 0) { return a; }
  require(a.cols() == b.cols(), ErrorCode::shape, "reference: a matrix has ", b.cols(), " columns, must have as many as the other, ",
          a.cols());
  M out(a.rows() + b.rows(), a.cols());
  out << a, b;
  return out;
}

/// A tensor (tokens, heads, dim) in memory, given by its strides in elements; channels are contiguous.
template <class T>
struct HeadsView {
  const T* data = nullptr;
  Index tokens = 0;
  Index heads = 0;
  Index dim = 0;
  Index token_stride = 0;
  Index head_stride = 0;

  [[nodiscard]] Matrix head(Index h) const {
    require(h >= 0 && h < heads, ErrorCode::shape, "reference: head is ", h, ", must be 0 to ", heads - 1);
    Matrix out(tokens, dim);
    for (Index t = 0; t < tokens; ++t) {
      for (Index c = 0; c < dim; ++c) { out(t, c) = static_cast<double>(data[h * head_stride + t * token_stride + c]); }
    }
    return out;
  }

  /// One matrix (tokens, dim) per head, the form in which the references take several heads.
  [[nodiscard]] std::vector<Matrix> split() const {
    std::vector<Matrix> out;
    for (Index h = 0; h < heads; ++h) { out.push_back(head(h)); }
    return out;
  }
};

struct AttentionOptions {
  double scale = 0.0;       // factor of q.k; 0 means 1 / sqrt(key_dim)
  double soft_cap = 0.0;    // c * tanh(logit / c) before the log weights; 0 means no cap
  std::int64_t window = 0;  // a query sees keys fewer than `window` positions back; 0 means all
  std::int64_t start = 0;   // keys at positions below `start` are padding and are never seen
  double slope = 0.0;       // ALiBi: times a key's distance in either direction, taken from its logit after the cap
  Positions until{};        // (queries) a query sees keys before this position; empty: those before and at its own
  Matrix among_last{};      // (queries, n) not 0 where a query sees one of the last n keys, whatever their positions; empty: as the others
};

struct AttentionResult {
  Matrix output{};         // (queries, value_dim)
  Matrix probabilities{};  // (queries, keys); 0 where a key is not seen
  Vector log_sum_exp{};    // (queries); minus infinity, and a row of zeros above, where no key is seen
};

/// Whether the query at one position sees the key at another, of those up to `newest`.
inline bool sees(std::int64_t query, std::int64_t key, const AttentionOptions& options, std::int64_t newest) {
  if (key > newest || key < options.start) { return false; }
  return options.window == 0 || query - key < options.window;
}
inline bool sees(std::int64_t query, std::int64_t key, const AttentionOptions& options) { return sees(query, key, options, query); }

/// Softmax attention of one head, causal by position; rows may lie in any order.
/// `log_weight`, when not empty, is added to the logits of each key: (keys).
inline AttentionResult attention(const Matrix& queries, const Matrix& keys, const Matrix& values, const Positions& query_positions,
                                 const Positions& key_positions, const AttentionOptions& options = {}, const Vector& log_weight = {}) {
  require(queries.cols() == keys.cols(), ErrorCode::shape, "reference: queries have ", queries.cols(), " columns, must have the keys' ",
          keys.cols());
  require(keys.rows() == values.rows(), ErrorCode::shape, "reference: there are ", values.rows(), " values, must be one for every key, ",
          keys.rows());
  require(queries.rows() == query_positions.size(), ErrorCode::shape, "reference: query_positions.size() is ", query_positions.size(),
          ", must be that of the queries, ", queries.rows());
  require(keys.rows() == key_positions.size(), ErrorCode::shape, "reference: key_positions.size() is ", key_positions.size(),
          ", must be that of the keys, ", keys.rows());
  require((log_weight.size() == 0 || log_weight.size() == keys.rows()), ErrorCode::shape, "reference: log_weight.size() is ",
          log_weight.size(), ", must be 0 or that of the keys, ", keys.rows());
  require(options.scale >= 0.0 && std::isfinite(options.scale), ErrorCode::option, "reference: scale is ", options.scale,
          ", must be finite and above 0, or 0 for 1/sqrt(head size)");
  require(options.soft_cap >= 0.0, ErrorCode::option, "reference: soft_cap is ", options.soft_cap,
          ", must be above 0, or 0 or infinity for none");
  require(options.window >= 0, ErrorCode::option, "reference: window is ", options.window, ", must be 0 or more");
  constexpr double unseen = -std::numeric_limits<double>::infinity();
  const double scale = options.scale != 0.0 ? options.scale : 1.0 / std::sqrt(static_cast<double>(keys.cols()));

  AttentionResult result{Matrix::Zero(queries.rows(), values.cols()), Matrix::Zero(queries.rows(), keys.rows()),
                         Vector::Constant(queries.rows(), unseen)};
  for (Index i = 0; i < queries.rows(); ++i) {
    Vector logits = Vector::Constant(keys.rows(), unseen);
    double largest = unseen;
    for (Index j = 0; j < keys.rows(); ++j) {
      const Index among = j - (keys.rows() - options.among_last.cols());
      if (among >= 0 && options.among_last(i, among) == 0.0) { continue; }
      const std::int64_t newest = options.until.size() > 0 ? options.until(i) - 1 : query_positions(i);
      if (!sees(query_positions(i), key_positions(j), options, among >= 0 ? key_positions(j) : newest)) { continue; }
      double dot = 0.0;
      for (Index c = 0; c < keys.cols(); ++c) { dot += queries(i, c) * keys(j, c); }
      double logit = dot * scale;
      if (options.soft_cap != 0.0 && std::isfinite(options.soft_cap)) { logit = options.soft_cap * std::tanh(logit / options.soft_cap); }
      logit -= options.slope * std::abs(static_cast<double>(query_positions(i) - key_positions(j)));
      if (log_weight.size() != 0) { logit += log_weight(j); }
      logits(j) = logit;
      largest = std::max(largest, logit);
    }
    if (largest == unseen) { continue; }
    double total = 0.0;
    for (Index j = 0; j < keys.rows(); ++j) { total += std::exp(logits(j) - largest); }
    result.log_sum_exp(i) = largest + std::log(total);
    for (Index j = 0; j < keys.rows(); ++j) {
      const double probability = std::exp(logits(j) - largest) / total;
      result.probabilities(i, j) = probability;
      for (Index c = 0; c < values.cols(); ++c) { result.output(i, c) += probability * values(j, c); }
    }
  }
  return result;
}

/// Grouped-query attention: query head h reads KV head h / (query heads / KV heads). One result per query
/// head.
inline std::vector<AttentionResult> grouped_attention(std::span<const Matrix> queries, std::span<const Matrix> keys,
                                                      std::span<const Matrix> values, const Positions& query_positions,
                                                      const Positions& key_positions, const AttentionOptions& options = {},
                                                      const Vector& log_weight = {}) {
  require(keys.size() == values.size(), ErrorCode::shape, "reference: values have ", values.size(), " heads, must have the keys' ",
          keys.size());
  require(!keys.empty() && queries.size() % keys.size() == 0, ErrorCode::shape, "reference: there are ", queries.size(),
          " query heads, must be a multiple of the KV heads, ", keys.size());
  const std::size_t group = queries.size() / keys.size();
  std::vector<AttentionResult> results;
  for (std::size_t h = 0; h < queries.size(); ++h) {
    results.push_back(attention(queries[h], keys[h / group], values[h / group], query_positions, key_positions, options, log_weight));
  }
  return results;
}

/// The probability each key received from all queries together: (keys).
inline Vector column_sums(const Matrix& probabilities) {
  Vector sums = Vector::Zero(probabilities.cols());
  for (Index j = 0; j < probabilities.cols(); ++j) {
    for (Index i = 0; i < probabilities.rows(); ++i) { sums(j) += probabilities(i, j); }
  }
  return sums;
}

/// How the scores of the query heads of one KV head become one score.
enum class HeadReduction { mean, max, sum };

/// One score per row from the scores of each query head of a group.
inline Vector reduce_heads(std::span<const Vector> scores, HeadReduction reduction) {
  require(!scores.empty(), ErrorCode::shape, "reference: there must be at least one query head");
  Vector out = scores.front();
  for (const Vector& head : scores.subspan(1)) {
    for (Index j = 0; j < out.size(); ++j) { out(j) = reduction == HeadReduction::max ? std::max(out(j), head(j)) : out(j) + head(j); }
  }
  if (reduction == HeadReduction::mean) { out /= static_cast<double>(scores.size()); }
  return out;
}

/// The `count` rows with the largest scores, ascending; among equal scores the lower row wins.
inline Rows top_rows(const Vector& scores, Index count) {
  Rows rows(static_cast<std::size_t>(scores.size()));
  std::iota(rows.begin(), rows.end(), Index{0});
  std::stable_sort(rows.begin(), rows.end(), [&](Index a, Index b) { return scores(a) > scores(b); });
  rows.resize(static_cast<std::size_t>(std::clamp(count, Index{0}, scores.size())));
  std::sort(rows.begin(), rows.end());
  return rows;
}

}  // namespace kvcompress::reference
