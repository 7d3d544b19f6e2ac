// bench/runner/case.hpp - what is measured on: a context and the sizes of one layer.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <string>

namespace bench {

struct Case {
  std::size_t context = 1024;
  std::size_t query_heads = 32;
  std::size_t kv_heads = 8;
  std::size_t head_dim = 128;
  std::size_t threads = 1;

  [[nodiscard]] std::size_t group() const { return query_heads / kv_heads; }
  /// Numbers that a token adds to one layer's cache.
  [[nodiscard]] std::size_t values_per_token() const { return 2 * kv_heads * head_dim; }
  /// "d128/gqa4/16384"
  [[nodiscard]] std::string path() const {
    std::string path = "d";
    path += std::to_string(head_dim);
    path += kv_heads == query_heads ? "/mha/" : kv_heads == 1 ? "/mqa/" : "/gqa";
    if (kv_heads != query_heads && kv_heads != 1) { path += std::to_string(group()) + "/"; }
    return path + std::to_string(context);
  }
  friend bool operator==(const Case&, const Case&) = default;
};

}  // namespace bench
