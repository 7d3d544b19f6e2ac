// bench/competitors/chosen_rows.hpp - which rows Quest and ShadowKV should read for a query, in double.
// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kvcompress/reference/quest.hpp"
#include "kvcompress/retrieval/page_bounds.hpp"

namespace bench {

namespace reference = kvcompress::reference;

/// Ascending. `keys`: (tokens, dim) as Quest's index saw them; `queries`: one (1, dim) per query head of the KV head. Bounds are held in
/// f16, rounded outwards; the incomplete page at the end is always read and counts as one.
inline reference::Rows quest_rows(const reference::Matrix& keys, const std::vector<reference::Matrix>& queries, reference::Index budget) {
  constexpr reference::Index page = 16;
  const reference::Index complete = keys.rows() / page;
  reference::QuestPages pages = reference::quest_pages(keys.topRows(complete * page), page);
  const auto held = [](reference::Matrix& bounds, bool up) {
    bounds = bounds.unaryExpr([up](double x) {
      return static_cast<double>(static_cast<float>(kvcompress::rounded<kvcompress::half>(static_cast<float>(x), up)));
    });
  };
  held(pages.minimum, false);
  held(pages.maximum, true);
  const reference::Vector bounds = reference::quest_bounds(queries, pages);
  reference::Rows rows = reference::quest_rows(reference::top_rows(bounds, std::min(complete, budget / page - 1)), keys.rows(), page);
  for (reference::Index row = complete * page; row < keys.rows(); ++row) { rows.push_back(row); }
  return rows;
}

/// The same for ShadowKV: outlier chunks (48 of 8 rows whose keys are least like their mean), chosen chunks, and all rows from the last four
/// chunks of the prompt on. Landmarks and scaled queries meet in bfloat16.
inline reference::Rows shadowkv_rows(const reference::Matrix& keys, const std::vector<reference::Matrix>& queries, reference::Index budget,
                                     reference::Index prompt) {
  const auto rounded = [](double x) { return static_cast<double>(static_cast<float>(kvcompress::bfloat16(static_cast<float>(x)))); };
  constexpr reference::Index chunk = 8;
  const reference::Index chunks = prompt / chunk - 4;
  reference::Matrix landmarks(chunks, keys.cols());
  reference::Vector unlike(chunks);
  for (reference::Index i = 0; i < chunks; ++i) {
    const auto rows = keys.middleRows(i * chunk, chunk);
    const Eigen::VectorXd mean = rows.colwise().mean().transpose();
    unlike(i) = -((rows * mean).array() / (rows.rowwise().norm().array() * mean.norm())).minCoeff();
    landmarks.row(i) = mean.unaryExpr(rounded);
  }
  reference::Rows chosen = reference::top_rows(unlike, 48);
  reference::Vector scores = reference::Vector::Zero(chunks);  // the largest probability among the landmarks that a query gives
  for (const reference::Matrix& query : queries) {
    const reference::Matrix scaled = (query / std::sqrt(static_cast<double>(keys.cols()))).unaryExpr(rounded);
    reference::Vector weights = landmarks * scaled.transpose();
    for (const reference::Index outlier : chosen) { weights(outlier) = -std::numeric_limits<double>::infinity(); }
    weights = (weights.array() - weights.maxCoeff()).exp();
    scores = scores.cwiseMax(weights / weights.sum());
  }
  for (const reference::Index outlier : chosen) { scores(outlier) = -1.0; }
  for (const reference::Index i : reference::top_rows(scores, budget / chunk)) { chosen.push_back(i); }
  std::sort(chosen.begin(), chosen.end());
  reference::Rows rows = reference::quest_rows(chosen, keys.rows(), chunk);
  for (reference::Index row = chunks * chunk; row < keys.rows(); ++row) { rows.push_back(row); }
  return rows;
}

}  // namespace bench
