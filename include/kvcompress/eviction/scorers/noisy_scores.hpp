// include/kvcompress/eviction/scorers/noisy_scores.hpp - what NoisyAttention remembers of a lane.
// SPDX-License-Identifier: MIT
#pragma once

#include <type_traits>

#include "kvcompress/core/row_scores.hpp"
#include "kvcompress/core/site.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Scores, and where in the text the next query stands.
template <class Noise>
class NoisyScores : public RowScores {
 public:
  NoisyScores(std::size_t seed, const Site& site, const Memory& memory)
      : RowScores(1, memory), noise(seed, site), weights(Allocator<float>(memory)) {}
  void reserve(std::size_t rows) {
    RowScores::reserve(rows);
    if (weights.capacity() < rows) { weights.reserve(std::max(rows, 2 * weights.capacity())); }
  }
  void resize(std::size_t rows) {
    RowScores::resize(rows);
    weights.resize(rows);
  }
  void erase(std::size_t first, std::size_t count) noexcept {
    RowScores::erase(first, count);
    weights.resize(weights.size() - count);
  }
  void compact(std::size_t slack) {
    RowScores::compact(slack);
    RowTable::compact_vector(weights, slack);
  }
  void account(MemoryReport& report) const noexcept {
    RowScores::account(report);
    report.add(&MemoryReport::policy_state, weights);
  }
  static void persist(auto& self, auto& archive, std::size_t rows) {
    RowScores::persist(self, archive, rows);
    archive.number(self.queries);
    archive.number(self.tokens);
    archive.number(self.in_prompt);
    if constexpr (std::remove_reference_t<decltype(archive)>::reads) { self.weights.resize(rows); }
  }

  Noise noise;
  Vector<float> weights;    // of one query
  std::size_t queries = 0;  // of all query heads
  std::size_t tokens = 0;   // after the first prompt
  bool in_prompt = true;
};

}  // namespace kvcompress
