// tests/retrieval/page_bounds_test.cpp - what Quest remembers of a page: no key of it exceeds its bound.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <numeric>

#include "kvcompress/policies/full.hpp"
#include "kvcompress/policies/kivi.hpp"
#include "kvcompress/policies/quest.hpp"
#include "kvcompress/policies/snapkv.hpp"
#include "kvcompress/policies/streaming_llm.hpp"
#include "kvcompress/reference/quest.hpp"
#include "support/policies.hpp"
#include "support/random_rows.hpp"

namespace page_bounds_test {

using namespace kvcompress;
using namespace kvcompress::test;
using reference::Index;
using reference::Matrix;

using Pages = PageBounds<half>;
const Shape mha{.query_heads = 2, .kv_heads = 2, .head_dim = 32};
const Shape gqa{.query_heads = 4, .kv_heads = 2, .head_dim = 32};

Index index(std::size_t n) { return static_cast<Index>(n); }

/// The bounds of all pages.
template <class T>
std::vector<float> bounds_of(const PageState<T>& state, const Retrieving& in) {
  std::vector<float> scratch(PageBounds<T>::scratch_floats(in), -1.0F);
  std::vector<float> bounds(state.pages());
  PageBounds<T>::bounds(in, in.queries, state, 0, state.pages(), bounds.data(), scratch.data());
  return bounds;
}

/// A page's bounds in T against every product of its keys with a query.
template <class T>
void expect_bounds_hold(const std::vector<float>& keys, std::size_t page, std::size_t width, const std::vector<float>& query) {
  const std::size_t rows = keys.size() / width;
  PageState<T> state(page, width, {});
  Vector<float> scratch;
  state.refresh(
      rows, [&](std::size_t row, float* out) { std::copy_n(keys.data() + row * width, width, out); }, scratch);
  ASSERT_EQ(state.pages(), rows / page);
  RowTable table(false, {});
  table.make_room(rows, 0);
  for (std::size_t r = 0; r < rows; ++r) { table.append(static_cast<Position>(r)); }
  Rotation rotation(Shape{.head_dim = width, .rope = {.theta = 0.0}}, {});
  Vector<Position> order;
  std::vector<float> padded(kernels::padded(width), 0.0F);
  std::copy_n(query.begin(), width, padded.begin());
  const Retrieving in{table, padded.data(), padded.size(), 1, width, 0, rotation, scratch, order};
  const std::vector<float> bounds = bounds_of(state, in);
  for (std::size_t row = 0; row < state.indexed(); ++row) {
    const std::size_t p = row / page;
    double dot = 0.0;
    double size = 0.0;
    for (std::size_t c = 0; c < width; ++c) {
      const float key = keys[row * width + c];
      ASSERT_LE(static_cast<float>(state.minima(p)[c]), key) << "row " << row << " channel " << c;
      ASSERT_GE(static_cast<float>(state.maxima(p)[c]), key) << "row " << row << " channel " << c;
      dot += static_cast<double>(key) * static_cast<double>(query[c]);
      size += std::abs(static_cast<double>(key) * static_cast<double>(query[c]));
    }
    ASSERT_GE(static_cast<double>(bounds[p]), dot - 1e-6 * size) << "row " << row;
  }
}
template <>
void expect_bounds_hold<float>(const std::vector<float>& keys, std::size_t page, std::size_t width, const std::vector<float>& /*query*/) {
  PageState<float> state(page, width, {});
  Vector<float> scratch;
  state.refresh(
      keys.size() / width, [&](std::size_t row, float* out) { std::copy_n(keys.data() + row * width, width, out); }, scratch);
  for (std::size_t p = 0; p < state.pages(); ++p) {
    for (std::size_t c = 0; c < width; ++c) {
      float low = keys[p * page * width + c];
      float high = low;
      for (std::size_t r = p * page; r < (p + 1) * page; ++r) {
        low = std::min(low, keys[r * width + c]);
        high = std::max(high, keys[r * width + c]);
      }
      ASSERT_EQ(state.minima(p)[c], low);
      ASSERT_EQ(state.maxima(p)[c], high);
    }
  }
}

TEST(PageBounds, NoKeyOfAPageExceedsItsBound) {
  std::mt19937 rng(1);
  for (const std::size_t width : {1U, 7U, 20U, 64U}) {
    for (const float spread : {1e-6F, 1.0F, 3000.0F}) {
      const auto keys = normal_numbers(40 * width, rng, spread);
      const auto query = normal_numbers(width, rng);
      expect_bounds_hold<half>(keys, 8, width, query);
      expect_bounds_hold<bfloat16>(keys, 16, width, query);
      expect_bounds_hold<float>(keys, 8, width, query);
    }
  }
}

TEST(PageBounds, BoundsHoldWhereRoundingIsWorst) {
  // Between two halves, at the ends of the range, below the smallest one, signed zeros; every channel of the query of either sign.
  const std::vector<float> hard{
      0.0F,      -0.0F,    1.0F / 3.0F, -1.0F / 3.0F, 1.0F + 0x1p-11F, -1.0F - 0x1p-11F, 1.0F + 0x1p-23F, 2048.5F, -4097.9F,     65503.9F,
      -65503.9F, 65504.0F, -65504.0F,   0x1p-24F,     0x1p-25F,        -0x1p-25F,        1e-30F,          -1e-30F, 0x1.ffcp-15F, 3e-5F};
  std::mt19937 rng(2);
  const std::size_t width = 12;
  std::vector<float> keys(48 * width);
  for (float& key : keys) { key = hard[rng() % hard.size()]; }
  std::vector<float> query(width);
  for (int trial = 0; trial < 20; ++trial) {
    for (float& q : query) { q = static_cast<float>(static_cast<int>(rng() % 5) - 2); }
    expect_bounds_hold<half>(keys, 8, width, query);
    expect_bounds_hold<bfloat16>(keys, 8, width, query);
  }
}

TEST(PageBounds, KeysBeyondTheRangeOfHalfGiveNumbers) {
  std::vector<float> keys(16 * 4, 1.0F);  // a cache in f32 may hold them
  keys[4 * 3] = 1e6F;
  keys[4 * 9 + 1] = -7e7F;
  PageState<half> state(8, 4, {});
  Vector<float> scratch;
  state.refresh(
      16, [&](std::size_t row, float* out) { std::copy_n(keys.data() + row * 4, 4, out); }, scratch);
  const RowTable table(false, {});
  Rotation rotation(Shape{.head_dim = 4}, {});
  Vector<Position> order;
  const std::vector<float> query{0.0F, 0.0F, 1.0F, 0.0F, 0.0F, 0.0F, 0.0F, 0.0F, 0.0F, 0.0F, 0.0F, 0.0F, 0.0F, 0.0F, 0.0F, 0.0F};
  const Retrieving in{table, query.data(), query.size(), 1, 4, 0, rotation, scratch, order};
  for (const float bound : bounds_of(state, in)) { EXPECT_GE(bound, 1.0F) << "NaN, or too small"; }
}

}  // namespace page_bounds_test
