// tests/policies/rebuilding_test.cpp - an eviction over KIVI's codes: bytes stay near those of live rows, and what rebuilding adds in error.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <cstdio>
#include <map>
#include <string>

#include "kvcompress/policies/h2o.hpp"
#include "kvcompress/policies/kivi.hpp"
#include "kvcompress/policies/streaming_llm.hpp"
#include "support/random_rows.hpp"

namespace rebuilding_test {

using namespace kvcompress;
using namespace kvcompress::test;

const Shape shape{.query_heads = 1, .kv_heads = 1, .head_dim = 64};

/// Codes, scales and exact rows of a lane: what its rows take without the unused rest of blocks.
template <class Cache>
std::size_t row_bytes(const Cache& cache) {
  MemoryReport report;
  cache.keys(0, 0).account(report);
  cache.values(0, 0).account(report);
  return report.codes + report.scales + report.exact_rows;
}

/// Bytes of a KIVI cache that holds `rows` rows and nothing else.
template <class Storage>
std::size_t bytes_of_rows(std::size_t rows) {
  const Text text(shape, rows, 1);
  KVCache<Storage> cache(shape);
  cache.append(0, text.key_rows(0, rows), text.value_rows(0, rows));
  cache.end_prompt(0);
  return row_bytes(cache);
}

struct Measured {
  double worst_ratio = 0.0;  // bytes over those of a cache that holds only the live rows
  std::size_t rebuilds = 0;
  double plain = 0.0;    // relative error of decoded keys: of all rows under KIVI alone
  double evicted = 0.0;  // of the live encoded rows under the eviction
  double oldest = 0.0;   // of the older half of those
};

double relative_error(const auto& store, const RowTable* table, const Text& text, Position before) {
  std::vector<float> row(64);
  double error = 0.0;
  double size = 0.0;
  for (std::size_t r = 0; r < store.settled(); ++r) {
    const Position position = table != nullptr ? table->position(r) : static_cast<Position>(r);
    if ((table != nullptr && !table->alive(r)) || position >= before) { continue; }
    store.read(r, row.data());
    for (std::size_t c = 0; c < 64; ++c) {
      const double x = static_cast<double>(text.keys[position * 64 + c]);
      error += (static_cast<double>(row[c]) - x) * (static_cast<double>(row[c]) - x);
      size += x * x;
    }
  }
  return std::sqrt(error / size);
}

/// Decodes `tokens` tokens under an eviction over KIVI, and compares with KIVI alone.
template <class Evict, class Storage>
Measured measure(std::size_t tokens, const PolicyOptions<Combine<Evict, Storage>>& options) {
  const Text text(shape, tokens, 2);
  KVCache<Combine<Evict, Storage>> cache(shape, options);
  Measured result;
  std::map<std::size_t, std::size_t> alone;
  std::size_t settled = 0;
  for (std::size_t t = 0; t < tokens; ++t) {
    static_cast<void>(step(cache, text, t, 1));
    t == 0 ? cache.end_prompt(0) : cache.commit(0);
    const RowTable& table = cache.table(0, 0);
    const std::size_t now = cache.keys(0, 0).settled();
    result.rebuilds += now < settled && (settled - now) % 128 != 0 ? 1U : 0U;
    settled = now;
    const std::size_t rows = table.live();
    if (!alone.contains(rows)) { alone[rows] = bytes_of_rows<Storage>(rows); }
    result.worst_ratio = std::max(result.worst_ratio, static_cast<double>(row_bytes(cache)) / static_cast<double>(alone[rows]));
  }
  KVCache<Storage> plain(shape);
  plain.append(0, text.key_rows(0, tokens), text.value_rows(0, tokens));
  plain.end_prompt(0);
  const auto kept = cache.kept(0, 0);
  result.plain = relative_error(plain.keys(0, 0), nullptr, text, static_cast<Position>(tokens));
  result.evicted = relative_error(cache.keys(0, 0), &cache.table(0, 0), text, static_cast<Position>(tokens));
  result.oldest = relative_error(cache.keys(0, 0), &cache.table(0, 0), text, kept[kept.size() / 2]);
  return result;
}

void report(const char* name, const Measured& m) {
  std::printf("%s: bytes %.2f x live rows at worst, %zu rebuilds, relative key error %.4f alone, %.4f rebuilt, %.4f older half\n", name,
              m.worst_ratio, m.rebuilds, m.plain, m.evicted, m.oldest);
}

TEST(Rebuilding, BytesOfH2OOverKiviStayWithinTwiceThoseOfLiveRowsAndErrorsGrowLittle) {
  for (const std::size_t budget : {64U, 256U}) {
    const Measured two = measure<H2O, Kivi<2, 32, 32>>(2400, {.eviction = {.budget = budget}});
    const Measured four = measure<H2O, Kivi<4, 32, 32>>(2400, {.eviction = {.budget = budget}});
    report("h2o+kivi2", two);
    report("h2o+kivi4", four);
    for (const Measured& m : {two, four}) {
      EXPECT_LE(m.worst_ratio, 2.0);
      EXPECT_GE(m.rebuilds, 10U);
      EXPECT_LE(m.evicted, 1.3 * m.plain);
      EXPECT_LE(m.oldest, 1.4 * m.plain);
    }
    RecordProperty("kivi2_relative_key_error_rebuilt_budget_" + std::to_string(budget), std::to_string(two.evicted));
    RecordProperty("kivi2_relative_key_error_alone_budget_" + std::to_string(budget), std::to_string(two.plain));
    RecordProperty("kivi4_relative_key_error_rebuilt_budget_" + std::to_string(budget), std::to_string(four.evicted));
    RecordProperty("kivi4_relative_key_error_alone_budget_" + std::to_string(budget), std::to_string(four.plain));
  }
}

TEST(Rebuilding, BytesOfStreamingLLMOverKiviStayWithinTwiceThoseOfLiveRows) {
  for (const std::size_t window : {60U, 300U}) {  // a short window rebuilds its sinks often
    const Measured four = measure<StreamingLLM, Kivi<4, 32, 32>>(2400, {.eviction = {.sinks = 4, .window = window}});
    report("streaming+kivi4", four);
    EXPECT_LE(four.worst_ratio, 2.0);
  }
}

TEST(Rebuilding, ValuesAreMovedNotEncodedAnew) {
  const Text text(shape, 600, 3);
  using P = Combine<H2O, Kivi<4, 32, 32>>;
  KVCache<P> cache(shape, {.eviction = {.budget = 64}});
  KVCache<Kivi<4, 32, 32>> alone(shape);
  static_cast<void>(run(cache, text, 100, 600));
  static_cast<void>(run(alone, text, 100, 600));
  std::vector<float> ours(64);
  std::vector<float> theirs(64);
  std::size_t compared = 0;
  for (std::size_t r = 0; r < cache.values(0, 0).settled(); ++r) {
    if (!cache.table(0, 0).alive(r)) { continue; }
    cache.values(0, 0).read(r, ours.data());
    alone.values(0, 0).read(cache.table(0, 0).position(r), theirs.data());
    ASSERT_EQ(ours, theirs) << "row " << r;
    ++compared;
  }
  EXPECT_GE(compared, 20U);
}

}  // namespace rebuilding_test
