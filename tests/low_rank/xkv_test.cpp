// tests/low_rank/xkv_test.cpp - xKV through the cache: best reconstructions, groups, folding in, memory.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <Eigen/Eigenvalues>

#include "kvcompress/cache.hpp"
#include "kvcompress/policies/full.hpp"
#include "low_rank/xkv_caches.hpp"
#include "support/counting_memory.hpp"

namespace xkv_test {

using namespace kvcompress;
using namespace kvcompress::test;
using namespace kvcompress::test::xkv;

/// The keys or values of a group, all layers and heads side by side: (tokens, columns).
Matrix side_by_side(std::span<const Text> group, bool keys) {
  Matrix out(index(group.front().tokens), index(group.size() * 2 * dim));
  for (std::size_t lane = 0; lane < group.size() * 2; ++lane) {
    const Text& text = group[lane / 2];
    out.middleCols(index(lane * dim), index(dim)) = keys ? text.key_matrix(lane % 2) : text.value_matrix(lane % 2);
  }
  return out;
}
/// The best approximation of that rank (Eckart-Young): rows times `projector`; what it loses of the prompt, squared. In double, and an
/// SVD takes 20 s longer to compile than eigenvectors.
struct Best {
  Best(const Matrix& rows, std::size_t rank) {
    const Matrix of_prompt = rows.topRows(index(prompt));
    const Eigen::SelfAdjointEigenSolver<Matrix> solver(of_prompt.transpose() * of_prompt);
    const Index kept = std::min(index(rank), rows.cols());
    const Matrix leading = solver.eigenvectors().rightCols(kept);
    projector = leading * leading.transpose();
    lost = solver.eigenvalues().head(rows.cols() - kept).sum();
  }
  Matrix projector{};
  double lost = 0.0;
};

struct Decoded {
  Decoded(Cache& cache, std::size_t layer, std::size_t head)
      : keys(index(cache.table(layer, head).rows()), index(dim)), values(keys.rows(), index(dim)) {
    Rotation rotation(cache.shape(), {});
    float key[dim];
    float value[dim];
    for (Index r = 0; r < keys.rows(); ++r) {
      cache.read(layer, head, static_cast<std::size_t>(r), key, value);
      rotation.turn_by(-r);
      rotation.apply(key);
      for (std::size_t c = 0; c < dim; ++c) {
        keys(r, index(c)) = static_cast<double>(key[c]);
        values(r, index(c)) = static_cast<double>(value[c]);
      }
    }
  }
  Matrix keys;
  Matrix values;
};

/// Squared error of the keys, or values, of the layers [first, last).
double square_error(Cache& cache, const std::vector<Text>& texts, bool keys, std::size_t first, std::size_t last) {
  double sum = 0.0;
  for (std::size_t layer = first; layer < last; ++layer) {
    for (std::size_t head = 0; head < 2; ++head) {
      const Decoded decoded(cache, layer, head);
      sum += ((keys ? decoded.keys : decoded.values) -
              (keys ? texts[layer].key_matrix(head) : texts[layer].value_matrix(head)).topRows(decoded.keys.rows()))
                 .squaredNorm();
    }
  }
  return sum;
}
double largest_difference(const Matrix& a, const Matrix& b) { return (a - b).cwiseAbs().maxCoeff(); }

TEST(Xkv, EveryGroupIsTheBestOfItsRank) {
  const auto texts = random_texts(5, prompt, 1);
  for (const std::size_t rank : {3U, 10U, 20U}) {
    Cache cache = prompted(texts, {.layers_per_group = 2, .rank_keys = rank, .rank_values = rank + 5, .factorisation = exact});
    for (std::size_t first = 0; first < 5; first += 2) {  // the last group is one layer
      const std::size_t last = std::min<std::size_t>(first + 2, 5);
      const std::span<const Text> group(texts.data() + first, last - first);
      const double keys = Best(side_by_side(group, true), rank).lost;
      const double values = Best(side_by_side(group, false), rank + 5).lost;
      EXPECT_NEAR(square_error(cache, texts, true, first, last), keys, 1e-5 * keys + 1e-7) << "group " << first << " rank " << rank;
      EXPECT_NEAR(square_error(cache, texts, false, first, last), values, 1e-5 * values + 1e-7) << "group " << first << " rank " << rank;
      EXPECT_EQ(keys < 1e-9, rank >= (last - first) * 16);
    }
  }
}

/// The first `encoded` rows of every layer's keys or values as the best approximation of the group's prompt, the others exact.
std::vector<Matrix> expected_lanes(const std::vector<Text>& texts, bool keys, std::size_t rank, std::size_t encoded, std::size_t rows) {
  std::vector<Matrix> lanes;
  for (std::size_t first = 0; first < texts.size(); first += 2) {
    Matrix all = side_by_side({texts.data() + first, 2}, keys);
    all.topRows(index(encoded)) *= Best(all, rank).projector;
    for (std::size_t lane = 0; lane < 4; ++lane) { lanes.push_back(all.block(0, index(lane * dim), index(rows), index(dim))); }
  }
  return lanes;
}

TEST(Xkv, DecodedRowsStayExactOrAreFoldedIntoThePromptsSpace) {
  const auto texts = random_texts(4, prompt + 30, 2);
  for (const std::size_t fold_in : {0U, 10U}) {
    Cache cache = prompted(texts, {.layers_per_group = 2, .rank_keys = 9, .rank_values = 12, .fold_in = fold_in, .factorisation = exact});
    for (std::size_t t = prompt; t < prompt + 30; ++t) {
      const std::size_t folded = prompt + (fold_in == 0 ? 0 : (t - prompt) / fold_in * fold_in);
      const auto keys = expected_lanes(texts, true, 9, folded, t + 1);
      const auto values = expected_lanes(texts, false, 12, folded, t + 1);
      const auto positions = reference::consecutive(0, index(t + 1));
      for (std::size_t l = 0; l < 4; ++l) {
        EXPECT_EQ(cache.keys(l, 0).settled(), folded) << "layer " << l << " token " << t;
        EXPECT_EQ(cache.values(l, 1).settled(), folded) << "layer " << l << " token " << t;
        const Outputs out = step(cache, texts[l], t, 1, l);
        for (std::size_t h = 0; h < 4; ++h) {
          const std::size_t lane = 2 * l + h / 2;
          const Matrix query = reference::rotate(texts[l].query_matrix(h).row(index(t)), positions.tail(1));
          const Matrix expected =
              reference::attention(query, reference::rotate(keys[lane], positions), values[lane], positions.tail(1), positions).output;
          for (std::size_t c = 0; c < dim; ++c) {
            ASSERT_NEAR(static_cast<double>(out[h * dim + c]), expected(0, index(c)), 3e-5) << "token " << t;
          }
        }
      }
      for (std::size_t l = 0; l < 4; ++l) { cache.commit(l); }
    }
    const auto keys = expected_lanes(texts, true, 9, fold_in == 0 ? prompt : prompt + 30, prompt + 30);
    const auto values = expected_lanes(texts, false, 12, fold_in == 0 ? prompt : prompt + 30, prompt + 30);
    for (std::size_t lane = 0; lane < 8; ++lane) {
      const Decoded decoded(cache, lane / 2, lane % 2);
      EXPECT_LT(largest_difference(decoded.keys, keys[lane]), 2e-5);
      EXPECT_LT(largest_difference(decoded.values, values[lane]), 2e-5);
    }
  }
}

TEST(Xkv, ErrorFallsWithTheRankToNothing) {
  const auto texts = random_texts(2, prompt, 3);
  double before = 1e300;
  for (std::size_t rank = 1; rank <= 36; rank += 5) {
    Cache cache = prompted(texts, {.layers_per_group = 2, .rank_keys = rank, .rank_values = rank, .factorisation = exact});
    const double error = square_error(cache, texts, true, 0, 2) + square_error(cache, texts, false, 0, 2);
    EXPECT_LE(error, before);
    before = error;
  }
  EXPECT_LT(before, 1e-7) << "36 is more than the 32 columns of a group";
}

TEST(Xkv, LayersOutsideAllGroupsAndTensorsThatAreNotMergedStayExact) {
  const auto texts = random_texts(5, prompt + 10, 4);
  Cache cache = prompted(texts, {.layers_per_group = 2,
                                 .rank_keys = 4,
                                 .rank_values = 4,
                                 .first_layer = 1,
                                 .last_layer = 3,
                                 .merge_values = false,
                                 .factorisation = exact});
  KVCache<Full<float>> plain(shape_of(5));
  for (std::size_t l = 0; l < 5; ++l) {
    static_cast<void>(step(plain, texts[l], 0, prompt, l));
    plain.end_prompt(l);
    const bool inside = l >= 1 && l <= 3;
    EXPECT_EQ(square_error(cache, texts, true, l, l + 1) > 1e-7, inside) << "layer " << l;
    EXPECT_EQ(square_error(cache, texts, false, l, l + 1), 0.0);
    EXPECT_EQ(cache.keys(l, 0).settled(), inside ? prompt : 0);
    EXPECT_EQ(step(cache, texts[l], prompt, 1, l) == step(plain, texts[l], prompt, 1, l), !inside) << "layer " << l;
  }
}

TEST(Xkv, ThePromptIsExactAndDecodingLeavesItsRowsAlone) {
  const auto texts = random_texts(3, prompt + 20, 5);
  Cache cache(shape_of(3), {.storage = {.layers_per_group = 3, .rank_keys = 5, .rank_values = 5, .factorisation = exact}});
  KVCache<Full<float>> plain(shape_of(3));
  for (std::size_t l = 0; l < 3; ++l) { EXPECT_TRUE(step(cache, texts[l], 0, prompt, l) == step(plain, texts[l], 0, prompt, l)); }
  end_prompt(cache);
  const Decoded before(cache, 1, 1);
  for (std::size_t t = prompt; t < prompt + 20; ++t) {
    for (std::size_t l = 0; l < 3; ++l) { static_cast<void>(step(cache, texts[l], t, 1, l)); }
  }
  const Decoded after(cache, 1, 1);
  EXPECT_EQ(largest_difference(after.keys.topRows(before.keys.rows()), before.keys), 0.0);
  EXPECT_EQ(largest_difference(after.values.topRows(before.values.rows()), before.values), 0.0);
  EXPECT_LT(largest_difference(after.keys.bottomRows(20), texts[1].key_matrix(1).bottomRows(20)), 3e-6) << "decoded rows are exact";
  EXPECT_EQ(largest_difference(after.values.bottomRows(20), texts[1].value_matrix(1).bottomRows(20)), 0.0);
}

TEST(Xkv, TheOrderOfLayersInAGroupDoesNotMatter) {
  const auto texts = random_texts(3, prompt, 6);
  const std::vector<Text> turned{texts[2], texts[0], texts[1]};
  const SharedBasisOptions options{.layers_per_group = 3, .rank_keys = 11, .rank_values = 7, .factorisation = exact};
  Cache a = prompted(texts, options);
  Cache b = prompted(turned, options);
  for (std::size_t l = 0; l < 3; ++l) {
    const Decoded one(a, l, 1);
    const Decoded other(b, (l + 1) % 3, 1);
    EXPECT_LT(largest_difference(one.keys, other.keys), 1e-5);
    EXPECT_LT(largest_difference(one.values, other.values), 1e-5);
  }
}

TEST(Xkv, GroupsOfOneLayerAreEachLayerAlone) {
  const auto texts = random_texts(3, prompt, 7);
  const SharedBasisOptions options{.layers_per_group = 1, .rank_keys = 6, .rank_values = 6, .factorisation = exact};
  Cache together = prompted(texts, options);
  Cache group = prompted(texts, {.layers_per_group = 3, .rank_keys = 6, .rank_values = 6, .factorisation = exact});
  for (std::size_t l = 0; l < 3; ++l) {
    Cache alone = prompted({texts[l]}, options);
    const Decoded one(together, l, 0);
    const Decoded other(alone, 0, 0);
    EXPECT_EQ(largest_difference(one.keys, other.keys), 0.0);
    EXPECT_EQ(largest_difference(one.values, other.values), 0.0);
  }
  EXPECT_GE(square_error(group, texts, true, 0, 3), square_error(together, texts, true, 0, 3)) << "at the same rank";
}

/// Relative error of the keys and values of 4 layers when each group takes as many bytes per layer as a rank of `rank` alone.
double relative_error(const std::vector<Text>& texts, std::size_t layers_per_group, std::size_t rank) {
  const std::size_t columns = 2 * dim;
  const std::size_t of_group = layers_per_group * rank * (prompt + columns) / (prompt + layers_per_group * columns);
  Cache cache =
      prompted(texts, {.layers_per_group = layers_per_group, .rank_keys = of_group, .rank_values = of_group, .factorisation = exact});
  double size = 0.0;
  for (const Text& text : texts) {
    for (std::size_t h = 0; h < 2; ++h) { size += text.key_matrix(h).squaredNorm() + text.value_matrix(h).squaredNorm(); }
  }
  return std::sqrt((square_error(cache, texts, true, 0, 4) + square_error(cache, texts, false, 0, 4)) / size);
}

TEST(Xkv, LayersThatShareATokenBasisGainFromGroupsAndOthersDoNot) {
  auto texts = random_texts(4, prompt, 8);
  const double alone = relative_error(texts, 1, 5);
  const double pairs = relative_error(texts, 2, 5);
  const double all = relative_error(texts, 4, 5);
  std::printf("independent layers: relative error %.3f alone, %.3f in pairs, %.3f all together\n", alone, pairs, all);
  EXPECT_GE(pairs, 0.98 * alone);
  EXPECT_GE(all, 0.98 * alone);
  std::mt19937 rng(9);
  for (const bool keys : {true, false}) {  // 12 directions of the tokens, falling off, and noise
    Matrix basis = random_matrix(rng, index(prompt), 12);
    for (Index i = 0; i < 12; ++i) { basis.col(i) *= std::pow(0.85, static_cast<double>(i)); }
    for (Text& text : texts) {
      const Matrix rows = basis * random_matrix(rng, 12, 2 * index(dim)) + 0.05 * random_matrix(rng, index(prompt), 2 * index(dim));
      std::vector<float>& to = keys ? text.keys : text.values;
      for (std::size_t i = 0; i < to.size(); ++i) { to[i] = static_cast<float>(rows(index(i / 16), index(i % 16))); }
    }
  }
  const double shared_alone = relative_error(texts, 1, 5);
  const double shared_pairs = relative_error(texts, 2, 5);
  const double shared_all = relative_error(texts, 4, 5);
  std::printf("a common token basis: relative error %.3f alone, %.3f in pairs, %.3f all together\n", shared_alone, shared_pairs,
              shared_all);
  EXPECT_LT(shared_pairs, 0.8 * shared_alone);
  EXPECT_LT(shared_all, 0.6 * shared_alone);
}

TEST(Xkv, RowsOfAGroupAreAliveTogetherUntilItsLastLayerEnds) {
  const auto texts = random_texts(4, prompt, 10);
  CountingMemory memory;
  {
    Cache cache(shape_of(4), {.storage = {.layers_per_group = 2, .rank_keys = 5, .rank_values = 6, .factorisation = exact}},
                memory.handle());
    for (std::size_t l = 0; l < 4; ++l) { cache.append(l, texts[l].key_rows(0, prompt), texts[l].value_rows(0, prompt)); }
    constexpr std::size_t layer_bytes = prompt * 2 * 2 * dim * sizeof(float);
    constexpr std::size_t group_factors = (5 + 6) * (prompt + 2 * 2 * dim) * sizeof(float);  // the basis once per group
    const std::vector<std::size_t> exact_layers{4, 4, 2, 2, 0};
    for (std::size_t ended = 0; ended <= 4; ++ended) {
      if (ended > 0) { cache.end_prompt(ended - 1); }
      EXPECT_EQ(cache.memory().exact_rows, exact_layers[ended] * layer_bytes) << ended << " layers have ended";
      EXPECT_EQ(cache.memory().factors, ended / 2 * group_factors) << ended << " layers have ended";
      EXPECT_EQ(cache.memory().total(), memory.bytes);
    }
    EXPECT_THROW(Cache(shape_of(4), {.storage = {.layers_per_group = 0}}), Error);
  }
  EXPECT_EQ(memory.bytes, 0U);
}

TEST(Xkv, ALayerThatWaitsForItsGroupTakesNoMoreRows) {
  const auto texts = random_texts(2, prompt + 1, 11);
  Cache cache(shape_of(2), {.storage = {.layers_per_group = 2}});
  for (std::size_t l = 0; l < 2; ++l) { cache.append(l, texts[l].key_rows(0, prompt), texts[l].value_rows(0, prompt)); }
  cache.end_prompt(0);
  EXPECT_EQ(cache.keys(0, 0).settled(), 0U);
  try {
    cache.append(0, texts[0].key_rows(prompt, 1), texts[0].value_rows(prompt, 1));
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::phase);
    EXPECT_NE(std::string(error.what()).find("before end_prompt of all the layers that are encoded together with it: 0 to 1"),
              std::string::npos)
        << error.what();
  }
  cache.end_prompt(1);
  EXPECT_NO_THROW(cache.append(0, texts[0].key_rows(prompt, 1), texts[0].value_rows(prompt, 1)));
}

TEST(XKV, AnEndOfAPromptThatComesTooEarlyChangesNothing) {
  const Shape two{.layers = 2, .query_heads = 2, .kv_heads = 2, .head_dim = 16};
  const Text text(two, 61, 5);
  KVCache<XKV<float>> cache(two, {.storage = {.layers_per_group = 2}});
  static_cast<void>(step(cache, text, 0, 60, 0));
  cache.end_prompt(0);
  static_cast<void>(step(cache, text, 0, 59, 1));
  try {
    cache.end_prompt(1);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(),
                 "kvcompress: end_prompt(layer = 1): it has seen 59 tokens, must have seen as many as layer 0, which is encoded "
                 "together with it: 60");
  }
  try {
    cache.append(0, text.key_rows(60, 1), text.value_rows(60, 1));
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(),
                 "kvcompress: append(layer = 0) before end_prompt of all the layers that are encoded together with it: 0 to 1");
  }
  static_cast<void>(step(cache, text, 59, 1, 1));  // the missing token
  cache.end_prompt(1);
  EXPECT_EQ(cache.keys(0, 0).settled(), 60U);
  EXPECT_EQ(cache.keys(1, 1).settled(), 60U);
}

}  // namespace xkv_test
