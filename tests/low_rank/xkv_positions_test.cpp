// tests/low_rank/xkv_positions_test.cpp - xKV's layers hold rows at the same positions, or are refused.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include "low_rank/xkv_caches.hpp"
#include "support/errors.hpp"

namespace xkv_positions_test {

using namespace kvcompress;
using namespace kvcompress::test;
using namespace kvcompress::test::xkv;

/// Keys that one basis of 6 directions describes, in all layers of the group.
std::vector<Text> texts_of_one_basis(std::size_t layers, std::size_t tokens) {
  auto texts = random_texts(layers, tokens, 51);
  std::mt19937 rng(52);
  const Matrix basis = random_matrix(rng, index(tokens), 6);
  for (Text& text : texts) {
    const Matrix rows = basis * random_matrix(rng, 6, 2 * index(dim));
    for (std::size_t i = 0; i < text.keys.size(); ++i) { text.keys[i] = static_cast<float>(rows(index(i / 16), index(i % 16))); }
  }
  return texts;
}
/// Appends rows [0, count) of the text but for positions that leave out [gap, gap + 10).
void append_with_gap(Cache& cache, const Text& text, std::size_t layer, std::size_t gap, std::size_t count) {
  cache.append(layer, text.key_rows(0, gap), text.value_rows(0, gap));
  cache.append(layer, text.key_rows(gap, count - gap), text.value_rows(gap, count - gap), static_cast<Position>(gap + 10));
}
TEST(Xkv, LayersOfAGroupThatHoldOtherPositionsAreRefused) {
  const auto texts = texts_of_one_basis(2, prompt);
  const SharedBasisOptions options{.layers_per_group = 2, .rank_keys = 6, .factorisation = exact};
  for (const std::size_t gap : {30U, 40U}) {
    Cache cache(shape_of(2), {.storage = options});
    append_with_gap(cache, texts[0], 0, 30, prompt);
    append_with_gap(cache, texts[1], 1, gap, prompt);
    cache.end_prompt(0);
    if (gap == 40) {
      expect_error(ErrorCode::position,
                   "end_prompt(layer = 1): its rows came at other positions than those of layer 0, which is encoded together "
                   "with it: they must be appended alike",
                   [&] { cache.end_prompt(1); });
      EXPECT_EQ(cache.keys(1, 0).settled(), 0U);
      continue;
    }
    cache.end_prompt(1);  // the same gap in all layers
    Rotation rotation(cache.shape(), {});
    std::vector<float> key(dim);
    std::vector<float> value(dim);
    for (std::size_t layer = 0; layer < 2; ++layer) {
      for (std::size_t row = 0; row < prompt; ++row) {
        cache.read(layer, 1, row, key.data(), value.data());
        rotation.turn_by(-static_cast<std::int64_t>(row < gap ? row : row + 10));
        rotation.apply(key.data());
        for (std::size_t c = 0; c < dim; ++c) { ASSERT_NEAR(key[c], texts[layer].keys[(row * 2 + 1) * dim + c], 1e-4F); }
      }
    }
  }
}

TEST(Xkv, RemovingRowsWhileLayersAreApartIsRefused) {
  const auto texts = texts_of_one_basis(3, prompt + 2);
  Cache cache(shape_of(3), {.storage = {.layers_per_group = 2, .rank_keys = 6, .factorisation = exact}});
  cache.append(0, texts[0].key_rows(0, prompt), texts[0].value_rows(0, prompt));
  cache.end_prompt(0);
  expect_error(ErrorCode::phase,
               "remove: layer 1 has seen 0 tokens, must have seen as many as layer 0, which is encoded together with it: 90",
               [&] { cache.remove(10, 20); });
  EXPECT_EQ(cache.kept(0, 0).size(), prompt);
  cache.append(1, texts[1].key_rows(0, prompt), texts[1].value_rows(0, prompt));
  cache.end_prompt(1);
  cache.remove(10, 20);  // the third layer is in no group with these, and has not begun
  EXPECT_EQ(cache.kept(1, 1).size(), prompt - 10);
}

TEST(Xkv, DecodedRowsAreFoldedInOnlyWhereAllLayersHoldTheSame) {
  const auto texts = texts_of_one_basis(2, prompt + 40);
  Cache cache = prompted({texts[0], texts[1]}, {.layers_per_group = 2, .rank_keys = 6, .fold_in = 8, .factorisation = exact});
  for (std::size_t t = prompt; t < prompt + 40; ++t) {
    for (std::size_t layer = 0; layer < 2; ++layer) {
      const Position gap = layer == 1 && t >= prompt + 20 ? 5 : 0;  // one layer leaves out five positions
      cache.append(layer, texts[layer].key_rows(t, 1), texts[layer].value_rows(t, 1), static_cast<Position>(t) + gap);
    }
  }
  EXPECT_EQ(cache.keys(0, 0).settled(), prompt + 16);
  Rotation rotation(cache.shape(), {});
  std::vector<float> key(dim);
  std::vector<float> value(dim);
  for (std::size_t layer = 0; layer < 2; ++layer) {
    for (std::size_t row = 0; row < prompt + 40; ++row) {
      cache.read(layer, 0, row, key.data(), value.data());
      rotation.turn_by(-static_cast<std::int64_t>(cache.table(layer, 0).position(row)));
      rotation.apply(key.data());
      for (std::size_t c = 0; c < dim; ++c) { ASSERT_NEAR(key[c], texts[layer].keys[row * 2 * dim + c], 1e-4F) << row; }
    }
  }
}

}  // namespace xkv_positions_test
