// examples/compare_policies/measurement.hpp - what one policy did on one item, and how such measurements become the table's rows.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "compare_policies/items.hpp"
#include "compare_policies/metrics.hpp"
#include "compare_policies/results.hpp"

namespace comparison {

/// What one policy did on one item.
struct Measurement {
  Agreement agreement;
  std::size_t bytes = 0;  // without the slow tier
  std::size_t bytes_after_prompt = 0;
  std::size_t slow_bytes = 0;
  std::size_t fetched_bytes = 0;
  std::size_t peak_bytes = 0;
  double bits_per_value = 0.0;
  double compress_seconds = 0.0;  // append, observe, end_prompt
  double decode_seconds = 0.0;
  double cache_seconds = 0.0;       // the part of decode_seconds spent in the cache
  std::vector<bool> right;          // by question
  std::vector<double> turns;        // right answers by turn, over the conversations
  std::vector<double> layer_bytes;  // empty where the engine does not tell
};

/// Adds up a policy's measurements, in the order of the text.
inline Row row_of(const Setup& setup, const std::vector<Item>& items, std::size_t window_count,
                  const std::vector<std::vector<Measurement>>& measured, std::size_t policy, double exact_perplexity) {
  Agreement agreement;
  Row row;
  row.policy = setup.policies[policy];
  const auto windows = static_cast<double>(window_count);
  const double prompt_tokens = windows * static_cast<double>(setup.context / 2);
  const double decoded = windows * static_cast<double>(setup.context - setup.context / 2);
  double prompt_seconds = 0.0;
  double decode_seconds = 0.0;
  double cache_seconds = 0.0;
  for (std::size_t i = 0; i < items.size(); ++i) {
    const Measurement& m = measured[i][policy];
    if (items[i].kind == Item::Kind::inside) {
      row.inside_by_depth.resize(std::max(row.inside_by_depth.size(), items[i].needle + 1));
      row.inside_by_depth[items[i].needle] += !m.right.empty() && m.right.front() ? 1.0 / windows : 0.0;
      continue;
    }
    row.right_by_turn.resize(std::max(row.right_by_turn.size(), m.turns.size()));
    for (std::size_t turn = 0; turn < m.turns.size(); ++turn) { row.right_by_turn[turn] += m.turns[turn] / windows; }
    row.needles_asked += items[i].questions.size();
    row.needles_by_depth.resize(std::max(row.needles_by_depth.size(), m.right.size()));
    for (std::size_t depth = 0; depth < m.right.size(); ++depth) {
      row.needles_right += m.right[depth] ? 1U : 0U;
      row.needles_by_depth[depth] += m.right[depth] ? 1.0 / windows : 0.0;
    }
    if (i >= window_count) { continue; }
    row.layer_bytes.resize(m.layer_bytes.size());
    for (std::size_t layer = 0; layer < m.layer_bytes.size(); ++layer) { row.layer_bytes[layer] += m.layer_bytes[layer] / windows; }
    agreement.add(m.agreement);
    row.bytes += static_cast<double>(m.bytes) / windows;
    row.bytes_after_prompt += static_cast<double>(m.bytes_after_prompt) / windows;
    row.bits_per_value += m.bits_per_value / windows;
    row.slow_bytes += static_cast<double>(m.slow_bytes) / windows;
    row.fetched_per_token += static_cast<double>(m.fetched_bytes) / decoded;
    row.peak_bytes = std::max(row.peak_bytes, m.peak_bytes);
    prompt_seconds += items[i].prompt_seconds + m.compress_seconds;
    decode_seconds += m.decode_seconds;
    cache_seconds += m.cache_seconds;
  }
  row.perplexity = agreement.perplexity();
  row.perplexity_ratio = row.perplexity / exact_perplexity;
  row.kl = agreement.mean_kl();
  row.top1_agreement = agreement.top1();
  row.prompt_tokens_per_s = prompt_tokens / prompt_seconds;
  row.decode_tokens_per_s = decoded / decode_seconds;
  row.cache_us_per_token = 1e6 * cache_seconds / decoded;
  return row;
}

/// All rows, the first of which is full's; `measured` by item and policy, `exact` the reference's own loss.
inline Comparison summary(const Setup& setup, const std::vector<Item>& items, std::size_t windows,
                          const std::vector<std::vector<Measurement>>& measured, const Agreement& exact) {
  Comparison result;
  result.setup = setup;
  result.exact_perplexity = exact.perplexity();
  result.windows = windows;
  result.scored_tokens = exact.tokens;
  result.needle_prompts = static_cast<std::size_t>(
      std::count_if(items.begin(), items.end(), [](const Item& item) { return item.kind == Item::Kind::haystack; }));
  for (std::size_t i = windows; i < items.size(); ++i) { result.needle_tokens = std::max(result.needle_tokens, items[i].tokens.size()); }
  for (std::size_t p = 0; p < setup.policies.size(); ++p) {
    result.rows.push_back(row_of(setup, items, windows, measured, p, result.exact_perplexity));
  }
  const Row& full = result.rows.front();
  for (Row& r : result.rows) {
    r.fraction_of_f16 = r.bytes / full.bytes;
    r.fraction_after_prompt = r.bytes_after_prompt / full.bytes_after_prompt;
  }
  return result;
}

}  // namespace comparison
