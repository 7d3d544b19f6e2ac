// tests/retrieval/landmarks_test.cpp - Landmarks and ShadowKV: what is read, selections, the slow tier, folding in, refusals.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <Eigen/Eigenvalues>
#include <numeric>
#include <set>

#include "kvcompress/policies/full.hpp"
#include "kvcompress/policies/kivi.hpp"
#include "kvcompress/policies/landmarks.hpp"
#include "kvcompress/policies/shadowkv.hpp"
#include "kvcompress/policies/streaming_llm.hpp"
#include "support/random_rows.hpp"
#include "support/slow_files.hpp"

namespace {

using namespace kvcompress;
using namespace kvcompress::test;
using reference::Index;
using reference::Matrix;

using Shadow = ShadowKV<float>;
const Shape shape{.query_heads = 4, .kv_heads = 2, .head_dim = 16};
constexpr std::size_t prompt = 150;

/// Chunks of 4, 2 local ones, 3 outliers, 6 chosen.
template <class P>
PolicyOptions<P> small_options(std::size_t budget = 24) {
  PolicyOptions<P> options{};
  options.retrieval = {.budget = budget, .chunk = 4, .local_chunks = 2, .outlier_chunks = 3};
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

Index index(std::size_t n) { return static_cast<Index>(n); }

/// The ranges that the index of a lane chooses for the queries of token `token`, outliers included.
template <class Cache>
std::vector<RowRange> chosen(const Cache& cache, const Text& text, std::size_t token, std::size_t lane) {
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
      {cache.table(0, lane), queries.data(), stride, group, text.shape.head_dim, 0, ws.rotation, ws.chosen, ws.order}, ranges);
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
    const Matrix expected = reference::attention(text.query_matrix(head).row(index(token)), keys, values, reference::consecutive(index(token), 1),
                                                 positions).output;
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

// ---------------------------------------------------------------- the index

TEST(Landmarks, EveryContextChunkHasALandmarkOrIsAnOutlierAndTheRestIsAlwaysRead) {
  for (std::size_t tokens = 90; tokens < 99; ++tokens) {  // no token is lost, whatever the remainder
    const Text text(shape, 100, 1);
    const auto cache = prompted<Shadow>(text, small_options<Shadow>(), tokens);
    for (std::size_t lane = 0; lane < 2; ++lane) {
      const auto& state = cache.index(0, lane);
      std::vector<std::size_t> chunks(state.ids().begin(), state.ids().end());
      for (const RowRange range : state.outliers()) {
        EXPECT_EQ(range.size(), 4U);
        chunks.push_back(range.first / 4);
      }
      std::sort(chunks.begin(), chunks.end());
      std::vector<std::size_t> all(tokens / 4 - 2);
      std::iota(all.begin(), all.end(), std::size_t{0});
      EXPECT_EQ(chunks, all);
      EXPECT_EQ(state.outliers().size(), 3U);
      EXPECT_EQ(state.indexed(), all.size() * 4);
      EXPECT_EQ(cache.kept(0, lane).size(), tokens);
      EXPECT_EQ(cache.keys(0, lane).settled(), state.indexed());
      EXPECT_EQ(cache.values(0, lane).settled(), state.indexed());
      EXPECT_EQ(cache.keys(0, lane).rows(), tokens);
      EXPECT_EQ(cache.values(0, lane).rows(), tokens);
    }
  }
}

TEST(Landmarks, EqualTokensAreNeverOutliersBeforeOthers) {
  Shape still = shape;
  still.rope.theta = 0.0;
  Text text(still, prompt, 2);
  std::mt19937 rng(3);
  std::set<std::size_t> uneven;
  for (std::size_t chunk = 0; chunk < prompt / 4; ++chunk) {
    if (uneven.size() < 5 && rng() % 4 == 0) {
      uneven.insert(chunk);
      continue;
    }
    for (std::size_t t = 1; t < 4; ++t) {
      std::copy_n(text.keys.begin() + static_cast<std::ptrdiff_t>(chunk * 4 * 32), 32, text.keys.begin() + static_cast<std::ptrdiff_t>((chunk * 4 + t) * 32));
    }
  }
  auto options = small_options<Combine<Landmarks, Full<float>>>();
  options.retrieval.outlier_chunks = 5;
  const auto cache = prompted(text, options);
  for (std::size_t lane = 0; lane < 2; ++lane) {
    std::set<std::size_t> outliers;
    for (const RowRange range : cache.index(0, lane).outliers()) { outliers.insert(range.first / 4); }
    EXPECT_EQ(outliers, uneven);
  }
}

TEST(Landmarks, ALargerBudgetChoosesMoreOfTheSame) {
  const Text text(shape, prompt + 1, 4);
  for (std::size_t lane = 0; lane < 2; ++lane) {
    std::set<std::size_t> before;
    for (std::size_t budget = 4; budget <= 160; budget += 4) {
      const auto cache = prompted(text, small_options<Shadow>(budget));
      const auto chunks = chosen_chunks(cache, text, prompt, lane);
      EXPECT_EQ(chunks.size(), std::min<std::size_t>(budget / 4, prompt / 4 - 2 - 3));
      EXPECT_TRUE(std::includes(chunks.begin(), chunks.end(), before.begin(), before.end())) << budget;
      before = chunks;
    }
  }
}

TEST(Landmarks, TheChoiceDependsOnQueriesAndLandmarksOnly) {
  const Text text(shape, prompt + 20, 5);
  Text other(shape, prompt + 20, 6);  // other values, other decoded rows
  std::copy_n(text.keys.begin(), prompt * 32, other.keys.begin());
  other.queries = text.queries;
  auto a = prompted(text, small_options<Shadow>());
  auto b = prompted(other, small_options<Shadow>());
  for (std::size_t t = prompt; t < prompt + 20; ++t) {
    static_cast<void>(step(a, text, t, 1));
    static_cast<void>(step(b, other, t, 1));
    for (std::size_t lane = 0; lane < 2; ++lane) { EXPECT_EQ(chosen_chunks(a, text, t, lane), chosen_chunks(b, other, t, lane)); }
  }
  EXPECT_NE(chosen_chunks(a, text, prompt, 0), chosen_chunks(a, text, prompt, 1));
  EXPECT_NE(chosen_chunks(a, text, prompt, 0), chosen_chunks(a, text, prompt + 1, 0));
}

TEST(Landmarks, RepeatedQueryHeadsChangeNoChoice) {
  const Text text(shape, prompt + 10, 7);
  Shape twice = shape;
  twice.query_heads = 8;
  Text wide(twice, prompt + 10, 7);
  wide.keys = text.keys;
  wide.values = text.values;
  for (std::size_t row = 0; row < (prompt + 10) * 8; ++row) {
    std::copy_n(text.queries.begin() + static_cast<std::ptrdiff_t>(row / 2 * 16), 16, wide.queries.begin() + static_cast<std::ptrdiff_t>(row * 16));
  }
  const auto a = prompted(text, small_options<Shadow>());
  const auto b = prompted(wide, small_options<Shadow>());
  for (std::size_t t = prompt; t < prompt + 10; ++t) {
    for (std::size_t lane = 0; lane < 2; ++lane) { EXPECT_EQ(chosen_chunks(a, text, t, lane), chosen_chunks(b, wide, t, lane)); }
  }
}

TEST(Landmarks, OutputsOverFullAndKiviAreAttentionOverTheRowsThatAreRead) {
  const Text text(shape, prompt + 100, 8);
  for (const std::size_t fold_in : {0U, 16U}) {
    auto options = small_options<Combine<Landmarks, Full<float>>>();
    options.retrieval.fold_in = fold_in;
    auto full = prompted(text, options);
    expect_outputs(full, text, prompt, prompt + 100);
    auto coded = small_options<Combine<Landmarks, Kivi<4, 32, 32>>>();
    coded.retrieval.fold_in = fold_in;
    auto kivi = prompted(text, coded);
    expect_outputs(kivi, text, prompt, prompt + 100);
    EXPECT_EQ(full.index(0, 0).indexed() > prompt, fold_in > 0);
    EXPECT_EQ(kivi.index(0, 1).indexed(), full.index(0, 1).indexed());
  }
}

/// The largest difference between a landmark and the mean of the rows that its chunk holds now.
template <class Cache>
double landmark_deviation(Cache& cache) {
  double worst = 0.0;
  std::vector<float> key(shape.head_dim);
  std::vector<float> value(shape.head_dim);
  for (std::size_t lane = 0; lane < 2; ++lane) {
    const auto& state = cache.index(0, lane);
    for (std::size_t i = 0; i < state.ids().size(); ++i) {
      std::vector<double> mean(shape.head_dim, 0.0);
      for (std::size_t row = state.ids()[i] * 4; row < (state.ids()[i] + 1) * 4; ++row) {
        cache.read(0, lane, row, key.data(), value.data());
        for (std::size_t c = 0; c < shape.head_dim; ++c) { mean[c] += static_cast<double>(key[c]) / 4; }
      }
      for (std::size_t c = 0; c < shape.head_dim; ++c) {
        worst = std::max(worst, std::abs(static_cast<double>(static_cast<float>(state.landmark(i)[c])) - mean[c]));
      }
    }
  }
  return worst;
}
/// Rows decoded after the prompt that a lane holds and a query of the newest token does not read.
template <class Cache>
std::size_t decoded_rows_left_out(const Cache& cache, const Text& text, std::size_t token) {
  std::size_t left_out = 0;
  for (std::size_t lane = 0; lane < 2; ++lane) {
    std::set<Position> read;
    for (const std::size_t row : rows_read(cache, text, token, lane)) { read.insert(cache.table(0, lane).position(row)); }
    for (const Position position : cache.kept(0, lane)) { left_out += position >= prompt && !read.contains(position) ? 1U : 0U; }
  }
  return left_out;
}

TEST(Landmarks, AreThoseOfTheirRowsAfterRemove) {
  const Text text(shape, prompt + 40, 9);
  auto cache = prompted(text, small_options<Combine<Landmarks, Full<float>>>());
  cache.remove(10, 21);
  EXPECT_LT(landmark_deviation(cache), 4e-3) << "before the next commit";
  expect_outputs(cache, text, prompt, prompt + 20);
  cache.remove(100, 103);
  expect_outputs(cache, text, prompt + 20, prompt + 40);
  EXPECT_LT(landmark_deviation(cache), 4e-3);
}

TEST(Landmarks, DecodedRowsAreReadAfterRemove) {
  const Text text(shape, prompt + 40, 9);
  auto cache = prompted(text, small_options<Combine<Landmarks, Full<float>>>());
  expect_outputs(cache, text, prompt, prompt + 20);
  cache.remove(10, 51);
  for (std::size_t t = prompt + 20; t < prompt + 40; ++t) {
    static_cast<void>(step(cache, text, t, 1));
    ASSERT_EQ(decoded_rows_left_out(cache, text, t), 0U) << "token " << t;
  }
}

TEST(Landmarks, DecodedRowsAreReadUnderAWindow) {
  const Text text(shape, prompt + 60, 10);
  auto options = small_options<Combine<StreamingLLM, Landmarks, Full<float>>>();
  options.eviction = {.sinks = 4, .window = 120, .in_cache_positions = false};
  auto cache = prompted(text, options);
  for (std::size_t t = prompt; t < prompt + 60; ++t) {
    const Outputs out = step(cache, text, t, 1);
    ASSERT_LT(output_deviation(cache, text, t, out), 2e-5);
    ASSERT_LT(landmark_deviation(cache), 4e-3);
    ASSERT_EQ(decoded_rows_left_out(cache, text, t), 0U) << "token " << t;
    cache.commit(0);
  }
}

// ---------------------------------------------------------------- ShadowKV

TEST(ShadowKV, FullRankAndAllChunksAreFullAttention) {
  for (const KeyForm form : {KeyForm::rotated, KeyForm::unrotated}) {
    Shape of = shape;
    of.keys = form;
    const Text text(of, prompt + 30, 11);
    auto options = small_options<Shadow>(200);
    options.storage = {.rank = 32, .factorisation = low_rank::Factorisation::exact};
    KVCache<Shadow> cache(of, options);
    KVCache<Full<float>> plain(of);
    EXPECT_LT(deviation(run(cache, text, prompt, prompt + 30), run(plain, text, prompt, prompt + 30)), 1e-5);
  }
}

TEST(ShadowKV, ReadsLocalOutlierChosenAndDecodedRowsOnce) {
  const Text text(shape, prompt + 40, 12);
  auto cache = prompted(text, small_options<Shadow>());
  const std::size_t local = prompt - (prompt / 4 - 2) * 4;
  for (std::size_t t = prompt; t < prompt + 40; ++t) {
    const Outputs out = step(cache, text, t, 1);
    for (std::size_t lane = 0; lane < 2; ++lane) {
      const auto rows = rows_read(cache, text, t, lane);
      EXPECT_EQ(rows.size(), local + 3 * 4 + 24 + (t + 1 - prompt));
      EXPECT_EQ(std::set<std::size_t>(rows.begin(), rows.end()).size(), rows.size());
      for (std::size_t row = prompt - local; row <= t; ++row) { ASSERT_TRUE(std::binary_search(rows.begin(), rows.end(), row)); }
    }
    ASSERT_LT(output_deviation(cache, text, t, out), 2e-5) << "token " << t;
  }
}

TEST(ShadowKV, ValuesLocalAndOutlierKeysAreExactAndOtherKeysAreNot) {
  const Text text(shape, prompt + 10, 13);
  auto cache = prompted(text, small_options<Shadow>());
  expect_outputs(cache, text, prompt, prompt + 10);
  std::vector<float> key(16);
  std::vector<float> value(16);
  for (std::size_t lane = 0; lane < 2; ++lane) {
    const auto& state = cache.index(0, lane);
    for (std::size_t row = 0; row < prompt + 10; ++row) {
      cache.read(0, lane, row, key.data(), value.data());
      const bool outlier = std::any_of(state.outliers().begin(), state.outliers().end(), [&](RowRange r) { return row >= r.first && row < r.last; });
      EXPECT_TRUE(std::equal(value.begin(), value.end(), text.values.begin() + static_cast<std::ptrdiff_t>((row * 2 + lane) * 16)));
      EXPECT_EQ(std::equal(key.begin(), key.end(), text.keys.begin() + static_cast<std::ptrdiff_t>((row * 2 + lane) * 16)), outlier || row >= state.indexed());
    }
  }
}

TEST(ShadowKV, KeysAreTheBestOfTheirRankForTheWholePrompt) {
  Shape of = shape;
  of.keys = KeyForm::unrotated;
  const Text text(of, prompt, 23);
  Matrix rows(index(prompt), 32);  // heads side by side, local rows too
  rows << text.key_matrix(0), text.key_matrix(1);
  const Eigen::SelfAdjointEigenSolver<Matrix> solver(rows.transpose() * rows);
  const Matrix leading = solver.eigenvectors().rightCols(7);
  const Matrix expected = rows * leading * leading.transpose();
  auto options = small_options<Shadow>();
  options.storage = {.rank = 7, .factorisation = low_rank::Factorisation::exact};
  const auto cache = prompted(text, options);
  std::vector<float> key(16);
  for (std::size_t row = 0; row < cache.keys(0, 0).settled(); ++row) {
    for (std::size_t lane = 0; lane < 2; ++lane) {
      cache.keys(0, lane).factor().read(row, key.data());
      for (std::size_t c = 0; c < 16; ++c) { ASSERT_NEAR(static_cast<double>(key[c]), expected(index(row), index(lane * 16 + c)), 1e-5) << "row " << row; }
    }
  }
}

TEST(ShadowKV, FetchesWhatIsMissingAndReuseChangesNoBit) {
  Text text(shape, prompt + 40, 14);
  for (std::size_t t = prompt + 1; t < prompt + 40; t += 2) {  // every second token asks what the one before asked, nearly
    for (std::size_t i = 0; i < 64; ++i) { text.queries[t * 64 + i] = text.queries[(t - 1) * 64 + i] * (t % 4 == 3 ? 1.0F : 0.5F); }
  }
  auto options = small_options<Shadow>();
  auto reusing = prompted(text, options);
  options.storage.reuse = false;
  auto fetching = prompted(text, options);
  EXPECT_EQ(reusing.fetched(), 0U);
  std::vector<std::set<std::size_t>> before(2);
  std::size_t nothing_new = 0;
  for (std::size_t t = prompt; t < prompt + 40; ++t) {
    std::size_t missing = 0;
    std::size_t all = 0;
    for (std::size_t lane = 0; lane < 2; ++lane) {
      const auto chunks = chosen_chunks(reusing, text, t, lane);
      for (const std::size_t chunk : chunks) { missing += before[lane].contains(chunk) ? 0U : 1U; }
      all += chunks.size();
      before[lane] = chunks;
    }
    const std::size_t had = reusing.fetched();
    const std::size_t had_all = fetching.fetched();
    EXPECT_TRUE(step(reusing, text, t, 1) == step(fetching, text, t, 1)) << "token " << t;
    EXPECT_EQ(reusing.fetched() - had, missing * 4 * 16 * sizeof(float)) << "token " << t;
    EXPECT_EQ(fetching.fetched() - had_all, all * 4 * 16 * sizeof(float)) << "token " << t;
    nothing_new += missing == 0 ? 1U : 0U;
  }
  EXPECT_GE(nothing_new, 10U);
  EXPECT_LT(reusing.fetched(), fetching.fetched() * 3 / 4);
}

TEST(ShadowKV, FactorsTakeWhatTheFormulaSaysAndValuesAreInTheSlowTier) {
  const Text text(shape, 1000, 15);
  auto options = small_options<Shadow>();
  options.storage.rank = 5;
  const auto cache = prompted(text, options, 1000);
  const std::size_t indexed = cache.index(0, 0).indexed();
  const MemoryReport report = cache.memory();
  EXPECT_EQ(report.factors, (indexed * 5 + 5 * 2 * 16) * sizeof(float)) << "one basis for both heads, coefficients for each";
  EXPECT_EQ(report.slow_tier, indexed * 2 * 16 * sizeof(float));
  EXPECT_EQ(report.fast() + report.slow_tier, report.total());
  EXPECT_EQ(report.exact_rows, ((1000 - indexed) + 3 * 4) * 2 * 2 * 16 * sizeof(float)) << "local and outlier rows";
}

TEST(ShadowKV, FoldedRowsJoinTheIndexTheFactorsAndTheSlowTier) {
  const Text text(shape, prompt + 120, 16);
  auto options = small_options<Shadow>();
  options.retrieval.fold_in = 16;
  auto cache = prompted(text, options);
  for (std::size_t t = prompt; t < prompt + 120; ++t) {
    const Outputs out = step(cache, text, t, 1);
    ASSERT_LT(output_deviation(cache, text, t, out), 2e-5) << "token " << t;
    cache.commit(0);
    const std::size_t indexed = cache.index(0, 0).indexed();
    ASSERT_GE(indexed + 8 + 16 + 3, t + 1) << "at most fold_in and local rows, and a rest of a chunk, stay outside";
    ASSERT_EQ(cache.keys(0, 1).settled(), indexed);
    ASSERT_EQ(cache.values(0, 1).settled(), indexed);
    ASSERT_EQ(cache.memory().slow_tier, indexed * 2 * 16 * sizeof(float));
    ASSERT_EQ(cache.index(0, 0).outliers().size(), 3U);
    ASSERT_EQ(cache.index(0, 0).ids().size(), indexed / 4 - 3);
  }
  std::vector<float> key(16);
  std::vector<float> value(16);
  for (std::size_t row = 0; row < prompt + 120; ++row) {
    cache.read(0, 1, row, key.data(), value.data());
    EXPECT_TRUE(std::equal(value.begin(), value.end(), text.values.begin() + static_cast<std::ptrdiff_t>((row * 2 + 1) * 16))) << row;
  }
}

TEST(ShadowKV, ASlowTierInAFileChangesNoBit) {
  const Text text(shape, prompt + 60, 17);
  const Directory directory;
  auto options = small_options<Shadow>();
  options.retrieval.fold_in = 16;
  auto ram = prompted(text, options);
  options.storage.slow.directory = directory.path();
  auto file = prompted(text, options);
  for (std::size_t t = prompt; t < prompt + 60; ++t) { EXPECT_TRUE(step(ram, text, t, 1) == step(file, text, t, 1)) << t; }
  EXPECT_EQ(file.memory().slow_tier, 0U);
  EXPECT_EQ(ram.memory().slow_file, 0U);
  EXPECT_GE(file.memory().slow_file, ram.memory().slow_tier);
  EXPECT_EQ(file.fetched(), ram.fetched());
  EXPECT_TRUE(directory.empty()) << "files without names";
}

TEST(ShadowKV, AMissingDirectoryIsAnErrorAndThePromptCanEndLater) {
  const Text text(shape, prompt + 20, 18);
  const Directory parent;
  auto options = small_options<Shadow>();
  auto plain = prompted(text, options);
  options.storage.slow.directory = parent.path() + "/later";
  KVCache<Shadow> cache(shape, options);
  static_cast<void>(step(cache, text, 0, prompt));
  std::vector<float> before(32);
  std::vector<float> after(32);
  cache.read(0, 0, 40, before.data(), before.data() + 16);
  expect_error(ErrorCode::io, {"later"}, [&] { cache.end_prompt(0); });
  cache.read(0, 0, 40, after.data(), after.data() + 16);
  EXPECT_EQ(before, after) << "the cache is unchanged";
  std::filesystem::create_directory(options.storage.slow.directory);
  cache.end_prompt(0);
  for (std::size_t t = prompt; t < prompt + 20; ++t) { EXPECT_TRUE(step(cache, text, t, 1) == step(plain, text, t, 1)) << t; }
}

TEST(ShadowKV, InCachePositionsAreRefused) {
  using P = Combine<StreamingLLM, Shadow>;
  expect_error(ErrorCode::option, {"sink_window", "in_cache_positions is true", "must be false", "landmarks"}, [] { const KVCache<P> cache(shape); });
  PolicyOptions<P> options{};
  options.eviction.in_cache_positions = false;
  EXPECT_NO_THROW(KVCache<P>(shape, options));
}

// ---------------------------------------------------------------- the offload class

/// A budget of 1024 rows would have 24 outliers; these have none.
PolicyOptions<Shadow> offload() {
  auto options = small_options<Shadow>();
  options.retrieval.behaviour = ShadowKVClass::offload;
  options.storage.rank = 3;
  return options;
}

TEST(ShadowKVOffload, CountsContextChunksByEightsAndOutliersByTheBudget) {
  const Text text(shape, 1300, 19);
  const auto none = prompted(text, offload());
  EXPECT_EQ(none.index(0, 0).indexed(), (prompt / 4 - 2) / 8 * 8 * 4);
  EXPECT_EQ(none.index(0, 0).outliers().size(), 0U);
  auto options = offload();
  options.retrieval.budget = 1024;
  const auto many = prompted(text, options, 1300);
  EXPECT_EQ(many.index(0, 1).indexed(), (1300 / 4 - 2) / 8 * 8 * 4);
  EXPECT_EQ(many.index(0, 1).outliers().size(), 24U);
}

TEST(ShadowKVOffload, HitsOfTheLastQueryKeepExactKeys) {
  Text text(shape, prompt + 4, 20);
  const auto ask_again = [&](std::size_t t) {
    std::copy_n(text.queries.begin() + (prompt - 1) * 64, 64, text.queries.begin() + static_cast<std::ptrdiff_t>(t * 64));
  };
  ask_again(prompt);
  for (std::size_t i = 0; i < 64; ++i) { text.queries[(prompt + 1) * 64 + i] *= -1.0F; }
  ask_again(prompt + 2);
  auto cache = prompted(text, offload());
  const auto first = chosen_chunks(cache, text, prompt - 1, 0);
  EXPECT_EQ(first.size(), 6U);
  const auto exact = [&](std::size_t chunk) {
    std::vector<float> key(16);
    std::vector<float> value(16);
    cache.read(0, 0, chunk * 4, key.data(), value.data());
    return std::equal(key.begin(), key.end(), text.keys.begin() + static_cast<std::ptrdiff_t>(chunk * 4 * 32));
  };
  for (std::size_t chunk = 0; chunk < cache.index(0, 0).indexed() / 4; ++chunk) { EXPECT_EQ(exact(chunk), first.contains(chunk)); }
  expect_outputs(cache, text, prompt, prompt + 1);
  EXPECT_EQ(cache.fetched(), 0U) << "all of them hits";
  for (const std::size_t chunk : first) { EXPECT_TRUE(exact(chunk)); }
  const auto second = chosen_chunks(cache, text, prompt + 1, 0);
  expect_outputs(cache, text, prompt + 1, prompt + 3);  // other chunks, then the first ones again
  std::size_t lost = 0;
  for (const std::size_t chunk : first) {
    EXPECT_EQ(exact(chunk), second.contains(chunk)) << "exact only while it keeps hitting";
    lost += exact(chunk) ? 0U : 1U;
  }
  EXPECT_GT(lost, 0U);
}

TEST(ShadowKVOffload, AnAttendedQueryCannotBeTakenBack) {
  const Text text(shape, prompt + 8, 21);
  auto options = offload();
  options.speculation = 8;
  auto cache = prompted(text, options);
  cache.append(0, text.key_rows(prompt, 4), text.value_rows(prompt, 4));
  cache.truncate(prompt + 2);  // nothing was attended
  EXPECT_EQ(cache.tokens(0), prompt + 2);
  static_cast<void>(attend(cache, text, prompt + 2, 2));
  expect_error(ErrorCode::phase, {"truncate: position is 151", "must be at least 152"}, [&] { cache.truncate(prompt + 1); });
  auto plain = prompted(text, small_options<Shadow>());
  static_cast<void>(step(plain, text, prompt, 4));
  EXPECT_NO_THROW(plain.truncate(prompt + 1)) << "the accuracy class";
}

TEST(ShadowKVOffload, ThePromptNeedsItsLastQuery) {
  const Text text(shape, prompt, 22);
  KVCache<Shadow> cache(shape, offload());
  cache.append(0, text.key_rows(0, prompt), text.value_rows(0, prompt));
  expect_error(ErrorCode::phase, {"end_prompt", "landmarks needs the last queries"}, [&] { cache.end_prompt(0); });
  static_cast<void>(attend(cache, text, prompt, 1));
  EXPECT_NO_THROW(cache.end_prompt(0));
}

}  // namespace
