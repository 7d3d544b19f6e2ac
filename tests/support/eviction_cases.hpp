// tests/support/eviction_cases.hpp - runs an eviction made of parts over the prompt of an official case and compares scores and kept rows.
// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kvcompress/eviction/evict.hpp"
#include "kvcompress/eviction/scorers/expected_attention.hpp"
#include "kvcompress/policies/full.hpp"
#include "support/kept_sets.hpp"
#include "support/sequence.hpp"

namespace kvcompress::conformance {

using test::HeadArray;

/// A scorer that remembers what it said of each lane, in ascending row order.
template <class S>
struct Watched : S {
  static inline std::vector<std::vector<float>> scores{};

  static std::span<const float> score(const typename S::Options& options, const LaneView& lane, const RowTable& rows, const Moment& moment,
                                      std::span<float> out) {
    const std::span<const float> own = S::score(options, lane, rows, moment, out);
    scores.emplace_back(own.begin(), own.end());
    return own;
  }
  static void join(const typename S::Options& options, RowSet& set, std::span<float> joined, const Moment& moment) {
    if constexpr (requires { S::join(options, set, joined, moment); }) {
      S::join(options, set, joined, moment);
      scores.back().assign(joined.begin(), joined.end());
    }
  }
};
template <class E>
struct PolicyOf {
  using Eviction = E;
  using Storage = ExactStorage<float>;
};

inline std::size_t largest_row_count(const reference::Matrix& table) { return static_cast<std::size_t>(table.cols()); }

/// The first rows of an array, as many as the case has tokens.
inline HeadArray first_rows(const Case& one, const std::string& name) {
  const HeadArray all(one.array(name));
  HeadArray some(all.heads, one.get<std::size_t>("tokens"), all.dim);
  for (std::size_t head = 0; head < all.heads; ++head) {
    std::copy_n(all.data.begin() + static_cast<std::ptrdiff_t>(head * all.tokens * all.dim), some.tokens * all.dim,
                some.data.begin() + static_cast<std::ptrdiff_t>(head * some.tokens * all.dim));
  }
  return some;
}
/// One prompt: `layer` of a model of `layers`, queries for its last q.tokens rows.
template <class S, class E>
KVCache<PolicyOf<E>> prompt(const HeadArray& q, const HeadArray& k, const HeadArray& v, const typename E::Options& options,
                            std::size_t layer = 0, std::size_t layers = 1, KeyForm form = KeyForm::rotated) {
  Watched<S>::scores.clear();
  Shape shape = test::shape_of(q, k, v, form);
  shape.layers = layers;
  KVCache<PolicyOf<E>> cache(shape, {.eviction = options});
  cache.append(layer, k.rows(0, k.tokens), v.rows(0, k.tokens));
  HeadArray out(q.heads, q.tokens, v.dim);
  cache.attend(layer, q.rows(0, q.tokens), Output(out.data.data(), q.tokens, out.heads, out.dim, out.dim, out.tokens * out.dim));
  cache.end_prompt(layer);
  return cache;
}
/// A decision without a cache, where a case gives attention or a cache with gaps: one lane, whose keys may be given.
template <class E>
struct LaneByHand {
  LaneByHand(const typename E::Options& eviction, const Shape& model, std::size_t rows, std::size_t layer = 0, std::size_t kv_head = 0)
      : options(eviction), shape(model), site{layer, kv_head, shape}, state(E::state(options, site, Memory{})), table(false, Memory{}) {
    for (std::size_t r = 0; r < rows; ++r) { table.append(static_cast<Position>(r)); }
    state.resize(rows);
  }
  LaneByHand(const LaneByHand&) = delete;
  /// The rows that stay at the end of a prompt, or at a commit after one of so many tokens.
  Members kept(std::optional<std::size_t> prompt_tokens = {}) {
    Rotation rotation(shape, Memory{});
    const LaneView::Reading reading{[](const void* lane, RowRange rows, const RowTable&, Rotation&, std::size_t stride, float* out) {
      const float* from = static_cast<const LaneByHand*>(lane)->keys;
      std::copy(from + rows.first * stride, from + rows.last * stride, out);
                                    },
                                    nullptr, nullptr};
    const LaneView view(site, &state, this, table, rotation, reading);
    DecisionScratch scratch{Memory{}};
    Vector<Position> order{Allocator<Position>(Memory{})};
    std::vector<unsigned char> drop(table.rows(), 0);
    std::size_t budget = 0;
    if constexpr (HasBudget<E>) { budget = options.budget.rows_of; }
    RowSet set{table, {&view, 1}, budget, drop, order};
    E::validate(options, shape);
    E::select(options, {&set, 1}, {!prompt_tokens, prompt_tokens.value_or(table.rows()), 0, table.rows(), scratch});
    Members kept;
    for (std::size_t r = 0; r < table.rows(); ++r) {
      if (drop[r] == 0) { kept.push_back(static_cast<std::int64_t>(r)); }
    }
    return kept;
  }
  typename E::Options options;
  Shape shape;
  Site site;
  typename E::State state;
  RowTable table;
  const float* keys = nullptr;
};

/// Kept rows as the official table says, `at(head, row)` scores; nothing but near ties may differ.
template <class Cache>
void expect_kept(const Case& one, const Cache& cache, std::size_t layer, std::size_t heads, auto&& at, double margin) {
  const auto kept = matrix(one.array("kept_idx"));
  for (std::size_t head = 0; head < heads; ++head) {
    const auto official = members(kept.row(static_cast<reference::Index>(kept.rows() == 1 ? 0 : head)).eval().reshaped());
    ASSERT_EQ(official.size(), largest_row_count(kept));
    expect_same_set(
        one.path() + " head " + std::to_string(head), members(cache.kept(layer, head)), official,
        [&](std::int64_t row) { return at(head, static_cast<std::size_t>(row)); }, margin);
  }
}
/// The largest deviation of scores, divided, from the official ones, but for the `guarded` newest rows, which have none.
double score_deviation(const Case& one, std::size_t heads, std::size_t guarded, auto&& at) {
  const auto official = matrix(one.any({"leverage", "score", "inner_score"}));
  double worst = 0.0;
  for (std::size_t head = 0; head < heads; ++head) {
    for (std::size_t row = 0; row + guarded < static_cast<std::size_t>(official.cols()); ++row) {
      worst = std::max(worst, std::abs(at(head, row) - official(static_cast<reference::Index>(head), static_cast<reference::Index>(row))));
    }
  }
  return worst;
}

// Expected Attention's scores, with the options of `given`.
inline ExpectedQueries::Options expected_options(const nlohmann::json& given) {
  return {.future = given.at("n_future_positions").get<std::size_t>(),
          .first_rows = given.at("n_sink").get<std::size_t>(),
          .covariance = given.at("use_covariance").get<bool>(),
          .value_norm = given.at("use_vnorm").get<bool>(),
          .epsilon = given.at("epsilon").get<double>()};
}
/// The queries of a case with their rotary embedding.
inline HeadArray rotated_queries(const Case& one) {
  HeadArray q(one.array("q_prerope"));
  Rotation rotation(
      {.query_heads = q.heads, .kv_heads = 1, .head_dim = q.dim, .rope = {.theta = one.get<nlohmann::json>("rope").at("base")}}, {});
  for (std::size_t t = 0; t < q.tokens; ++t) {
    rotation.turn_by(static_cast<std::int64_t>(t));
    for (std::size_t h = 0; h < q.heads; ++h) { rotation.apply(q.data.data() + (h * q.tokens + t) * q.dim); }
  }
  return q;
}

template <class Cache>
void expect_mask(const Case& one, const Cache& cache, const std::string& counts, std::size_t heads) {
  const auto mask = matrix(one.array("kept_mask"));
  const auto rows = one.array(counts).values;
  for (std::size_t head = 0; head < heads; ++head) {
    Members official;
    for (reference::Index row = 0; row < mask.cols(); ++row) {
      if (mask(static_cast<reference::Index>(head), row) != 0.0) { official.push_back(row); }
    }
    ASSERT_EQ(static_cast<double>(official.size()), rows.at(head));
    EXPECT_EQ(members(cache.kept(0, head)), official) << one.path() << " head " << head;
  }
}

}  // namespace kvcompress::conformance
