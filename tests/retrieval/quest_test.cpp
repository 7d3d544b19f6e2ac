// tests/retrieval/quest_test.cpp - Quest through the cache: the kernels' rule, outputs over exactly the chosen rows, pages that follow their rows.
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

namespace quest_test {

using namespace kvcompress;
using namespace kvcompress::test;
using reference::Index;
using reference::Matrix;

using Pages = PageBounds<half>;
const Shape mha{.query_heads = 2, .kv_heads = 2, .head_dim = 32};
const Shape gqa{.query_heads = 4, .kv_heads = 2, .head_dim = 32};

Index index(std::size_t n) { return static_cast<Index>(n); }

/// What a query of the newest row must read of a lane, by the reference.
struct Expected {
  reference::Rows rows{};
  double slack = 1e300;  // how far inside the bounds of its page every channel of every live row lies, at least
};

/// The reference's selection from the cache's own bounds, which other tests hold against the keys.
template <class Cache>
Expected expected_rows(Cache& cache, const Text& text, std::size_t end, std::size_t layer, std::size_t lane) {
  const Shape& shape = text.shape;
  const auto& options = cache.options().retrieval;
  const RowTable& table = cache.table(layer, lane);
  const PageState<half>& state = cache.index(layer, lane);
  const Index width = index(shape.key_width());
  reference::QuestPages pages{Matrix(index(state.pages()), width), Matrix(index(state.pages()), width)};
  for (std::size_t p = 0; p < state.pages(); ++p) {
    for (Index c = 0; c < width; ++c) {
      pages.minimum(index(p), c) = static_cast<double>(static_cast<float>(state.minima(p)[c]));
      pages.maximum(index(p), c) = static_cast<double>(static_cast<float>(state.maxima(p)[c]));
    }
  }
  Expected out;
  reference::Vector bounds = reference::Vector::Constant(index(state.pages()) + 1, -1e300);
  std::vector<float> key(shape.key_width());
  std::vector<float> value(shape.value_width());
  const std::int64_t shift = table.shift(table.rows() - 1);
  std::vector<Matrix> queries;
  for (std::size_t h = 0; h < shape.group(); ++h) { queries.push_back(text.query_matrix(lane * shape.group() + h).row(index(end) - 1)); }
  for (std::size_t row = 0; row < state.indexed(); ++row) {
    if (!table.alive(row)) { continue; }
    const Index page = index(row / options.page);
    const reference::Positions turn =
        reference::Positions::Constant(1, static_cast<std::int64_t>(table.shift(row)) - static_cast<std::int64_t>(shift));
    cache.read(layer, lane, row, key.data(), value.data());
    for (std::size_t h = 0; h < shape.group(); ++h) {
      const Matrix query = turn(0) == 0 ? queries[h] : reference::rotate(queries[h], turn);
      bounds(page) = std::max(bounds(page), reference::quest_bound(query, pages, page));
    }
    for (Index c = 0; c < width; ++c) {
      const auto x = static_cast<double>(key[static_cast<std::size_t>(c)]);
      out.slack = std::min({out.slack, x - pages.minimum(page, c), pages.maximum(page, c) - x});
    }
  }
  const reference::QuestOptions rule{.page = index(options.page), .budget = index(options.budget), .rule = reference::QuestRule::kernels};
  EXPECT_LE(table.rows() - state.indexed(), options.page);
  const reference::Rows chosen = reference::quest_select(bounds, index(table.rows()), rule);
  for (const Index row : reference::quest_rows(chosen, index(table.rows()), rule.page)) {
    if (table.alive(static_cast<std::size_t>(row))) { out.rows.push_back(row); }
  }
  return out;
}

/// Attention of the newest token over some rows of a lane, as the cache decodes them, one output row per query head of the group.
template <class Cache>
Matrix attention_over(Cache& cache, const Text& text, std::size_t end, std::size_t layer, std::size_t lane, const reference::Rows& rows) {
  const Shape& shape = text.shape;
  const RowTable& table = cache.table(layer, lane);
  Matrix keys(index(rows.size()), index(shape.key_width()));
  Matrix values(index(rows.size()), index(shape.value_width()));
  reference::Positions positions(index(rows.size()));
  reference::Positions slots(index(rows.size()));
  std::vector<float> key(shape.key_width());
  std::vector<float> value(shape.value_width());
  for (Index i = 0; i < keys.rows(); ++i) {
    const auto row = static_cast<std::size_t>(rows[static_cast<std::size_t>(i)]);
    cache.read(layer, lane, row, key.data(), value.data());
    for (Index c = 0; c < keys.cols(); ++c) { keys(i, c) = static_cast<double>(key[static_cast<std::size_t>(c)]); }
    for (Index c = 0; c < values.cols(); ++c) { values(i, c) = static_cast<double>(value[static_cast<std::size_t>(c)]); }
    positions(i) = table.position(row);
    slots(i) = positions(i) - table.shift(row);
  }
  const reference::Positions at = positions.tail(1);
  Matrix out(index(shape.group()), values.cols());
  for (std::size_t h = 0; h < shape.group(); ++h) {
    const Matrix query = text.query_matrix(lane * shape.group() + h).middleRows(index(end) - 1, 1);
    out.row(index(h)) = reference::attention(reference::rerotate(query, at, slots.tail(1)), reference::rerotate(keys, positions, slots),
                                             values, at, positions)
                            .output;
  }
  return out;
}

/// Decodes tokens [first, last): bounds hold, outputs are attention over the rows that the reference chooses. Returns how many rows of
/// those held were not read.
template <class Cache>
std::size_t expect_chosen_rows(Cache& cache, const Text& text, std::size_t first, std::size_t last, double slack = 0.0,
                               std::size_t layer = 0) {
  std::size_t left_out = 0;
  const std::size_t width = text.shape.value_width();
  for (std::size_t t = first; t < last && !::testing::Test::HasFailure(); ++t) {
    const Outputs out = step(cache, text, t, 1, layer);
    for (std::size_t lane = 0; lane < text.shape.kv_heads; ++lane) {
      const Expected expected = expected_rows(cache, text, t + 1, layer, lane);
      EXPECT_GE(expected.slack, -slack) << "token " << t << " lane " << lane;
      left_out += cache.table(layer, lane).live() - expected.rows.size();
      const Matrix over = attention_over(cache, text, t + 1, layer, lane, expected.rows);
      for (Index h = 0; h < over.rows(); ++h) {
        for (Index c = 0; c < over.cols(); ++c) {
          const std::size_t head = lane * text.shape.group() + static_cast<std::size_t>(h);
          EXPECT_NEAR(static_cast<double>(out[head * width + static_cast<std::size_t>(c)]), over(h, c), 2e-5)
              << "token " << t << " head " << head;
        }
      }
    }
    if (t + 1 < last) { cache.commit(layer); }  // the last step stays open
  }
  return left_out;
}

template <class P>
KVCache<P> prompted(const Text& text, std::size_t prompt, PolicyOptions<P> options) {
  add_up_exactly(options.storage);
  KVCache<P> cache(text.shape, options);
  for (std::size_t layer = 0; layer < text.shape.layers; ++layer) {
    static_cast<void>(step(cache, text, 0, prompt, layer));
    cache.end_prompt(layer);
  }
  return cache;
}

using QuestFull = Combine<Quest, Full<float>>;
using QuestKivi = Combine<Quest, Kivi<4, 32, 32>>;

TEST(Quest, ReadsThePagesOfTheKernelsRule) {
  for (const Shape& shape : {mha, gqa}) {
    const Text text(shape, 190, 3);
    for (const std::size_t budget : {16U, 39U, 64U}) {  // in pages of 8: the newest and 1, 3 or 7 others
      auto cache = prompted<QuestFull>(text, 101, {.retrieval = {.budget = budget, .page = 8, .dense_layers = 0}});
      EXPECT_GT(expect_chosen_rows(cache, text, 101, 190), 89U * 20);
    }
    auto cache = prompted<QuestFull>(text, 101, {.retrieval = {.budget = 48, .dense_layers = 0}});
    EXPECT_GT(expect_chosen_rows(cache, text, 101, 190), 89U * 20);
  }
}

TEST(Quest, ReadsTheSamePagesOfCodes) {
  const Text text(gqa, 190, 4);
  auto cache = prompted<QuestKivi>(text, 101, {.retrieval = {.budget = 48, .page = 8, .dense_layers = 0}});
  EXPECT_GT(expect_chosen_rows(cache, text, 101, 190, 0.3),
            89U * 20);  // bounds are those of the exact keys: a decoded one may lie half a step outside
}

template <class Cache>
std::vector<reference::Rows> chosen_rows(Cache& cache, const Text& text, std::size_t end) {
  std::vector<reference::Rows> rows;
  for (std::size_t lane = 0; lane < text.shape.kv_heads; ++lane) { rows.push_back(expected_rows(cache, text, end, 0, lane).rows); }
  return rows;
}

TEST(Quest, ALargerBudgetReadsMoreOfTheSame) {
  const Text text(gqa, 200, 5);
  std::vector<reference::Rows> before(gqa.kv_heads);
  for (std::size_t budget = 16; budget <= 208; budget += 16) {
    auto cache = prompted<QuestFull>(text, 199, {.retrieval = {.budget = budget, .page = 8, .dense_layers = 0}});
    EXPECT_EQ(expect_chosen_rows(cache, text, 199, 200) == 0, budget >= 200);
    const auto rows = chosen_rows(cache, text, 200);
    for (std::size_t lane = 0; lane < gqa.kv_heads; ++lane) {
      EXPECT_TRUE(std::includes(rows[lane].begin(), rows[lane].end(), before[lane].begin(), before[lane].end())) << budget;
    }
    before = rows;
  }
}

TEST(Quest, ABudgetOfAllRowsChangesNoBit) {
  const Text text(gqa, 400, 6);
  KVCache<Full<float>> plain(gqa);
  KVCache<QuestFull> cache(gqa, {.retrieval = {.budget = 400, .page = 8, .dense_layers = 0}});
  EXPECT_TRUE(run(cache, text, 300, 400) == run(plain, text, 300, 400));
}

TEST(Quest, PagesThatAQueryDoesNotSeeAreNoCandidates) {
  const Shape one{.head_dim = 8};
  Text text(one, 321, 14);
  for (std::size_t t = 0; t < 321; ++t) {  // the rows that will be hidden have the larger keys
    std::fill_n(text.keys.begin() + static_cast<std::ptrdiff_t>(8 * t), 8, t < 256 ? 1.0F : 0.0F);
    std::fill_n(text.values.begin() + static_cast<std::ptrdiff_t>(8 * t), 8, t < 256 ? -1000.0F : static_cast<float>(t - 256));
    std::fill_n(text.queries.begin() + static_cast<std::ptrdiff_t>(8 * t), 8, 1.0F);
  }
  auto cache = prompted<QuestFull>(text, 320, {.retrieval = {.budget = 96, .dense_layers = 0}});
  cache.append(0, text.key_rows(320, 1), text.value_rows(320, 1));
  EXPECT_NEAR(attend(cache, text, 321, 1, 0, {.window = 64})[0], 32.5F, 1e-4F);
  EXPECT_NEAR(attend(cache, text, 321, 1, 0, {.start = 256})[0], 32.0F, 1e-4F);
  EXPECT_NEAR(attend(cache, text, 321, 1, 0, {.window = 64, .start = 300})[0], 54.0F, 1e-4F);
}

/// Which of the committed pages a query that sees the rows [first, at] of them reads, when hidden keys are four times as large.
TEST(Quest, ASmallBudgetIsSpentOnVisiblePages) {
  Text text(mha, 301, 15);
  for (std::size_t i = 0; i < 200 * mha.kv_heads * mha.head_dim; ++i) { text.keys[i] *= 4.0F; }
  auto cache = prompted<QuestKivi>(text, 300, {.retrieval = {.budget = 40, .page = 8, .dense_layers = 0}});
  cache.append(0, text.key_rows(300, 1), text.value_rows(300, 1));
  const AttendOptions hiding[]{{.window = 100}, {.start = 203}, {.window = 85, .start = 203}, {.window = 9}, {.start = 301}};
  for (const AttendOptions& options : hiding) {
    const Visible visible{options.start, options.window, 300, 300};
    Workspace ws(mha);
    std::vector<float> query(kernels::padded(32), 0.0F);
    std::copy_n(text.queries.begin() + 300 * 64, 32, query.begin());
    Vector<RowRange> ranges;
    Pages::select(cache.options().retrieval, cache.index(0, 0),
                  {cache.table(0, 0), query.data(), query.size(), 1, 32, 0, ws.rotation, ws.chosen, ws.order, visible}, ranges);
    std::size_t pages = 0;
    for (const RowRange range : ranges) {
      for (std::size_t row = range.first; row < range.last; row += 8, ++pages) {
        std::size_t seen = 0;
        for (std::size_t r = row; r < row + 8; ++r) {
          seen += r >= options.start && (options.window == 0 || 300 - r < options.window) ? 1U : 0U;
        }
        EXPECT_GT(seen, 0U) << "page " << row / 8;
      }
    }
    EXPECT_EQ(pages, options.window == 9 ? 1U : options.start == 301 ? 0U : 4U);
  }
  EXPECT_EQ(attend(cache, text, 301, 1, 0, {.start = 301}), Outputs(64, 0.0F)) << "nothing to see";
}

TEST(Quest, PaddingDoesNotCountInTheBoundsOfItsPage) {
  Text text(mha, 120, 16);
  std::fill_n(text.keys.begin(), 13 * 64, 1000.0F);
  KVCache<QuestFull> padded(mha, {.retrieval = {.budget = 40, .page = 8, .dense_layers = 0}});
  static_cast<void>(step(padded, text, 0, 100, 0, {.start = 13}));
  padded.end_prompt(0);
  for (std::size_t c = 0; c < 32; ++c) {
    float high = -1e30F;
    for (std::size_t r = 13; r < 16; ++r) { high = std::max(high, text.keys[r * 64 + c]); }
    EXPECT_NEAR(static_cast<float>(padded.index(0, 0).maxima(1)[c]), high, 2e-3F);
  }
  EXPECT_EQ(padded.kept(0, 0).size(), 100U) << "a policy that evicts nothing keeps it";
}

TEST(Quest, TheFirstLayersAreReadInFull) {
  Shape deep = gqa;
  deep.layers = 3;
  const Text text(deep, 120, 7);
  auto cache = prompted<QuestFull>(text, 110, {.retrieval = {.budget = 16, .page = 8}});
  auto plain = prompted<Full<float>>(text, 110, {});
  for (std::size_t layer = 0; layer < 3; ++layer) {
    const Outputs expected = step(plain, text, 110, 1, layer);
    EXPECT_EQ(step(cache, text, 110, 1, layer) == expected, layer < 2) << "layer " << layer;
    cache.commit(layer);
  }
  EXPECT_GT(expect_chosen_rows(cache, text, 111, 120, 0.0, 2), 500U);
}

TEST(Quest, TiesGoToTheOlderPage) {
  Text text(mha, 100, 8);
  for (std::size_t t = 1; t < 100; ++t) {  // the same key everywhere
    std::copy_n(text.keys.begin(), 64, text.keys.begin() + static_cast<std::ptrdiff_t>(64 * t));
  }
  auto cache = prompted<QuestFull>(text, 96, {.retrieval = {.budget = 32, .page = 8, .dense_layers = 0}});
  static_cast<void>(expect_chosen_rows(cache, text, 96, 97));
  reference::Rows oldest(24);
  std::iota(oldest.begin(), oldest.end(), Index{0});
  oldest.push_back(96);
  EXPECT_EQ(chosen_rows(cache, text, 97), (std::vector<reference::Rows>{oldest, oldest}));
}

template <class Storage>
void expect_pages_under_streaming(double slack) {
  const Text text(gqa, 260, 9);
  for (const bool in_cache : {false, true}) {  // at in-cache positions a page's rows may turn by different distances
    auto cache = prompted<Combine<StreamingLLM, Storage, Quest>>(text, 80,
                                                                 {.eviction = {.sinks = 5, .window = 91, .in_cache_positions = in_cache},
                                                                  .retrieval = {.budget = 40, .page = 8, .dense_layers = 0}});
    EXPECT_GT(expect_chosen_rows(cache, text, 80, 260, slack), 180U * 20);
    cache.commit(0);
    EXPECT_EQ(cache.kept(0, 0).size(), 96U);
  }
}
TEST(Quest, PagesFollowTheirRowsUnderStreamingLLM) {
  expect_pages_under_streaming<Full<float>>(0.0);
  expect_pages_under_streaming<Kivi<4, 32, 32>>(0.3);
}

template <class Storage>
void expect_pages_under_snapkv(double slack) {
  const Text text(gqa, 240, 10);
  auto cache = prompted<Combine<SnapKV, Storage, Quest>>(
      text, 160, {.eviction = {.budget = 80, .window = 8, .decode_budget = 40}, .retrieval = {.budget = 40, .page = 8, .dense_layers = 0}});
  EXPECT_GT(expect_chosen_rows(cache, text, 160, 240, slack), 80U * 20);
}
TEST(Quest, PagesFollowTheirRowsUnderSnapKV) {
  expect_pages_under_snapkv<Full<float>>(0.0);
  expect_pages_under_snapkv<Kivi<4, 32, 32>>(0.3);
}

TEST(Quest, PagesFollowTheirRowsAfterRemove) {
  const Text text(gqa, 200, 11);
  const auto check = [&](auto cache, double slack) {
    cache.remove(3, 30);
    cache.remove(60, 61);
    static_cast<void>(expect_chosen_rows(cache, text, 150, 170, slack));
    cache.commit(0);
    cache.remove(120, 165);
    EXPECT_GT(expect_chosen_rows(cache, text, 170, 200, slack), 30U * 20);
  };
  check(prompted<QuestFull>(text, 150, {.retrieval = {.budget = 32, .page = 8, .dense_layers = 0}}), 0.0);
  check(prompted<QuestKivi>(text, 150, {.retrieval = {.budget = 32, .page = 8, .dense_layers = 0}}), 0.3);
}

TEST(Quest, TruncatedRowsNeverWereInAPage) {
  const Text text(gqa, 200, 12);
  const Text other(gqa, 200, 13);
  const PolicyOptions<QuestFull> options{.retrieval = {.budget = 32, .page = 8, .dense_layers = 0}, .speculation = 16};
  auto cache = prompted<QuestFull>(text, 100, options);
  auto plain = prompted<QuestFull>(text, 100, options);
  for (std::size_t t = 100; t < 190; t += 5) {
    static_cast<void>(step(cache, other, t, 10));
    cache.truncate(static_cast<Position>(t));
    EXPECT_TRUE(step(cache, text, t, 5) == step(plain, text, t, 5)) << t;
  }
  cache.commit(0);
  EXPECT_GT(expect_chosen_rows(cache, text, 190, 200), 10U * 20);
}

}  // namespace quest_test
