// bench/cost/cost.hpp - an eviction whose cost is measured, and caches that it decides over.
// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "kvcompress/any/any_cache.hpp"
#include "runner/data.hpp"

namespace bench {

/// What a part of the work may take of the attention beside it.
inline constexpr double cost_target = 0.05;

/// An eviction over f16, or SnapKV with an allocator behind it. Those that share a budget among layers have four; what is measured is per layer.
struct Evicting {
  std::string name;
  std::string spec;
  kvcompress::Needs needs{};
  std::size_t layers = 1;
  std::size_t prompt = 16384;  ///< tokens of the prompt whose end is measured
  std::size_t budget = 0;      ///< rows per lane, in the mean over the lanes; 0: as many as the text makes of them
  bool keeps_prompts = false;  ///< and decides only among more rows

  [[nodiscard]] kvcompress::Shape shape(const Case& c) const {
    return {.layers = layers, .query_heads = c.query_heads, .kv_heads = c.kv_heads, .head_dim = c.head_dim};
  }
  /// The layer that decodes: none that an allocator leaves whole because it is the first or the last.
  [[nodiscard]] std::size_t decoding_layer() const { return layers / 2; }
};

/// Every eviction of the registry, and every allocator behind SnapKV.
std::vector<Evicting> evicting();

/// A prompt that has not ended, and what showing queries to the eviction took besides attention.
struct OpenPrompt {
  kvcompress::AnyCache cache;
  double seconds_of_queries = 0.0;  ///< per layer, of all queries, where the eviction has them themselves
};
/// Appends the prompt in chunks and shows what the eviction asks for: nothing, the last `shown_queries`, or all.
OpenPrompt open_prompt(const Evicting& which, const Data& data);
inline constexpr std::size_t shown_queries = 64;

/// Rows that are there in a layer, in the mean over its KV heads.
double rows_of(const kvcompress::AnyCache& cache, std::size_t layer);

/// Why the rows that are left are not what the eviction may keep, after `decoded` more tokens in the decoding layer; empty: they are.
std::string wrong_rows(const Evicting& which, const kvcompress::AnyCache& cache, std::size_t prompt, std::size_t decoded);

/// Queries of the newest tokens look at a layer.
class Attention {
 public:
  Attention(const kvcompress::Shape& shape, const Data& data, std::size_t first, std::size_t count);
  void operator()(kvcompress::AnyCache& cache, std::size_t layer, kvcompress::Record record = kvcompress::Record::usual);
  /// The same at other queries, of as many tokens.
  void look(const float* queries) { queries_of_ = queries; }
  [[nodiscard]] std::span<const float> output() const { return output_; }

 private:
  Case case_;
  std::size_t count_;
  std::vector<float> queries_;
  const float* queries_of_;
  std::vector<float> output_;
  kvcompress::Workspace workspace_;
};

/// Seconds of one call.
template <class Function>
double seconds_of(Function&& function) {
  const auto start = std::chrono::steady_clock::now();
  function();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace bench
