// tests/retrieval/shadowkv_test.cpp - ShadowKV: what is read and fetched, the slow tier, folding in, the offload class, refusals.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <Eigen/Eigenvalues>
#include <numeric>

#include "kvcompress/policies/full.hpp"
#include "kvcompress/policies/streaming_llm.hpp"
#include "support/landmark_reading.hpp"
#include "support/slow_files.hpp"

namespace shadowkv_test {

using namespace kvcompress;
using namespace kvcompress::test;
using namespace kvcompress::test::landmarks;

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
      const bool outlier =
          std::any_of(state.outliers().begin(), state.outliers().end(), [&](RowRange r) { return row >= r.first && row < r.last; });
      EXPECT_TRUE(std::equal(value.begin(), value.end(), text.values.begin() + static_cast<std::ptrdiff_t>((row * 2 + lane) * 16)));
      EXPECT_EQ(std::equal(key.begin(), key.end(), text.keys.begin() + static_cast<std::ptrdiff_t>((row * 2 + lane) * 16)),
                outlier || row >= state.indexed());
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
      for (std::size_t c = 0; c < 16; ++c) {
        ASSERT_NEAR(static_cast<double>(key[c]), expected(index(row), index(lane * 16 + c)), 1e-5) << "row " << row;
      }
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

TEST(ShadowKV, BytesAreSaidBeforehand) {
  const Text text(shape, 420, 31);
  const auto options = small_options<Shadow>(64);
  auto cache = prompted(text, options, 400);
  const std::size_t before = cache.memory().total() - cache.memory().scratch;
  static_cast<void>(step(cache, text, 400, 1));
  const std::size_t held = cache.memory().total() - cache.memory().scratch;
  EXPECT_GT(held, before) << "chosen rows are at hand now";
  EXPECT_NEAR(static_cast<double>(KVCache<Shadow>::bytes_for(shape, 400, options)) / static_cast<double>(held), 1.0, 0.15);
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

TEST(ShadowKV, OpenFilesDoNotGrowWithTheContext) {
  const Text text(shape, prompt + 400, 20);
  const Directory directory;
  auto options = small_options<Shadow>();
  options.retrieval.fold_in = 4;
  auto ram = prompted(text, options);
  options.storage.slow.directory = directory.path();
  auto file = prompted(text, options);
  for (std::size_t t = prompt; t < prompt + 380; ++t) { ASSERT_TRUE(step(ram, text, t, 1) == step(file, text, t, 1)) << t; }
  EXPECT_EQ(descriptors(directory.path()).size(), 1U) << "a file per layer";
  {
    KVCache<Shadow> fork = file.fork();
    for (std::size_t t = prompt + 380; t < prompt + 400; ++t) {  // both go on in the same file
      const Outputs right = step(ram, text, t, 1);
      ASSERT_TRUE(right == step(file, text, t, 1)) << t;
      ASSERT_TRUE(right == step(fork, text, t, 1)) << t;
    }
    EXPECT_EQ(descriptors(directory.path()).size(), 1U);
    const KVCache<Shadow> copy(file);
    EXPECT_EQ(descriptors(directory.path()).size(), 2U) << "a deep copy has a file of its own";
    EXPECT_EQ(copy.memory().slow_file, file.memory().slow_file);
  }
  EXPECT_EQ(descriptors(directory.path()).size(), 1U);
  file.clear();
  EXPECT_EQ(descriptors(directory.path()).size(), 0U);
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
  expect_error(ErrorCode::option, {"sink_window", "in_cache_positions is true", "must be false", "landmarks"},
               [] { const KVCache<P> cache(shape); });
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

}  // namespace shadowkv_test
