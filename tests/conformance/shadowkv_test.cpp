// tests/conformance/shadowkv_test.cpp - KVCache<ShadowKV> against both classes of the official implementation.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include "kvcompress/policies/full.hpp"
#include "kvcompress/policies/shadowkv.hpp"
#include "support/sequence.hpp"
#include "support/shadowkv_prefill_case.hpp"

namespace shadowkv_test {

using kvcompress::test::HeadArray;
namespace conformance = kvcompress::conformance;
namespace npy = kvcompress::npy;
namespace reference = kvcompress::reference;
using Policy = kvcompress::ShadowKV<float>;
using Cache = kvcompress::KVCache<Policy>;
using kvcompress::LandmarkIndex;
using reference::Index;
using reference::Matrix;
using Sequence = kvcompress::test::Sequence<Policy>;

const float official_scale = 1.0F / std::sqrt(128.0F);  // whatever the head size

std::size_t size(Index n) { return static_cast<std::size_t>(n); }
Index index(std::size_t n) { return static_cast<Index>(n); }

kvcompress::Rope rope_of(const reference::Rope& given) {
  return {
      .theta = given.theta,
      .pairing = given.pairing == reference::Pairing::half ? kvcompress::RopePairing::half_split : kvcompress::RopePairing::interleaved};
}
Cache::Options options_of(const conformance::ShadowKVParameters& of, kvcompress::ShadowKVClass behaviour) {
  return {.storage = {.rank = of.rank, .factorisation = kvcompress::low_rank::Factorisation::exact},
          .retrieval = {.budget = of.sparse_tokens,
                        .chunk = of.chunk,
                        .local_chunks = of.local_chunks,
                        .outlier_chunks = of.layout.outlier_chunks,
                        .behaviour = behaviour}};
}

/// Keys turned with tables in float, as the official code turns them.
HeadArray rotated(const conformance::Case& one, const npy::Array& keys, const reference::Rope& rope) {
  if (rope.pairing != reference::Pairing::half) { throw conformance::NotCovered(one.path() + ": interleaved pairs"); }
  HeadArray out(keys);
  const auto heads = conformance::heads(keys);
  for (std::size_t h = 0; h < heads.size(); ++h) {
    const Matrix turned = conformance::rotate_in_float(heads[h], reference::consecutive(0, heads[h].rows()), rope.theta);
    for (Index t = 0; t < turned.rows(); ++t) {
      for (Index c = 0; c < turned.cols(); ++c) {
        out.data[(h * out.tokens + size(t)) * out.dim + size(c)] = static_cast<float>(turned(t, c));
      }
    }
  }
  return out;
}

/// Some rows of a lane as the cache decodes them; keys turned back by their positions if `unrotated`.
struct Decoded {
  Decoded(Cache& cache, std::size_t head, const reference::Rows& rows, bool unrotated = false)
      : keys(index(rows.size()), index(cache.shape().key_width())), values(index(rows.size()), index(cache.shape().value_width())) {
    std::vector<float> key(cache.shape().key_width());
    std::vector<float> value(cache.shape().value_width());
    kvcompress::Rotation rotation(cache.shape(), {});
    for (Index i = 0; i < keys.rows(); ++i) {
      const std::size_t row = size(rows[size(i)]);
      cache.read(0, head, row, key.data(), value.data());
      if (unrotated) {
        rotation.turn_by(-static_cast<std::int64_t>(row));
        rotation.apply(key.data());
      }
      for (Index c = 0; c < keys.cols(); ++c) { keys(i, c) = static_cast<double>(key[size(c)]); }
      for (Index c = 0; c < values.cols(); ++c) { values(i, c) = static_cast<double>(value[size(c)]); }
    }
  }
  Matrix keys;
  Matrix values;
};

reference::Rows rows_between(std::size_t first, std::size_t last) {
  reference::Rows rows;
  for (std::size_t row = first; row < last; ++row) { rows.push_back(index(row)); }
  return rows;
}
reference::Rows rows_of_chunks(const reference::Rows& chunks, std::size_t chunk) {
  reference::Rows rows;
  for (const Index id : chunks) {
    for (std::size_t r = 0; r < chunk; ++r) { rows.push_back(id * index(chunk) + index(r)); }
  }
  return rows;
}
/// The chunks of `ranges` that are not outliers.
reference::Rows chunks_of(std::span<const kvcompress::RowRange> ranges, const reference::Rows& outliers, std::size_t chunk) {
  reference::Rows chunks;
  for (const kvcompress::RowRange range : ranges) {
    for (std::size_t row = range.first; row < range.last; row += chunk) {
      if (!std::binary_search(outliers.begin(), outliers.end(), index(row / chunk))) { chunks.push_back(index(row / chunk)); }
    }
  }
  return chunks;
}
reference::Rows outliers_of(const Cache& cache, std::size_t head) {
  const auto& ranges = cache.index(0, head).outliers();
  return chunks_of({ranges.data(), ranges.size()}, {}, cache.options().retrieval.chunk);
}

/// What the index of a head chooses for one token's queries.
reference::Rows selected(const Cache& cache, std::size_t head, const HeadArray& queries, std::size_t token) {
  const std::size_t group = cache.shape().group();
  const std::size_t stride = kvcompress::kernels::padded(queries.dim);
  std::vector<float> scaled(group * stride, 0.0F);
  for (std::size_t g = 0; g < group; ++g) {
    for (std::size_t c = 0; c < queries.dim; ++c) { scaled[g * stride + c] = official_scale * queries.at(head * group + g, token, c); }
  }
  kvcompress::Workspace ws(cache.shape());
  kvcompress::Vector<kvcompress::RowRange> ranges;
  LandmarkIndex<float>::select(cache.options().retrieval, cache.index(0, head),
                               {cache.table(0, head), scaled.data(), stride, group, queries.dim, 0, ws.rotation, ws.chosen, ws.order},
                               ranges);
  return chunks_of({ranges.data(), ranges.size()}, outliers_of(cache, head), cache.options().retrieval.chunk);
}

/// By chunk: the largest softmax share, over the query heads of a group, among the landmarks.
reference::Vector scores_of(const Cache& cache, std::size_t head, const HeadArray& queries, std::size_t token, std::size_t chunks) {
  const auto& state = cache.index(0, head);
  const std::size_t count = state.ids().size();
  reference::Vector scores = reference::Vector::Zero(index(chunks));
  for (std::size_t g = 0; g < cache.shape().group(); ++g) {
    reference::Vector logits = reference::Vector::Zero(index(count));
    for (std::size_t i = 0; i < count; ++i) {
      for (std::size_t c = 0; c < queries.dim; ++c) {
        logits(index(i)) +=
            static_cast<double>(state.landmark(i)[c]) * static_cast<double>(queries.at(head * cache.shape().group() + g, token, c));
      }
    }
    logits *= static_cast<double>(official_scale);
    const reference::Vector shares = (logits.array() - logits.maxCoeff()).exp();
    for (std::size_t i = 0; i < count; ++i) {
      double& score = scores(index(state.ids()[i]));
      score = std::max(score, shares(index(i)) / shares.sum());
    }
  }
  return scores;
}

void expect_layout(const Cache& cache, const conformance::ShadowKVPlaces& official) {
  const auto& options = cache.options().retrieval;
  EXPECT_EQ(cache.table(0, 0).rows(), official.prompt);
  for (std::size_t head = 0; head < cache.shape().kv_heads; ++head) {
    const auto& state = cache.index(0, head);
    EXPECT_EQ(state.indexed(), official.context_chunks * options.chunk);
    EXPECT_EQ(official.prompt - state.indexed(), official.local_tokens);
    EXPECT_EQ(state.outliers().size(), official.outlier_chunks);
    EXPECT_EQ(state.ids().size(), official.context_chunks - official.outlier_chunks);
  }
  EXPECT_EQ(options.budget / options.chunk, official.selected_chunks);
  EXPECT_EQ(official.local_tokens + official.outlier_chunks * options.chunk, official.sparse_start);
  EXPECT_EQ(official.sparse_start + official.selected_chunks * options.chunk, official.sparse_end);
}

void expect_outliers(const reference::Rows& ours, const reference::Rows& official, const npy::Array& cosines, std::size_t head) {
  if (cosines.shape.empty()) {
    EXPECT_EQ(ours, official) << "head " << head;
    return;
  }
  const reference::Vector of_chunks = conformance::matrix(cosines).row(index(head));
  EXPECT_TRUE(conformance::same_but_near_ties(ours, official, of_chunks, 3e-5, false)) << "head " << head;
}

/// After the prompt: outliers, landmarks, and every row: exact, or low-rank where nothing is at hand.
void compare_prompt(const conformance::Case& one, const conformance::ShadowKVDecodeCase& given, Cache& cache, const HeadArray& keys) {
  double landmarks = 0.0;
  double low_rank = 0.0;
  double exact = 0.0;
  double values = 0.0;
  const HeadArray v(given.values);
  for (std::size_t head = 0; head < keys.heads; ++head) {
    const auto& state = cache.index(0, head);
    const reference::Rows outliers = outliers_of(cache, head);
    if (!given.outliers.empty()) { expect_outliers(outliers, given.outliers.at(head), given.cosines, head); }
    const reference::Rows ids(state.ids().begin(), state.ids().end());
    if (!given.candidates.empty() && !given.landmarks.shape.empty() && ids == given.candidates.at(head)) {
      const Matrix official = conformance::heads(given.landmarks).at(head);
      for (Index i = 0; i < official.rows(); ++i) {
        for (Index c = 0; c < official.cols(); ++c) {
          landmarks = std::max(landmarks, std::abs(static_cast<double>(state.landmark(size(i))[c]) - official(i, c)));
        }
      }
    }
    const std::size_t rows = given.of.layout.prompt;
    const Decoded all(cache, head, rows_between(0, rows));
    const Decoded turned_back(cache, head, rows_between(0, rows), true);
    const Matrix official = given.low_rank_keys.shape.empty() ? Matrix() : conformance::heads(given.low_rank_keys).at(head);
    const double spread = conformance::largest(official);
    for (std::size_t row = 0; row < rows; ++row) {
      const bool is_exact = row >= state.indexed() || std::binary_search(outliers.begin(), outliers.end(), index(row / given.of.chunk));
      for (std::size_t c = 0; c < keys.dim; ++c) {
        const Index r = index(row);
        const Index channel = index(c);
        values = std::max(values, std::abs(all.values(r, channel) - static_cast<double>(v.at(head, row, c))));
        if (is_exact) {
          exact = std::max(exact, std::abs(all.keys(r, channel) - static_cast<double>(keys.at(head, row, c))));
        } else if (official.size() > 0) {
          low_rank = std::max(low_rank, std::abs(turned_back.keys(r, channel) - official(r, channel)) / spread);
        }
      }
    }
  }
  conformance::expect_within(one, "landmarks", landmarks, 2e-4);
  conformance::expect_within(one, "low-rank keys (relative)", low_rank, 1e-4);
  conformance::expect_within(one, "local and outlier keys", exact, 0.0);
  conformance::expect_within(one, "values", values, 0.0);
}

/// What a step read, as it is at hand afterwards, against the official buffers [local | outliers | selected | generated].
void compare_attended(const conformance::Case& one, const conformance::ShadowKVDecodeCase::Attended& given,
                      const conformance::ShadowKVParameters& of, Cache& cache) {
  double keys = 0.0;
  double values = 0.0;
  const auto official_keys = conformance::heads(given.keys);
  const auto official_values = conformance::heads(given.values);
  const Matrix positions = conformance::matrix(given.selected_positions);
  const conformance::ShadowKVPlaces& at = of.layout;
  for (std::size_t head = 0; head < official_keys.size(); ++head) {
    const reference::Rows outliers = outliers_of(cache, head);
    reference::Rows rows = rows_between(at.prompt - at.local_tokens, at.prompt);
    const reference::Rows fixed = rows_of_chunks(outliers, of.chunk);
    for (Index i = 0; i < positions.cols(); ++i) { rows.push_back(static_cast<Index>(positions(index(head), i))); }
    const reference::Rows generated = rows_between(at.prompt, cache.table(0, head).rows());
    rows.insert(rows.end(), generated.begin(), generated.end());
    ASSERT_EQ(rows.size() + fixed.size(), size(official_keys[head].rows()));
    const auto compare = [&](const Matrix& ours, const Matrix& ours_fixed, const Matrix& official) {
      const Index rest = official.rows() - index(at.sparse_start);
      return std::max(
          {conformance::deviation(ours.topRows(index(at.local_tokens)), official.topRows(index(at.local_tokens))),
           conformance::deviation(ours.bottomRows(rest), official.bottomRows(rest)),
           conformance::unordered_deviation(ours_fixed, official.middleRows(index(at.local_tokens), ours_fixed.rows()), index(of.chunk))});
    };
    const Decoded ours(cache, head, rows);
    const Decoded ours_fixed(cache, head, fixed);
    keys = std::max(keys, compare(ours.keys, ours_fixed.keys, official_keys[head]) / conformance::largest(official_keys[head]));
    values = std::max(values, compare(ours.values, ours_fixed.values, official_values[head]));
  }
  conformance::expect_within(one, "attended keys (relative) at step " + std::to_string(given.step), keys, 1e-4);
  conformance::expect_within(one, "attended values at step " + std::to_string(given.step), values, 0.0);
}

/// The largest deviation of one token's outputs from (query heads, dim).
double output_deviation(const HeadArray& out, std::size_t token, const npy::Array& official, std::size_t step, std::size_t first,
                        std::size_t last) {
  double worst = 0.0;
  for (std::size_t head = first; head < last; ++head) {
    for (std::size_t c = 0; c < out.dim; ++c) {
      const double expected = official.values.at((step * out.heads + head) * out.dim + c);
      worst = std::max(worst, std::abs(static_cast<double>(out.at(head, token, c)) - expected));
    }
  }
  return worst;
}

void decode(const conformance::Case& one) {
  const auto given = conformance::shadowkv_decode_case(one);
  const HeadArray q(given.queries);
  const HeadArray k = given.keys_rotated.shape.empty() ? rotated(one, given.keys, given.of.rope) : HeadArray(given.keys_rotated);
  const HeadArray v(given.values);
  const kvcompress::Shape shape = kvcompress::test::shape_of(q, k, v, kvcompress::KeyForm::rotated, rope_of(given.of.rope));
  Cache cache(shape, options_of(given.of, kvcompress::ShadowKVClass::accuracy));
  kvcompress::KVCache<kvcompress::Full<float>> full(shape);
  const std::size_t prompt = given.of.layout.prompt;
  cache.append(0, k.rows(0, prompt), v.rows(0, prompt));
  full.append(0, k.rows(0, prompt), v.rows(0, prompt));
  cache.end_prompt(0);
  full.end_prompt(0);
  expect_layout(cache, given.of.layout);
  compare_prompt(one, given, cache, k);

  const double margin = one.params.value("topk_margin", 8e-5);  // relative: the smallest one of the vectors
  HeadArray out(q.heads, q.tokens, v.dim);
  HeadArray full_out(q.heads, q.tokens, v.dim);
  double worst = 0.0;
  double worst_full = 0.0;
  for (std::size_t step = 0; step < given.steps; ++step) {
    const std::size_t token = prompt + step;
    const auto attend = [&](auto& any, HeadArray& to) {
      any.append(0, k.rows(token, 1), v.rows(token, 1));
      any.attend(0, q.rows(token, 1), {to.data.data() + token * to.dim, 1, to.heads, to.dim, to.dim, to.tokens * to.dim},
                 {.scale = official_scale});
    };
    attend(cache, out);
    attend(full, full_out);
    bool all_same = true;
    for (std::size_t head = 0; head < k.heads; ++head) {
      const reference::Rows ours = selected(cache, head, q, token);
      const reference::Rows& official = given.selected[step].at(head);
      const reference::Vector scores = scores_of(cache, head, q, token, given.of.layout.context_chunks);
      double cut = 1.0;
      for (const Index chunk : ours) { cut = std::min(cut, scores(chunk)); }
      EXPECT_TRUE(conformance::same_but_near_ties(ours, official, scores, margin * cut, true)) << "step " << step << " head " << head;
      all_same = all_same && ours == official;
      if (ours != official) { continue; }
      worst = std::max(worst, output_deviation(out, token, given.outputs, step, head * shape.group(), (head + 1) * shape.group()));
    }
    if (!given.full_outputs.shape.empty()) {
      worst_full = std::max(worst_full, output_deviation(full_out, token, given.full_outputs, step, 0, q.heads));
    }
    for (const auto& attended : given.attended) {
      if (attended.step == step && all_same) { compare_attended(one, attended, given.of, cache); }
    }
  }
  conformance::expect_within(one, "out", worst, 5e-5);
  if (!given.full_outputs.shape.empty()) { conformance::expect_within(one, "out of full attention", worst_full, 5e-5); }
}

/// The offload class after the prompt: exact keys of local and outlier rows and of the chunks that the prompt's last query selects.
void prefill(const conformance::Case& one) {
  const auto given = conformance::shadowkv_prefill_case(one);
  const HeadArray k = rotated(one, given.keys, given.of.rope);
  const HeadArray v(given.values);
  const bool has_query = !given.last_queries.shape.empty();
  HeadArray q(has_query ? given.last_queries.shape.front() : k.heads, 1, k.dim);
  const std::size_t per_head = given.last_queries.values.size() / q.heads;
  for (std::size_t head = 0; has_query && head < q.heads; ++head) {  // of the last token, if there are several
    for (std::size_t c = 0; c < q.dim; ++c) {
      q.data[head * q.dim + c] = static_cast<float>(given.last_queries.values[(head + 1) * per_head - q.dim + c]);
    }
  }
  const kvcompress::Shape shape = kvcompress::test::shape_of(q, k, v, kvcompress::KeyForm::rotated, rope_of(given.of.rope));
  Cache cache(shape, options_of(given.of, kvcompress::ShadowKVClass::offload));
  HeadArray out(q.heads, 1, v.dim);
  cache.append(0, k.rows(0, k.tokens), v.rows(0, k.tokens));
  cache.attend(0, q.rows(0, 1), {out.data.data(), 1, out.heads, out.dim, out.dim, out.dim}, {.scale = official_scale});
  cache.end_prompt(0);
  expect_layout(cache, given.of.layout);

  const conformance::ShadowKVPlaces& at = given.of.layout;
  double keys = 0.0;
  double values = 0.0;
  double landmarks = 0.0;
  for (std::size_t head = 0; head < k.heads; ++head) {
    const reference::Rows outliers = outliers_of(cache, head);
    if (!given.outliers.empty()) { EXPECT_EQ(outliers, given.outliers.at(head)) << "head " << head; }
    const auto& state = cache.index(0, head);
    const Matrix all =
        conformance::heads(npy::Array{{k.heads, k.tokens, k.dim}, std::vector<double>(k.data.begin(), k.data.end())}).at(head);
    for (std::size_t i = 0; i < state.ids().size(); ++i) {
      const Matrix mean = all.middleRows(index(state.ids()[i] * given.of.chunk), index(given.of.chunk)).colwise().mean();
      for (std::size_t c = 0; c < k.dim; ++c) {
        landmarks = std::max(landmarks, std::abs(mean(0, index(c)) - static_cast<double>(state.landmark(i)[c])));
      }
    }
    if (!has_query) { continue; }
    const kvcompress::Reads reads = state.reads();
    const reference::Rows ours = chunks_of(reads.first, outliers, given.of.chunk);
    EXPECT_EQ(ours, selected(cache, head, q, 0));
    // Fast memory holds the local rows, the outliers and the selected chunks, and nothing else.
    const std::string what = one.path() + " head " + std::to_string(head);
    reference::Rows official;  // chunks
    for (const std::int64_t position : given.fast_keys.at(head).positions) {
      const Index chunk = static_cast<Index>(position) / index(given.of.chunk);
      const bool fixed =
          size(static_cast<Index>(position)) >= at.prompt - at.local_tokens || std::binary_search(outliers.begin(), outliers.end(), chunk);
      if (!fixed && (official.empty() || official.back() != chunk)) { official.push_back(chunk); }
    }
    if (!given.selected.empty()) { EXPECT_EQ(official, given.selected.at(head)) << what; }
    const reference::Vector scores = scores_of(cache, head, q, 0, at.context_chunks);
    double cut = 1.0;
    for (const Index chunk : ours) { cut = std::min(cut, scores(chunk)); }
    EXPECT_TRUE(conformance::same_but_near_ties(ours, official, scores, 8e-5 * cut, true)) << what;
    if (ours != official) { continue; }
    reference::Rows at_hand = rows_between(at.prompt - at.local_tokens, at.prompt);
    for (const reference::Rows& chunks : {outliers, ours}) {
      const reference::Rows rows = rows_of_chunks(chunks, given.of.chunk);
      at_hand.insert(at_hand.end(), rows.begin(), rows.end());
    }
    const double largest = conformance::largest(all);
    const auto row_of = [&](std::int64_t position) { return Decoded(cache, head, {static_cast<Index>(position)}); };
    keys = std::max(keys, conformance::expect_fast_rows(given.fast_keys[head], conformance::members(at_hand), what + " keys",
                                                        [&](std::int64_t p) { return Matrix(row_of(p).keys.transpose()); }) /
                              largest);
    values = std::max(values, conformance::expect_fast_rows(given.fast_values[head], conformance::members(at_hand), what + " values",
                                                            [&](std::int64_t p) { return Matrix(row_of(p).values.transpose()); }));
  }
  conformance::expect_within(one, "keys in fast memory (relative)", keys, 1e-4);
  conformance::expect_within(one, "values in fast memory", values, 0.0);
  conformance::expect_within(one, "landmarks", landmarks, 1e-5);
  if (!has_query) {
    throw conformance::NotCovered(one.path() + " has no last query of the prompt, so the initial selection was not compared");
  }
}

const conformance::Method method("shadowkv", {{"decode", decode}, {"prefill_offload_class", prefill}});
TEST(ShadowKV, ReproducesTheOfficialVectors) { method.run(); }

}  // namespace shadowkv_test
