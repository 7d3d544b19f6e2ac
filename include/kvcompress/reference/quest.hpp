// include/kvcompress/reference/quest.hpp - pages chosen by an upper bound of their logits.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/low_rank/eigen_core.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kvcompress/reference/attention.hpp"

/// "Quest: Query-Aware Sparsity for Efficient Long-Context LLM Inference" (arXiv:2406.10774), as in
/// mit-han-lab/Quest@01c1623bf939 (evaluation/quest_attention.py, quest/utils/controller.py). A prompt and
/// the first two layers read everything there; whoever calls this decides that.
namespace kvcompress::inline KVCOMPRESS_ABI::reference {

/// How many pages, and which always. `evaluation`: floor(min(budget, tokens) / page) pages, but at least 3;
/// every page competes, the newest too, so one may be left out even below the budget. `kernels`: floor(budget
/// / page) pages, of which the newest is always one; the rest compete.
enum class QuestRule { evaluation, kernels };

struct QuestOptions {
  Index page = 16;      // tokens; the newest page may be shorter
  Index budget = 1024;  // tokens
  QuestRule rule = QuestRule::evaluation;
};

/// The smallest and the largest number of each channel among the keys of a page: (pages, dim).
struct QuestPages {
  Matrix minimum{};
  Matrix maximum{};
};

/// Keys enter rotated.
inline QuestPages quest_pages(const Matrix& keys, Index page) {
  require(page >= 1, ErrorCode::option, "reference: page is ", page, ", must be at least 1");
  const Index pages = (keys.rows() + page - 1) / page;
  QuestPages out{Matrix(pages, keys.cols()), Matrix(pages, keys.cols())};
  for (Index p = 0; p < pages; ++p) {
    out.minimum.row(p) = keys.row(p * page);
    out.maximum.row(p) = keys.row(p * page);
    for (Index t = p * page + 1; t < std::min((p + 1) * page, keys.rows()); ++t) {
      for (Index c = 0; c < keys.cols(); ++c) {
        out.minimum(p, c) = std::min(out.minimum(p, c), keys(t, c));
        out.maximum(p, c) = std::max(out.maximum(p, c), keys(t, c));
      }
    }
  }
  return out;
}

/// No key of the page has a larger product with the query, rotated: (1, dim).
inline double quest_bound(const Matrix& query, const QuestPages& pages, Index page) {
  require(query.rows() == 1 && query.cols() == pages.minimum.cols(), ErrorCode::shape, "reference: the query is ", query.rows(),
          " rows of ", query.cols(), ", must be one of ", pages.minimum.cols());
  double bound = 0.0;
  for (Index c = 0; c < query.cols(); ++c) {
    bound += std::max(query(0, c) * pages.minimum(page, c), query(0, c) * pages.maximum(page, c));
  }
  return bound;
}

/// The bounds of all pages for the query heads of one KV head, the largest of each: (pages). Official kernels
/// have one query head per KV head; the evaluation repeats KV heads, so that each query head has pages of its
/// own.
inline Vector quest_bounds(std::span<const Matrix> queries, const QuestPages& pages) {
  std::vector<Vector> bounds;
  for (const Matrix& query : queries) {
    Vector& head = bounds.emplace_back(pages.minimum.rows());
    for (Index p = 0; p < head.size(); ++p) { head(p) = quest_bound(query, pages, p); }
  }
  return reduce_heads(bounds, HeadReduction::max);
}

/// Pages that are read when the cache holds `tokens`.
inline Index quest_page_count(Index tokens, const QuestOptions& options) {
  const Index pages = (tokens + options.page - 1) / options.page;
  const Index wanted = options.rule == QuestRule::kernels ? std::max(Index{1}, options.budget / options.page)
                                                          : std::max(Index{3}, std::min(options.budget, tokens) / options.page);
  return std::min(wanted, pages);
}

/// The pages that are read, ascending; among equal bounds the lower page wins.
inline Rows quest_select(const Vector& bounds, Index tokens, const QuestOptions& options) {
  require(bounds.size() == (tokens + options.page - 1) / options.page, ErrorCode::shape, "reference: bounds.size() is ", bounds.size(),
          ", must be the number of pages, ", (tokens + options.page - 1) / options.page);
  const Index count = quest_page_count(tokens, options);
  if (options.rule == QuestRule::evaluation || count == 0) { return top_rows(bounds, count); }
  Rows pages = top_rows(bounds.head(bounds.size() - 1), count - 1);
  pages.push_back(bounds.size() - 1);
  return pages;
}

/// The rows of those pages, ascending.
inline Rows quest_rows(const Rows& pages, Index tokens, Index page) {
  Rows rows;
  for (const Index p : pages) {
    for (Index row = p * page; row < std::min((p + 1) * page, tokens); ++row) { rows.push_back(row); }
  }
  return rows;
}

/// Attention of one query, the newest token's, over the rows of some pages. `options.window` and `start`
/// count places in the text.
inline AttentionResult quest_attend(const Matrix& query, const Matrix& keys, const Matrix& values, const Rows& pages, Index page,
                                    const AttentionOptions& options = {}) {
  const Rows rows = quest_rows(pages, keys.rows(), page);
  Positions positions(static_cast<Index>(rows.size()));
  for (Index i = 0; i < positions.size(); ++i) { positions(i) = static_cast<std::int64_t>(rows[static_cast<std::size_t>(i)]); }
  return attention(query, keys(rows, Eigen::all), values(rows, Eigen::all), consecutive(keys.rows() - 1, 1), positions, options);
}

}  // namespace kvcompress::reference
