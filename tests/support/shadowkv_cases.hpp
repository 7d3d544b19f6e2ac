// tests/support/shadowkv_cases.hpp - official vectors of ShadowKV: parameters, inputs, results.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "support/kept_sets.hpp"

namespace kvcompress::conformance {

/// A layout of fast memory, as in params.json.
struct ShadowKVPlaces {
  std::size_t prompt = 0;
  std::size_t context_chunks = 0;
  std::size_t local_tokens = 0;
  std::size_t outlier_chunks = 0;
  std::size_t selected_chunks = 0;
  std::size_t sparse_start = 0;
  std::size_t sparse_end = 0;
};

/// What all kinds have in common.
struct ShadowKVParameters {
  std::size_t sparse_tokens = 0;
  std::size_t chunk = 8;
  std::size_t rank = 160;
  std::size_t local_chunks = 4;
  ShadowKVPlaces layout{};
  reference::Rope rope{};
};

/// Chunks or tokens of a step or case for each KV head, ascending.
using Sets = std::vector<reference::Rows>;

/// A case of kind "decode": a prompt, then one token per step. Expected arrays are empty (no shape) where the
/// case has none.
struct ShadowKVDecodeCase {
  ShadowKVParameters of{};
  std::size_t steps = 0;

  npy::Array queries{};       // (query heads, tokens, dim), rotated
  npy::Array keys{};          // (KV heads, tokens, dim), not rotated
  npy::Array keys_rotated{};  // the same, as the official code rotated them
  npy::Array values{};        // (KV heads, tokens, dim)

  npy::Array low_rank_keys{};    // (KV heads, prompt, dim), not rotated
  npy::Array singular_values{};  // (rank)
  npy::Array landmarks{};        // (KV heads, candidates, dim)
  npy::Array cosines{};          // (KV heads, context chunks): the smallest of each chunk
  Sets candidates{};             // chunks that have landmarks
  Sets outliers{};               // chunks
  std::vector<Sets> selected{};  // chunks, for each step
  npy::Array outputs{};          // (steps, query heads, dim)
  npy::Array full_outputs{};     // the same with all tokens read
  struct Attended {              // what one step read
    std::size_t step = 0;
    npy::Array keys{};  // (KV heads, rows, dim): local, outliers, selected, generated
    npy::Array values{};
    npy::Array selected_positions{};  // (KV heads, selected tokens), in the order of the rows
  };
  std::vector<Attended> attended{};
};

namespace detail {

inline npy::Array optional_array(const Case& one, const std::string& name) { return one.has(name) ? one.array(name) : npy::Array{}; }

/// The rows of an array (sets, members) as ascending sets.
inline Sets sets_of(const npy::Array& array) {
  Sets sets;
  const std::size_t width = array.shape.empty() ? 0 : array.shape.back();
  for (std::size_t first = 0; width > 0 && first + width <= array.values.size(); first += width) {
    reference::Rows& set = sets.emplace_back();
    for (std::size_t i = 0; i < width; ++i) { set.push_back(static_cast<reference::Index>(array.values[first + i])); }
    std::sort(set.begin(), set.end());
  }
  return sets;
}

/// Without the layout.
inline ShadowKVParameters shadowkv_common_parameters(const Case& one) {
  ShadowKVParameters out;
  out.sparse_tokens = one.get<std::size_t>("sparse_budget");
  out.chunk = one.params.value("chunk", out.chunk);
  out.rank = one.params.value("rank", out.rank);
  out.local_chunks = one.params.value("local_chunks", out.local_chunks);
  out.rope = one.rope();
  return out;
}
inline ShadowKVParameters shadowkv_parameters(const Case& one) {
  ShadowKVParameters out = shadowkv_common_parameters(one);
  // The same seven numbers lie in layout.npy.
  const auto places = optional_array(one, "layout").as<std::size_t>();
  const nlohmann::json given = one.params.value("layout", nlohmann::json::object());
  const auto read = [&](const char* key, std::size_t place) {
    if (given.contains(key)) { return given.at(key).get<std::size_t>(); }
    if (place >= places.size()) { throw NotCovered(one.path() + ": the layout has no entry " + key); }
    return places[place];
  };
  out.layout = {read("prompt", 0),          read("context_chunks", 1), read("local_tokens", 2), read("outlier_chunks", 3),
                read("selected_chunks", 6), read("sparse_start", 4),   read("sparse_end", 5)};
  return out;
}

}  // namespace detail

inline ShadowKVDecodeCase shadowkv_decode_case(const Case& one) {
  ShadowKVDecodeCase out;
  out.of = detail::shadowkv_parameters(one);
  out.steps = one.get<std::size_t>("steps");
  out.queries = one.array("q_postrope");
  out.keys = one.array("k_prerope");
  out.keys_rotated = detail::optional_array(one, "k_postrope");
  out.values = one.array("v");
  out.low_rank_keys = detail::optional_array(one, "k_prerope_lowrank");
  out.singular_values = detail::optional_array(one, "singvals");
  out.landmarks = detail::optional_array(one, "landmarks");
  out.cosines = detail::optional_array(one, "chunk_min_cos");
  out.candidates = detail::sets_of(detail::optional_array(one, "landmark_chunk_idx"));
  out.outliers = detail::sets_of(detail::optional_array(one, "outlier_chunk_idx_sorted"));
  out.outputs = one.array("out_decode");
  out.full_outputs = detail::optional_array(one, "out_full_attention");
  if (out.keys.shape.at(1) < out.of.layout.prompt + out.steps) {
    throw NotCovered(one.path() + ": the inputs are shorter than the prompt and its steps");
  }
  const std::size_t heads = out.keys.shape.at(0);
  const Sets all = detail::sets_of(one.array("selected_chunks_topk_order"));
  if (all.size() != out.steps * heads) { throw NotCovered(one.path() + ": the selections are not (steps, heads, chunks)"); }
  for (std::size_t step = 0; step < out.steps; ++step) {
    const auto first = all.begin() + static_cast<std::ptrdiff_t>(step * heads);
    out.selected.emplace_back(first, first + static_cast<std::ptrdiff_t>(heads));
    const std::string number = std::to_string(step);
    if (!one.has("k_attended_step" + number)) { continue; }
    out.attended.push_back(
        {step, one.array("k_attended_step" + number), one.array("v_attended_step" + number), one.array("pos_selected_step" + number)});
  }
  return out;
}

/// Whether two sets differ only by near ties, which are counted. `larger` says that the largest scores are in the set; scores belong to
/// the numbers 0, 1, 2, ...
inline bool same_but_near_ties(const reference::Rows& ours, const reference::Rows& official, const reference::Vector& scores, double margin,
                               bool larger) {
  const auto score = [&](std::int64_t i) { return (larger ? 1.0 : -1.0) * scores(static_cast<reference::Index>(i)); };
  const auto ties = near_ties(members(ours), members(official), score, margin);
  Tally::get().near_ties(ties.value_or(0));
  return ties.has_value();
}

/// The largest absolute number.
inline double largest(const reference::Matrix& x) {
  double out = 0.0;
  for (const double value : x.reshaped()) { out = std::max(out, std::abs(value)); }
  return out;
}

/// The largest deviation of rows whose order is not fixed, each against its nearest official row. `step` rows
/// at a time are in a fixed order and are told by their first.
inline double unordered_deviation(const reference::Matrix& actual, const reference::Matrix& expected, reference::Index step) {
  double worst = 0.0;
  for (reference::Index i = 0; i < actual.rows(); i += step) {
    double best = std::numeric_limits<double>::infinity();
    reference::Index nearest = 0;
    for (reference::Index j = 0; j < expected.rows(); j += step) {
      const double distance = deviation(actual.row(i), expected.row(j));
      if (distance < best) {
        best = distance;
        nearest = j;
      }
    }
    worst = std::max(worst, deviation(actual.middleRows(i, step), expected.middleRows(nearest, step)));
  }
  return worst;
}

}  // namespace kvcompress::conformance
