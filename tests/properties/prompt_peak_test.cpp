// tests/properties/prompt_peak_test.cpp - what a long prompt in chunks takes at its peak: all of it exact, or budget + chunk.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include "support/counting_memory.hpp"
#include "support/policies.hpp"

namespace prompt_peak_test {

using namespace kvcompress;
using namespace kvcompress::test;

const Shape lane{.query_heads = 1, .kv_heads = 1, .head_dim = 64};
constexpr std::size_t chunk = 128;
constexpr std::size_t budget = 256;
constexpr std::size_t row_bytes = 64 * 2;  // one key or value in half

struct Peak {
  std::size_t bytes = 0;
  std::size_t scratch = 0;  // largest report of scratch
  Outputs out{};
};

/// Feeds the whole text as a prompt in chunks and reports the handle's high-water mark.
template <class P>
Peak feed(const Text& text, const PolicyOptions<P>& options, std::size_t chunk_tokens, bool end_each_chunk) {
  CountingMemory memory;
  Peak peak;
  peak.out.resize(text.tokens * text.output_width());
  KVCache<P> cache(lane, options, memory.handle());
  for (std::size_t first = 0; first < text.tokens; first += chunk_tokens) {
    cache.append(0, text.key_rows(first, chunk_tokens), text.value_rows(first, chunk_tokens));
    cache.attend(0, text.query_rows(first, chunk_tokens), Output::tokens_first(peak.out.data() + first * 64, chunk_tokens, 1, 64));
    if (end_each_chunk) { cache.end_prompt(0); }
    peak.scratch = std::max(peak.scratch, cache.memory().scratch);
  }
  if (!end_each_chunk) { cache.end_prompt(0); }
  peak.bytes = memory.peak;
  return peak;
}

/// Bytes of `rows` keys and as many values in blocks of 32, and one spare block each.
constexpr std::size_t exact_bytes(std::size_t rows) { return 2 * ((rows + 31) / 32 + 1) * (32 * row_bytes + 4); }
/// Tables of blocks (8 bytes), positions, slots and scores (4 bytes each), which double and are copied when they grow: three times their
/// entries at most; and the lane itself.
constexpr std::size_t table_bytes(std::size_t rows) { return 3 * (2 * (rows / 32 + 2) * 8 + rows * 3 * 4) + 2048; }

template <class P>
void expect_bounded(const PolicyOptions<P>& options) {
  const Text text(lane, 2048, 51);
  const Peak chunked = feed<P>(text, options, chunk, true);
  const Peak once = feed<P>(text, options, chunk, false);
  const Text shorter(lane, 1024, 51);
  // In the chunked prompt: budget + chunk rows, twice the scratch (a buffer and its successor), tables. Nothing grows with the text.
  EXPECT_LE(chunked.bytes, exact_bytes(budget + chunk) + 2 * chunked.scratch + table_bytes(budget + chunk));
  EXPECT_EQ(chunked.bytes, feed<P>(shorter, options, chunk, true).bytes);
  // Ended once: every row is there, exactly.
  EXPECT_GE(once.bytes, 2 * text.tokens * row_bytes);
  EXPECT_LE(once.bytes, exact_bytes(text.tokens + chunk) + 2 * once.scratch + table_bytes(text.tokens));
  EXPECT_TRUE(once.out == feed<Full<half>>(text, {}, text.tokens, false).out) << "outputs are not those of the uncompressed cache";
  EXPECT_TRUE(feed<P>(text, options, 512, false).out == once.out) << "outputs depend on the chunks";
  std::printf("peak: ended per chunk %zu bytes, ended once %zu bytes, budget rows %zu bytes\n", chunked.bytes, once.bytes,
              2 * budget * row_bytes);
}

TEST(PromptPeak, StreamingLLMStaysWithinBudgetAndChunk) { expect_bounded<StreamingLLM>({.eviction = {.sinks = 4, .window = budget - 4}}); }

TEST(PromptPeak, H2OStaysWithinBudgetAndChunk) { expect_bounded<H2O>({.eviction = {.budget = budget}}); }

TEST(PromptPeak, KiviStaysWithinCompressedSizeAndChunk) {
  using P = Kivi<2, 32, 128>;
  const Text text(lane, 2048, 52);
  const Peak chunked = feed<P>(text, {}, chunk, true);
  const Peak once = feed<P>(text, {}, chunk, false);
  // Blocks of 128 encoded rows at 2 bits and 32/32 bits of scale; exact: a chunk, the values' residual of 128, in blocks of 16.
  const std::size_t block = 128 * 64 * 3 / 8 + 4;
  const std::size_t encoded = 2 * (text.tokens / 128 + 1) * block;
  const std::size_t exact = ((chunk / 16 + 2) + ((chunk + 128) / 16 + 2)) * (16 * row_bytes + 4);
  EXPECT_LE(chunked.bytes, encoded + exact + 2 * chunked.scratch + 3 * 8 * 2 * (text.tokens / 128 + 20) + 2048);
  EXPECT_GE(once.bytes, 2 * text.tokens * row_bytes);
  EXPECT_LE(once.bytes, exact_bytes(text.tokens) + encoded + 2 * once.scratch + table_bytes(text.tokens) + (text.tokens / 8) * 4);
  EXPECT_LT(2 * chunked.bytes, once.bytes);
  EXPECT_TRUE(once.out == feed<Full<half>>(text, {}, text.tokens, false).out) << "outputs are not those of the uncompressed cache";
  EXPECT_TRUE(feed<P>(text, {}, 512, false).out == once.out) << "outputs depend on the chunks";
  std::printf("peak: ended per chunk %zu bytes, ended once %zu bytes, encoded %zu bytes\n", chunked.bytes, once.bytes, encoded);
}

}  // namespace prompt_peak_test
