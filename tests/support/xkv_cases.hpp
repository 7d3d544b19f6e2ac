// tests/support/xkv_cases.hpp - the official vectors of xKV as parameters, inputs and expected arrays.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "support/cases.hpp"

namespace kvcompress::conformance {

/// An array (layers, ...) as one array for each layer; a layer (tokens, dim) becomes one head.
inline std::vector<npy::Array> layers_of(const npy::Array& array) {
  if (array.shape.size() != 3 && array.shape.size() != 4) { throw std::runtime_error("an array of layers must have three or four axes"); }
  std::vector<std::size_t> shape(array.shape.begin() + 1, array.shape.end());
  if (shape.size() == 2) { shape.insert(shape.begin(), 1); }
  const std::size_t size = shape[0] * shape[1] * shape[2];
  std::vector<npy::Array> layers;
  for (std::size_t l = 0; l < array.shape[0]; ++l) {
    const auto first = array.values.begin() + static_cast<std::ptrdiff_t>(l * size);
    layers.push_back({shape, std::vector<double>(first, first + static_cast<std::ptrdiff_t>(size))});
  }
  return layers;
}

/// The first of several entries of params.json that exists.
template <class T>
T first_param(const Case& one, const std::vector<std::string>& keys, T otherwise) {
  for (const std::string& key : keys) {
    if (one.params.contains(key) && !one.params.at(key).is_null()) { return one.params.at(key).get<T>(); }
  }
  return otherwise;
}

/// A case of kind "compress" or "mla". Arrays hold one element (heads, tokens, dim) for each layer; expected
/// ones are empty where the case has none.
struct XkvCase {
  std::size_t layers_per_group = 4;
  std::size_t rank_keys = 0;    // of a group; 0: keys stay exact
  std::size_t rank_values = 0;  // of a group; 0: values stay exact
  std::size_t first_layer = 0;  // compressed layers: [first_layer, end_layer)
  std::size_t end_layer = 0;
  std::optional<reference::Rope> rope{};  // none: latents

  std::vector<npy::Array> keys{};         // not rotated
  std::vector<npy::Array> values{};       // empty: latents
  std::vector<npy::Array> decode_keys{};  // not rotated, at the positions after the prompt
  std::vector<npy::Array> decode_values{};

  std::vector<npy::Array> keys_before_rope{};
  std::vector<npy::Array> keys_after_rope{};
  std::vector<npy::Array> values_after{};
  std::vector<npy::Array> keys_after_decode{};  // rotated: the prompt, then the first decode tokens

  [[nodiscard]] std::size_t tokens() const { return keys.front().shape[1]; }
  /// Decode tokens in `keys_after_decode`.
  [[nodiscard]] std::size_t decoded() const { return keys_after_decode.empty() ? 0 : keys_after_decode.front().shape[1] - tokens(); }
};

namespace detail {

inline std::vector<npy::Array> optional_layers(const Case& one, const std::string& name) {
  return one.has(name) ? layers_of(one.array(name)) : std::vector<npy::Array>{};
}

inline bool turned_off(const Case& one, const std::vector<std::string>& keys) {
  return std::any_of(keys.begin(), keys.end(), [&](const std::string& key) {
    return one.params.contains(key) && (one.params.at(key) == false || one.params.at(key) == "exact");
  });
}

/// The compressed layers: as params.json says or, where it does not, those that the official code changed.
inline void read_layer_range(const Case& one, XkvCase& out) {
  const auto count = static_cast<long>(out.keys.size());
  long first = first_param<long>(one, {"first_layer", "start_layer", "start_layer_idx", "layer_start", "start"}, -1);
  long last = first_param<long>(one, {"last_layer", "end_layer", "end_layer_idx", "layer_end", "end"}, -1);
  for (const char* key : {"layers", "layer_range"}) {
    if (one.params.contains(key) && one.params.at(key).is_array() && !one.params.at(key).empty()) {
      first = one.params.at(key).front().get<long>();
      last = one.params.at(key).back().get<long>();
    }
  }
  const auto& before = out.rank_keys > 0 ? out.keys : out.values;
  const auto& after = out.rank_keys > 0 ? out.keys_before_rope : out.values_after;
  const auto changed = [&](long l) {
    const auto at = static_cast<std::size_t>(l);
    return after.size() != before.size() || before[at].values != after[at].values;
  };
  if (first < 0) {
    for (first = 0; first < count && !changed(first); ++first) {}
  }
  if (last < 0) {
    for (last = count - 1; last > first && !changed(last); --last) {}
  }
  if (last >= count || first > last) { throw NotCovered(one.path() + ": the range of layers is not in the model"); }
  out.first_layer = static_cast<std::size_t>(first);
  out.end_layer = static_cast<std::size_t>(last) + 1;
}

}  // namespace detail

/// A rank of params.json, 0 where there is none. "full" is as many as a group of those layers can have.
inline std::size_t rank_param(const Case& one, const std::vector<std::string>& keys, const std::vector<npy::Array>& layers,
                              std::size_t layers_per_group) {
  const auto given = first_param<nlohmann::json>(one, keys, 0);
  if (!given.is_string()) { return given.get<std::size_t>(); }
  if (given == "exact" || given == "none") { return 0; }
  if (given != "full") { throw NotCovered(one.path() + ": rank " + given.get<std::string>()); }
  const auto& shape = layers.front().shape;  // heads, tokens, dim
  return std::min(shape.at(1), std::min(layers_per_group, layers.size()) * shape.at(0) * shape.at(2));
}

inline XkvCase xkv_compress_case(const Case& one) {
  XkvCase out;
  out.keys = layers_of(one.any({"K_prerope_LHTd"}));
  out.values = layers_of(one.any({"V_LHTd"}));
  out.layers_per_group = first_param<std::size_t>(one, {"layers_per_group", "group_size", "layers_in_group"}, 4);
  out.rank_keys = rank_param(one, {"rank_keys", "rank_k", "rank"}, out.keys, out.layers_per_group);
  out.rank_values = rank_param(one, {"rank_values", "rank_v"}, out.values, out.layers_per_group);
  if (detail::turned_off(one, {"merge_keys", "merge_key", "compress_keys"})) { out.rank_keys = 0; }
  if (detail::turned_off(one, {"merge_values", "merge_value", "compress_values", "values"})) { out.rank_values = 0; }
  if (out.rank_keys + out.rank_values == 0) { throw NotCovered(one.path() + ": params.json has no rank"); }
  out.rope = one.rope();
  out.decode_keys = detail::optional_layers(one, "k_decode_prerope_LHNd");
  out.decode_values = detail::optional_layers(one, "v_decode_LHNd");
  out.keys_before_rope = detail::optional_layers(one, "K_hat_prerope_LHTd");
  out.keys_after_rope = detail::optional_layers(one, "K_hat_postrope_LHTd");
  out.values_after = detail::optional_layers(one, "V_hat_LHTd");
  out.keys_after_decode = detail::optional_layers(one, "K_after_2_decode_LHTd");
  detail::read_layer_range(one, out);
  return out;
}

/// The latents of MLA: keys with one head that are never rotated. Their arrays are told by their names: the
/// input begins with "latent", the output has "hat" in it.
inline XkvCase xkv_latents_case(const Case& one) {
  XkvCase out;
  for (const auto& place : {one.folder, one.folder.parent_path()}) {
    for (const auto& entry : std::filesystem::directory_iterator(place)) {
      const std::string name = entry.path().stem().string();
      if (entry.path().extension() != ".npy") { continue; }
      const bool after = name.find("hat") != std::string::npos;
      if (after && place == one.folder) { out.keys_before_rope = layers_of(npy::read(entry.path())); }
      if (!after && name.rfind("latent", 0) == 0) { out.keys = layers_of(npy::read(entry.path())); }
    }
  }
  if (out.keys.empty() || out.keys_before_rope.empty()) { throw NotCovered(one.path() + " has no latent*.npy before and *hat*.npy after"); }
  out.layers_per_group = first_param<std::size_t>(one, {"layers_per_group", "group_size", "layers_in_group"}, 4);
  out.rank_keys = rank_param(one, {"rank_keys", "rank_latents", "rank_k", "rank"}, out.keys, out.layers_per_group);
  if (out.rank_keys == 0) { throw NotCovered(one.path() + ": params.json has no rank"); }
  detail::read_layer_range(one, out);
  return out;
}

/// How far a reconstruction is from the official one. The vectors' tolerance is met if one of the two is.
struct Distance {
  double largest = 0.0;  // absolute
  double squares = 0.0;  // of the differences
  double expected_squares = 0.0;

  void add(const reference::Matrix& actual, const reference::Matrix& expected) {
    largest = std::max(largest, deviation(actual, expected));
    for (reference::Index c = 0; c < actual.cols(); ++c) {
      for (reference::Index r = 0; r < actual.rows(); ++r) {
        squares += (actual(r, c) - expected(r, c)) * (actual(r, c) - expected(r, c));
        expected_squares += expected(r, c) * expected(r, c);
      }
    }
  }
  [[nodiscard]] double relative() const { return std::sqrt(squares / std::max(expected_squares, 1e-300)); }
};

/// Prints both measures and fails where neither is within its bound.
inline void expect_reconstruction(const Case& one, const std::string& what, const Distance& distance) {
  const double relative = distance.relative();
  std::cout << "conformance: " << one.path() << " " << what << " has a relative deviation of " << relative << "\n";
  expect_within(one, what, distance.largest, relative <= 1e-5 ? std::max(2e-4, distance.largest) : 2e-4);
}

}  // namespace kvcompress::conformance
