// tests/c_api/c_api_test.cpp - the C interface does what the C++ one does, and says why it does not.
// SPDX-License-Identifier: MIT
#include "kvcompress/c_api.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "registry/registry.hpp"

namespace c_api_test {

struct Cache {
  explicit Cache(const char* policy, kvc_shape shape = kvc_shape_of(2, 4, 2, 16)) {
    EXPECT_EQ(kvc_create(policy, &shape, &cache), KVC_OK) << kvc_last_error();
  }
  ~Cache() { kvc_destroy(cache); }
  Cache(const Cache&) = delete;
  Cache& operator=(const Cache&) = delete;
  kvc_cache* cache = nullptr;
};
std::vector<float> numbers(std::size_t count, float seed) {
  std::vector<float> all(count);
  for (std::size_t i = 0; i < count; ++i) { all[i] = std::sin(seed + 0.37F * static_cast<float>(i)); }
  return all;
}
/// A prompt of 40 tokens and one more, through the C interface; the last output of layer 0.
std::vector<float> run(kvc_cache* cache) {
  const auto k = numbers(41 * 2 * 16, 1.0F);
  const auto v = numbers(41 * 2 * 16, 2.0F);
  const auto q = numbers(41 * 4 * 16, 3.0F);
  std::vector<float> out(40 * 4 * 16);
  for (std::size_t layer = 0; layer < 2; ++layer) {
    EXPECT_EQ(kvc_append(cache, layer, k.data(), v.data(), 40), KVC_OK) << kvc_last_error();
    EXPECT_EQ(kvc_attend(cache, layer, q.data(), 40, out.data(), nullptr), KVC_OK) << kvc_last_error();
    EXPECT_EQ(kvc_end_prompt(cache, layer), KVC_OK) << kvc_last_error();
    EXPECT_EQ(kvc_append(cache, layer, k.data() + 40 * 32, v.data() + 40 * 32, 1), KVC_OK) << kvc_last_error();
  }
  out.resize(4 * 16);
  EXPECT_EQ(kvc_attend(cache, 0, q.data() + 40 * 64, 1, out.data(), nullptr), KVC_OK) << kvc_last_error();
  return out;
}

TEST(CApi, GivesTheNumbersOfTheCppInterface) {
  const Cache c("h2o:budget=16+kivi4:residual=32");
  const std::vector<float> out = run(c.cache);

  auto cache = examples::registry().make("h2o:budget=16+kivi4:residual=32", {.layers = 2, .query_heads = 4, .kv_heads = 2, .head_dim = 16});
  const auto k = numbers(41 * 2 * 16, 1.0F);
  const auto v = numbers(41 * 2 * 16, 2.0F);
  const auto q = numbers(41 * 4 * 16, 3.0F);
  std::vector<float> expected(40 * 4 * 16);
  using namespace kvcompress;
  Workspace workspace(cache.shape());
  cache.append(0, Rows::tokens_first(k.data(), 40, 2, 16), Rows::tokens_first(v.data(), 40, 2, 16));
  cache.attend(0, Rows::tokens_first(q.data(), 40, 4, 16), Output::tokens_first(expected.data(), 40, 4, 16), workspace, {}, {});
  cache.end_prompt(0);
  cache.append(0, Rows::tokens_first(k.data() + 40 * 32, 1, 2, 16), Rows::tokens_first(v.data() + 40 * 32, 1, 2, 16));
  expected.resize(64);
  cache.attend(0, Rows::tokens_first(q.data() + 40 * 64, 1, 4, 16), Output::tokens_first(expected.data(), 1, 4, 16), workspace, {}, {});
  EXPECT_EQ(out, expected);

  std::size_t count = 0;
  std::vector<std::uint32_t> positions(3);
  ASSERT_EQ(kvc_kept(c.cache, 0, 1, positions.data(), positions.size(), &count), KVC_OK);
  const auto kept = cache.kept(0, 1);
  EXPECT_EQ(count, kept.size());
  EXPECT_EQ(positions, std::vector<std::uint32_t>(kept.begin(), kept.begin() + 3));
}

TEST(CApi, HeadsApartGiveTheSameNumbers) {
  const Cache whole("kivi4:residual=32");
  const Cache apart("kivi4:residual=32");
  const std::vector<float> expected = run(whole.cache);
  static_cast<void>(run(apart.cache));
  const auto q = numbers(41 * 4 * 16, 3.0F);
  std::vector<float> out(64);
  kvc_workspace* workspace = nullptr;
  ASSERT_EQ(kvc_workspace_create(apart.cache, &workspace), KVC_OK);
  for (std::size_t head = 0; head < 2; ++head) {
    ASSERT_EQ(kvc_attend_heads(apart.cache, 0, q.data() + 40 * 64, 1, out.data(), nullptr, head, head + 1, workspace), KVC_OK);
  }
  kvc_workspace_destroy(workspace);
  EXPECT_EQ(out, expected);
}

TEST(CApi, RowsMove) {
  const Cache c("kivi4:residual=32");
  static_cast<void>(run(c.cache));
  EXPECT_EQ(kvc_shift(c.cache, 30, UINT32_MAX, -20), KVC_PHASE);  // the last row is not committed
  for (std::size_t layer = 0; layer < 2; ++layer) { ASSERT_EQ(kvc_commit(c.cache, layer), KVC_OK); }
  EXPECT_EQ(kvc_shift(c.cache, 30, UINT32_MAX, -20), KVC_POSITION);  // other rows are there
  EXPECT_NE(std::string(kvc_last_error()).find("must pass no row"), std::string::npos);
  ASSERT_EQ(kvc_remove(c.cache, 4, 30), KVC_OK) << kvc_last_error();
  ASSERT_EQ(kvc_shift(c.cache, 30, UINT32_MAX, -26), KVC_OK) << kvc_last_error();
  std::size_t tokens = 0;
  ASSERT_EQ(kvc_tokens(c.cache, 1, &tokens), KVC_OK);
  EXPECT_EQ(tokens, 15U);
  std::vector<std::uint32_t> positions(15);
  std::size_t count = 0;
  ASSERT_EQ(kvc_kept(c.cache, 1, 0, positions.data(), positions.size(), &count), KVC_OK);
  EXPECT_EQ(count, 15U);
  for (std::uint32_t p = 0; p < 15; ++p) { EXPECT_EQ(positions[p], p); }
  EXPECT_EQ(kvc_shift(nullptr, 0, 1, 1), KVC_INPUT);
}

TEST(CApi, SinksTakePartInTheSoftmax) {
  const Cache c("full");
  const auto k = numbers(32, 1.0F);
  const auto v = numbers(32, 2.0F);
  const auto q = numbers(64, 3.0F);
  ASSERT_EQ(kvc_append(c.cache, 0, k.data(), v.data(), 1), KVC_OK);
  std::vector<float> without(64);
  std::vector<float> with(64);
  std::vector<float> log_sum_exp(4);
  const std::vector<float> sinks{-INFINITY, 0.0F, 1.0F, 2.0F};
  kvc_options options = kvc_options_default();
  options.log_sum_exp = log_sum_exp.data();
  ASSERT_EQ(kvc_attend(c.cache, 0, q.data(), 1, without.data(), &options), KVC_OK);
  options.sinks = sinks.data();
  options.log_sum_exp = nullptr;
  ASSERT_EQ(kvc_attend(c.cache, 0, q.data(), 1, with.data(), &options), KVC_OK);
  for (std::size_t head = 0; head < 4; ++head) {
    const float share = 1.0F / (1.0F + std::exp(sinks[head] - log_sum_exp[head]));
    for (std::size_t i = 0; i < 16; ++i) { EXPECT_NEAR(with[head * 16 + i], share * without[head * 16 + i], 1e-5F); }
  }
  const std::vector<float> wrong(4, NAN);
  options.sinks = wrong.data();
  EXPECT_NE(kvc_attend(c.cache, 0, q.data(), 1, with.data(), &options), KVC_OK);
}

TEST(CApi, ATreeOfDraftsIsAttendedAndItsPathKept) {
  const Cache tree("kivi4:residual=32");
  const Cache path("kivi4:residual=32");
  static_cast<void>(run(tree.cache));
  static_cast<void>(run(path.cache));
  const auto k = numbers(3 * 32, 6.0F);
  const auto v = numbers(3 * 32, 7.0F);
  const auto q = numbers(3 * 64, 8.0F);
  const std::vector<std::uint32_t> positions{41, 41, 42};
  const std::vector<std::uint64_t> bits{1, 2, 6};  // the third follows the second
  std::vector<float> out(3 * 64);
  std::vector<float> expected(2 * 64);
  kvc_options options = kvc_options_default();
  options.among_open = bits.data();
  options.among_open_words = 3;
  for (std::size_t layer = 0; layer < 2; ++layer) {
    ASSERT_EQ(kvc_append_positions(tree.cache, layer, k.data(), v.data(), 3, positions.data()), KVC_OK) << kvc_last_error();
    ASSERT_EQ(kvc_append(path.cache, layer, k.data() + 32, v.data() + 32, 2), KVC_OK);
    ASSERT_EQ(kvc_attend(tree.cache, layer, q.data(), 3, out.data(), &options), KVC_OK) << kvc_last_error();
    ASSERT_EQ(kvc_attend(path.cache, layer, q.data() + 64, 2, expected.data(), nullptr), KVC_OK);
    for (std::size_t i = 0; i < 128; ++i) { ASSERT_NEAR(out[64 + i], expected[i], 1e-5F); }
    EXPECT_EQ(kvc_commit(tree.cache, layer), KVC_PHASE);
    const std::vector<std::size_t> rows{1, 2};
    ASSERT_EQ(kvc_keep_open(tree.cache, layer, rows.data(), 2), KVC_OK) << kvc_last_error();
    ASSERT_EQ(kvc_commit(tree.cache, layer), KVC_OK);
  }
  std::size_t tokens = 0;
  ASSERT_EQ(kvc_tokens(tree.cache, 1, &tokens), KVC_OK);
  EXPECT_EQ(tokens, 43U);
  // Both see an image of two tokens in both directions.
  const std::vector<std::uint32_t> until{45, 45};
  options = kvc_options_default();
  options.until = until.data();
  for (const Cache* cache : {&tree, &path}) {
    ASSERT_EQ(kvc_append(cache->cache, 0, k.data(), v.data(), 2), KVC_OK);
    ASSERT_EQ(kvc_attend(cache->cache, 0, q.data(), 2, cache == &tree ? out.data() : expected.data(), &options), KVC_OK)
        << kvc_last_error();
  }
  for (std::size_t i = 0; i < 128; ++i) { ASSERT_NEAR(out[i], expected[i], 1e-5F); }
}

TEST(CApi, RowsAreReadBack) {
  const Cache c("h2o:budget=20+kivi4:residual=32");
  static_cast<void>(run(c.cache));
  std::size_t rows = 0;
  ASSERT_EQ(kvc_rows(c.cache, 0, 1, &rows), KVC_OK);
  ASSERT_GE(rows, 21U);
  std::vector<float> keys(rows * 16);
  std::vector<float> values(rows * 16);
  std::vector<std::uint16_t> half_keys(rows * 16);
  std::vector<std::uint32_t> positions(rows);
  ASSERT_EQ(kvc_read_rows(c.cache, 0, 1, 0, rows, KVC_AT_POSITION, keys.data(), values.data(), positions.data(), rows), KVC_OK);
  ASSERT_EQ(kvc_read_rows_f16(c.cache, 0, 1, 0, rows, KVC_AT_POSITION, half_keys.data(), nullptr, nullptr, rows), KVC_OK);
  const auto k = numbers(41 * 2 * 16, 1.0F);
  std::size_t live = 0;
  for (std::size_t row = 0; row < rows; ++row) {
    if (positions[row] == UINT32_MAX) { continue; }
    ++live;
    for (std::size_t i = 0; i < 16; ++i) { EXPECT_NEAR(keys[row * 16 + i], k[(positions[row] * 2 + 1) * 16 + i], 0.2F); }
    EXPECT_NE(half_keys[row * 16], 0);
  }
  EXPECT_EQ(live, 21U);
  EXPECT_EQ(kvc_read_rows(c.cache, 0, 1, 0, rows, KVC_AT_POSITION, keys.data(), nullptr, nullptr, rows - 1), KVC_INPUT);
  EXPECT_NE(std::string(kvc_last_error()).find("capacity is"), std::string::npos);
  EXPECT_EQ(kvc_read_rows(c.cache, 0, 1, 0, rows + 1, KVC_AT_POSITION, keys.data(), nullptr, nullptr, rows + 1), KVC_SHAPE);
}

TEST(CApi, APolicySaysWhatItDoesBeforeThereIsACache) {
  const kvc_shape shape = kvc_shape_of(2, 4, 2, 64);
  kvc_capabilities says;
  ASSERT_EQ(kvc_capabilities_of("h2o:budget=20+kivi4", &shape, &says), KVC_OK) << kvc_last_error();
  EXPECT_TRUE(says.evicts && says.observes_queries && says.needs_prompt_queries && says.encodes);
  EXPECT_FALSE(says.keeps_every_row || says.retrieves || says.offloads);
  EXPECT_EQ(says.truncates, KVC_TO_LAST_COMMIT);
  EXPECT_STREQ(says.shift_refused, "");
  EXPECT_STREQ(says.drafts_refused, "Options::speculation is 0: observed queries are counted at once");
  ASSERT_EQ(kvc_capabilities_of("full", &shape, &says), KVC_OK);
  EXPECT_EQ(says.truncates, KVC_ANYWHERE);
  EXPECT_NEAR(says.bytes_per_token, 1024.0, 2.0);
  std::size_t bytes = 0;
  ASSERT_EQ(kvc_bytes_for("full", &shape, 1024, &bytes), KVC_OK);
  EXPECT_NEAR(static_cast<double>(bytes), 1024.0 * says.bytes_per_token, 1.0);
  EXPECT_EQ(kvc_capabilities_of("h2o+quest", &shape, &says), KVC_OPTION);
  EXPECT_NE(std::string(kvc_last_error()).find("observes the probabilities of every row"), std::string::npos);
}

TEST(CApi, AFileHoldsAllOfACache) {
  const std::string path = (std::filesystem::temp_directory_path() / "kvcompress_c_api_test.cache").string();
  const Cache saved("kivi4:residual=32");
  static_cast<void>(run(saved.cache));
  ASSERT_EQ(kvc_save_file(saved.cache, path.c_str()), KVC_OK) << kvc_last_error();
  const Cache loaded("kivi4:residual=32");
  ASSERT_EQ(kvc_load_file(loaded.cache, path.c_str()), KVC_OK) << kvc_last_error();
  const auto q = numbers(64, 5.0F);
  std::vector<float> a(64);
  std::vector<float> b(64);
  ASSERT_EQ(kvc_attend(saved.cache, 1, q.data(), 1, a.data(), nullptr), KVC_OK);
  ASSERT_EQ(kvc_attend(loaded.cache, 1, q.data(), 1, b.data(), nullptr), KVC_OK);
  EXPECT_EQ(a, b);
  const Cache other("kivi2:residual=32");
  EXPECT_EQ(kvc_load_file(other.cache, path.c_str()), KVC_FORMAT);
  EXPECT_EQ(kvc_load_file(other.cache, "/no/such/file"), KVC_IO);
  EXPECT_EQ(kvc_save_file(other.cache, "/no/such/file"), KVC_IO);
  EXPECT_NE(std::string(kvc_last_error()).find("/no/such/file"), std::string::npos);
  std::filesystem::remove(path);
}

TEST(CApi, ErrorsAreStatusesAndSentences) {
  kvc_shape shape = kvc_shape_of(1, 4, 2, 16);
  kvc_cache* none = nullptr;
  EXPECT_EQ(kvc_create("nonsense", &shape, &none), KVC_OPTION);
  EXPECT_NE(std::string(kvc_last_error()).find("nonsense"), std::string::npos);
  EXPECT_EQ(kvc_create(nullptr, &shape, &none), KVC_INPUT);
  EXPECT_EQ(kvc_create("full", nullptr, &none), KVC_INPUT);
  EXPECT_EQ(kvc_create("full", &shape, nullptr), KVC_INPUT);
  shape.kv_heads = 3;
  EXPECT_EQ(kvc_create("full", &shape, &none), KVC_SHAPE);
  EXPECT_EQ(none, nullptr);

  const Cache c("full");
  const auto row = numbers(64, 1.0F);
  std::vector<float> out(64);
  EXPECT_EQ(kvc_append(nullptr, 0, row.data(), row.data(), 1), KVC_INPUT);
  EXPECT_EQ(kvc_append(c.cache, 7, row.data(), row.data(), 1), KVC_SHAPE);
  EXPECT_EQ(kvc_append(c.cache, 0, nullptr, row.data(), 1), KVC_INPUT);
  EXPECT_EQ(kvc_attend(c.cache, 0, row.data(), 1, out.data(), nullptr), KVC_PHASE);
  EXPECT_EQ(kvc_append(c.cache, 0, row.data(), row.data(), 1), KVC_OK);
  EXPECT_EQ(kvc_attend(c.cache, 0, row.data(), 1, nullptr, nullptr), KVC_INPUT);
  EXPECT_EQ(kvc_append_at(c.cache, 0, row.data(), row.data(), 1, 0), KVC_POSITION);
  kvc_options options = kvc_options_default();
  options.scale = NAN;
  EXPECT_NE(kvc_attend(c.cache, 0, row.data(), 1, out.data(), &options), KVC_OK);
  EXPECT_EQ(kvc_attend_heads(c.cache, 0, row.data(), 1, out.data(), nullptr, 0, 1, nullptr), KVC_INPUT);
  EXPECT_EQ(kvc_tokens(c.cache, 0, nullptr), KVC_INPUT);
  std::size_t tokens = 0;
  EXPECT_EQ(kvc_tokens(c.cache, 0, &tokens), KVC_OK);
  EXPECT_EQ(tokens, 1U);
}

}  // namespace c_api_test
