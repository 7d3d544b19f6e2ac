// tests/support/shadowkv_prefill_case.hpp - official vectors of ShadowKV's offload class: its fast memory after the prompt.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "support/shadowkv_cases.hpp"

namespace kvcompress::conformance {

/// Rows of the prompt that lie in fast memory, of one KV head, by position; several buffers count as one.
struct FastRows {
  Members positions{};                    // ascending
  std::vector<reference::Vector> rows{};  // of the same order
  std::size_t strangers = 0;              // rows that are neither zero nor a row of the prompt
};

/// A case of kind "prefill_offload_class". Its folder has inputs of its own and the buffers of the official class, in arrays named after
/// its layout: one buffer, or one for each part of it. So a row of a buffer is known by its contents, and an array by what its name begins
/// with or has between underscores: k, v, q (or key, value, query) and landmark, outlier, position or selected.
struct ShadowKVPrefillCase {
  ShadowKVParameters of{};
  npy::Array keys{};                    // (KV heads, prompt, dim), not rotated
  npy::Array values{};                  // (KV heads, prompt, dim)
  npy::Array last_queries{};            // (query heads, dim) or (query heads, tokens, dim), rotated; perhaps none
  std::vector<FastRows> fast_keys{};    // by KV head
  std::vector<FastRows> fast_values{};  // the same
  Sets outliers{};                      // chunks; empty where the case has none
  Sets selected{};                      // chunks; empty where the case has none
};

namespace detail {

struct NamedArray {
  std::string name;  // lower case
  npy::Array array;

  [[nodiscard]] bool has(const std::string& word) const { return name.find(word) != std::string::npos; }
  /// 'k', 'v', 'q', or 0: the first word that says so.
  [[nodiscard]] char role() const {
    std::string word;
    for (std::size_t i = 0; i <= name.size(); ++i) {
      if (i < name.size() && std::isalnum(static_cast<unsigned char>(name[i])) != 0) {
        word += name[i];
        continue;
      }
      for (const char role : {'k', 'v', 'q'}) {
        const std::string full = role == 'k' ? "key" : role == 'v' ? "value" : "query";
        if (word == std::string(1, role) || word == full || word == full + "s" || word == "queries") {
          return word == "queries" ? 'q' : role;
        }
      }
      word.clear();
    }
    const char first = name.empty() ? '\0' : name.front();
    return first == 'k' || first == 'v' || first == 'q' ? first : '\0';
  }
};

/// The arrays of a folder in the order of their names, without leading axes of one entry before the last three.
inline std::vector<NamedArray> arrays_of(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() == ".npy") { files.push_back(entry.path()); }
  }
  std::sort(files.begin(), files.end());
  std::vector<NamedArray> out;
  for (const auto& file : files) {
    NamedArray& one = out.emplace_back(NamedArray{file.stem().string(), npy::read(file)});
    std::transform(one.name.begin(), one.name.end(), one.name.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    while (one.array.shape.size() > 3 && one.array.shape.front() == 1) { one.array.shape.erase(one.array.shape.begin()); }
  }
  return out;
}

/// The official layout of the offload class where params.json and layout.npy have none.
inline ShadowKVPlaces offload_layout(const ShadowKVParameters& of, std::size_t prompt) {
  ShadowKVPlaces at{.prompt = prompt};
  at.context_chunks = prompt / of.chunk - std::min(prompt / of.chunk, of.local_chunks);
  at.context_chunks -= at.context_chunks % 8;
  at.local_tokens = prompt - at.context_chunks * of.chunk;
  at.outlier_chunks = of.sparse_tokens / 1024 * 24;
  at.selected_chunks = of.sparse_tokens / of.chunk;
  at.sparse_start = at.local_tokens + at.outlier_chunks * of.chunk;
  at.sparse_end = at.sparse_start + at.selected_chunks * of.chunk;
  return at;
}

/// Finds each row of a buffer among the rows of the prompt. Rows come in runs, so the next one is tried first.
inline void add_rows(FastRows& out, const reference::Matrix& buffer, const reference::Matrix& prompt, double tolerance) {
  const auto same = [&](reference::Index row, reference::Index position) {
    return position < prompt.rows() && (buffer.row(row) - prompt.row(position)).cwiseAbs().maxCoeff() <= tolerance;
  };
  std::vector<std::pair<std::int64_t, reference::Vector>> found;
  for (std::size_t i = 0; i < out.positions.size(); ++i) { found.emplace_back(out.positions[i], out.rows[i]); }
  reference::Index position = -1;
  for (reference::Index row = 0; row < buffer.rows(); ++row) {
    if (buffer.row(row).isZero(0.0)) { continue; }  // room for generated rows
    ++position;
    if (!same(row, position)) {
      for (position = 0; position < prompt.rows() && !same(row, position); ++position) {}
    }
    if (position == prompt.rows()) {
      ++out.strangers;
    } else {
      found.emplace_back(position, buffer.row(row));
    }
  }
  std::stable_sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  out.positions.clear();
  out.rows.clear();
  for (auto& [at, row] : found) {
    out.positions.push_back(at);
    out.rows.push_back(std::move(row));
  }
}

/// Chunks, whether the array holds chunks or the tokens of chunks.
inline Sets chunks_of(const npy::Array& array, std::size_t count, std::size_t chunk) {
  Sets sets = sets_of(array);
  for (reference::Rows& set : sets) {
    if (set.size() != count * chunk || chunk == 1) { continue; }
    for (reference::Index& token : set) { token /= static_cast<reference::Index>(chunk); }
    set.erase(std::unique(set.begin(), set.end()), set.end());
  }
  return sets;
}

}  // namespace detail

inline ShadowKVPrefillCase shadowkv_prefill_case(const Case& one) {
  ShadowKVPrefillCase out;
  std::vector<detail::NamedArray> arrays = detail::arrays_of(one.folder);
  const auto is_matrix_of_heads = [](const detail::NamedArray& a) { return a.array.shape.size() == 3; };
  const auto derived = [](const detail::NamedArray& a) {
    return a.has("landmark") || a.has("lowrank") || a.has("low_rank") || a.has("sv");
  };
  std::size_t longest = 0;  // the prompt, where the layout does not say: its keys and values are the longest arrays of heads
  for (const auto& a : arrays) {
    if (is_matrix_of_heads(a) && !derived(a)) { longest = std::max(longest, a.array.shape[1]); }
  }
  const bool has_layout = one.params.contains("layout") || one.has("layout");
  out.of = has_layout ? detail::shadowkv_parameters(one) : detail::shadowkv_common_parameters(one);
  if (!has_layout) { out.of.layout = detail::offload_layout(out.of, one.params.value("prompt", longest)); }
  const ShadowKVPlaces& at = out.of.layout;

  // Inputs first: arrays of the whole prompt. Copies of them, as the slow tier has, say nothing.
  const auto input = [&](char role) -> npy::Array {
    const detail::NamedArray* best = nullptr;
    for (const auto& a : arrays) {
      const bool whole = is_matrix_of_heads(a) && !derived(a) && a.array.shape[1] == at.prompt && a.role() == role;
      if (!whole || a.has("postrope") || a.has("post_rope")) { continue; }
      if (best == nullptr || (best->has("cache") && !a.has("cache"))) { best = &a; }
    }
    return best == nullptr ? npy::Array{} : best->array;
  };
  out.keys = input('k');
  out.values = input('v');
  std::string names;
  for (const auto& a : arrays) { names += " " + a.name; }
  if (out.keys.shape.empty() || out.values.shape.empty()) {
    throw NotCovered(one.path() + " has no keys and values of " + std::to_string(at.prompt) + " tokens among" + names);
  }
  const std::size_t kv_heads = out.keys.shape[0];
  const std::size_t dim = out.keys.shape[2];
  for (const auto& a : arrays) {
    if (a.role() == 'q' || a.name.rfind("last", 0) == 0) {
      if (a.array.shape.size() >= 2 && a.array.shape.back() == dim) { out.last_queries = a.array; }
    }
  }
  out.fast_keys.resize(kv_heads);
  out.fast_values.resize(kv_heads);
  if (out.of.rope.pairing != reference::Pairing::half) { throw NotCovered(one.path() + ": interleaved pairs"); }
  bool any_keys = false;
  bool any_values = false;
  for (const auto& a : arrays) {
    const auto& shape = a.array.shape;
    if (a.has("outlier") && shape.size() == 2 && shape[0] == kv_heads) {
      out.outliers = detail::chunks_of(a.array, at.outlier_chunks, out.of.chunk);
    }
    if (shape.size() == 2 && shape[0] == kv_heads && (a.has("select") || a.has("pos") || a.has("initial"))) {
      out.selected = detail::chunks_of(a.array, at.selected_chunks, out.of.chunk);
    }
    const char role = a.role();
    const bool buffer = is_matrix_of_heads(a) && !derived(a) && shape[0] == kv_heads && shape[2] == dim && shape[1] < at.prompt;
    if (!buffer || (role != 'k' && role != 'v')) { continue; }
    const auto rows = heads(a.array);
    const auto whole = heads(role == 'k' ? out.keys : out.values);
    for (std::size_t h = 0; h < kv_heads; ++h) {
      const reference::Matrix prompt =
          role == 'k' ? rotate_in_float(whole[h], reference::consecutive(0, whole[h].rows()), out.of.rope.theta) : whole[h];
      const double tolerance = role == 'k' ? 1e-4 * prompt.cwiseAbs().maxCoeff() : 0.0;
      detail::add_rows((role == 'k' ? out.fast_keys : out.fast_values)[h], rows[h], prompt, tolerance);
    }
    (role == 'k' ? any_keys : any_values) = true;
  }
  if (!any_keys || !any_values) { throw NotCovered(one.path() + " has no buffers of keys and values among" + names); }
  return out;
}

/// Ours against what lies in the official buffers: no row more or less, and the largest difference. `ours` gives the row at a position.
template <class Ours>
double expect_fast_rows(const FastRows& official, Members expected, const std::string& what, const Ours& ours) {
  std::sort(expected.begin(), expected.end());
  EXPECT_EQ(official.strangers, 0U) << what;
  EXPECT_EQ(official.positions, expected) << what;
  double worst = 0.0;
  for (std::size_t i = 0; i < official.positions.size(); ++i) {
    const reference::Vector row = ours(official.positions[i]);
    worst = std::max(worst, (row - official.rows[i]).cwiseAbs().maxCoeff());
  }
  return worst;
}

}  // namespace kvcompress::conformance
