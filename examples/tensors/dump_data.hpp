// examples/tensors/dump_data.hpp - keys, values and queries of a model, as read: plain data, apart from what reads them, which takes long to compile.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

namespace tensors {

/// How keys were rotated: channel i with i + dims/2, as Hugging Face pairs them. base 0: not at all, or not known.
struct Rotary {
  double base = 0.0;
  double dims_fraction = 1.0;              // of the key's channels, the leading ones
  double scale = 1.0;                      // of positions
  std::vector<double> frequency_divisors;  // one per pair, or none; made for `key_dim` channels
};

struct ModelConfig {
  std::optional<std::size_t> query_heads;
  std::optional<std::size_t> kv_heads;
  Rotary rotary;
  std::string unknown_rotary;  // a scaling that is not known here: then the base is 0
};

/// One layer of one sequence.
struct LayerRows {
  std::vector<float> keys;     // (tokens, kv_heads, key_dim)
  std::vector<float> values;   // (tokens, kv_heads, value_dim)
  std::vector<float> queries;  // (queries, query_heads, key_dim), of the newest tokens
};

struct Dump {
  std::size_t tokens = 0;
  std::size_t queries = 0;  // of the newest tokens, at most `tokens`
  std::size_t kv_heads = 0;
  std::size_t query_heads = 0;
  std::size_t key_dim = 0;
  std::size_t value_dim = 0;
  std::vector<std::size_t> layers;                // their numbers in the model
  std::vector<std::vector<LayerRows>> sequences;  // (batch, layers)
  ModelConfig config;
  std::vector<std::string> read;  // how each role was read, for people
};

}  // namespace tensors
