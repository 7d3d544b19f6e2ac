// tests/conformance/chunks_test.cpp - evictions that choose by chunks of neighbouring rows against the official implementations.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include "kvcompress/eviction/scorers/in_chunks.hpp"
#include "kvcompress/eviction/scorers/key_difference.hpp"
#include "kvcompress/eviction/selectors/best_of_each_chunk.hpp"
#include "kvcompress/eviction/selectors/gated_chunks.hpp"
#include "kvcompress/policies/chunkkv.hpp"
#include "support/eviction_cases.hpp"

namespace chunks_test {

using namespace kvcompress;
using conformance::Case;
using conformance::prompt;
using conformance::Watched;
using test::HeadArray;

/// SnapKV's scores, the same rows in all heads.
template <class X>
void chunks_of_a_window(const Case& one, std::size_t budget, const typename X::Options& selector) {
  using S = Watched<InLayer<WindowAttention>>;
  const auto inner = one.get<nlohmann::json>("inner");
  if (inner.at("method") != "snapkv") {
    throw conformance::NotCovered(one.path() + ": scores of " + inner.at("method").get<std::string>());
  }
  const HeadArray q(one.array("q_postrope"));
  const HeadArray k(one.array("k_postrope"));
  const auto window = inner.at("window").get<std::size_t>();
  const auto cache = prompt<InLayer<WindowAttention>, Evict<S, Uniform, X>>(
      q, k, k,
      {.budget = budget,
       .scorer = {.window = window, .kernel = inner.at("kernel").get<std::size_t>(), .pooling = Pooling::average},
       .selector = selector});
  const conformance::Members official = conformance::members(one.array("kept_idx").values);
  for (std::size_t head = 0; head < k.heads; ++head) {
    EXPECT_EQ(conformance::members(cache.kept(0, head)), official) << one.path() << " head " << head;
  }
  const auto scores = conformance::matrix(one.array("inner_score"));
  double worst = 0.0;  // of the sum over the heads
  for (std::size_t row = 0; row + window < k.tokens; ++row) {
    worst = std::max(worst, std::abs(static_cast<double>(S::scores.back().at(row)) / static_cast<double>(window * q.heads / k.heads) -
                                     scores.col(static_cast<reference::Index>(row)).sum()));
  }
  conformance::expect_within(one, "scores", worst, 4e-8 * static_cast<double>(k.heads));
}

TEST(ChunkKV, ReproducesTheOfficialVectors) {
  conformance::run_cases("chunkkv", {{"chunks", [](const Case& one) {
                                        const double share = 1.0 - one.get<double>("compression_ratio");
                                        const auto budget = static_cast<std::size_t>(share * one.get<double>("tokens"));
                                        chunks_of_a_window<Chunks>(one, budget, {.length = one.get<std::size_t>("chunk_length")});
                                      }}});
}
TEST(EntropyGatedChunkKV, ReproducesTheOfficialVectors) {
  conformance::run_cases("eg_chunkkv", {{"chunks", [](const Case& one) {
                                           chunks_of_a_window<GatedChunks>(
                                               one, one.get<std::size_t>("n_kept"),
                                               {.length = one.get<std::size_t>("chunk_length"),
                                                .spiky_rows = one.get<std::size_t>("low_entropy_chunk_length")});
                                         }}});
}

void best_of_each_chunk(const Case& one) {
  using S = InChunks<KeyDifference>;
  if (one.get<nlohmann::json>("inner").at("method") != "keydiff") { throw conformance::NotCovered(one.path() + ": other scores"); }
  const HeadArray k(one.array("k_postrope"));
  const auto length = one.get<std::size_t>("chunk_length");
  const auto kept = conformance::matrix(one.array("kept_idx"));
  const auto cache = prompt<S, Evict<Watched<S>, Uniform, BestOfEachChunk>>(
      k, k, k, {.budget = static_cast<std::size_t>(kept.cols()), .scorer = {.length = length}, .selector = {.length = length}});
  conformance::expect_kept(
      one, cache, 0, k.heads, [](std::size_t head, std::size_t row) { return Watched<S>::scores.at(head).at(row); }, 0.0);
}
TEST(ChunkPress, ReproducesTheOfficialVectors) { conformance::run_cases("chunk_press", {{"chunkwise_selection", best_of_each_chunk}}); }

const conformance::Method chunkkv("chunkkv", {});
const conformance::Method eg_chunkkv("eg_chunkkv", {});
const conformance::Method chunk_press("chunk_press", {});

}  // namespace chunks_test
