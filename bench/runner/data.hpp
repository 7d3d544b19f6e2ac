// bench/runner/data.hpp - the keys, values and queries of a case: the same numbers in every run and for every competitor.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "runner/case.hpp"

namespace bench {

/// Gaussian rows; four channels of the keys of a head are four times as large, as in real models. A row is a piece of one pool of normal
/// numbers, at an offset of its own: drawing 128k tokens anew would take longer than measuring them.
class Data {
 public:
  explicit Data(const Case& c) : case_(c) {}

  [[nodiscard]] const Case& of() const { return case_; }

  void key(std::size_t layer, std::size_t token, std::size_t head, float* out) const {
    const float* from = row(0, layer, token, head);
    std::copy_n(from, case_.head_dim, out);
    for (std::size_t i = 0; i < 4; ++i) { out[(head * 7 + i * (case_.head_dim / 4)) % case_.head_dim] *= 4.0F; }
  }
  void value(std::size_t layer, std::size_t token, std::size_t head, float* out) const {
    std::copy_n(row(1, layer, token, head), case_.head_dim, out);
  }
  void query(std::size_t token, std::size_t head, float* out) const { std::copy_n(row(2, 0, token, head), case_.head_dim, out); }

  /// (count, kv_heads, head_dim) of tokens [first, first + count).
  [[nodiscard]] std::vector<float> keys(std::size_t layer, std::size_t first, std::size_t count) const {
    return fill(first, count, case_.kv_heads, [&](std::size_t t, std::size_t h, float* out) { key(layer, t, h, out); });
  }
  [[nodiscard]] std::vector<float> values(std::size_t layer, std::size_t first, std::size_t count) const {
    return fill(first, count, case_.kv_heads, [&](std::size_t t, std::size_t h, float* out) { value(layer, t, h, out); });
  }
  /// (count, query_heads, head_dim)
  [[nodiscard]] std::vector<float> queries(std::size_t first, std::size_t count) const {
    return fill(first, count, case_.query_heads, [&](std::size_t t, std::size_t h, float* out) { query(t, h, out); });
  }

 private:
  static constexpr std::size_t pool_size = std::size_t{1} << 20U;

  static const std::vector<float>& pool() {
    static const std::vector<float> numbers = [] {
      std::mt19937 rng(1);  // fixed seed: every run reads the same numbers
      std::normal_distribution<float> normal;
      std::vector<float> drawn(pool_size);
      for (float& x : drawn) { x = normal(rng); }
      return drawn;
    }();
    return numbers;
  }
  [[nodiscard]] const float* row(std::uint64_t kind, std::size_t layer, std::size_t token, std::size_t head) const {
    std::uint64_t x = (((kind * 64 + layer) * 1024 + head) << 32U) + token;  // splitmix64 of what the row is
    x = (x + 0x9E37'79B9'7F4A'7C15U) * 0xBF58'476D'1CE4'E5B9U;
    x = (x ^ (x >> 27U)) * 0x94D0'49BB'1331'11EBU;
    return pool().data() + (x >> 20U) % (pool_size - case_.head_dim);
  }
  [[nodiscard]] std::vector<float> fill(std::size_t first, std::size_t count, std::size_t heads, auto&& write) const {
    std::vector<float> out(count * heads * case_.head_dim);
    for (std::size_t t = 0; t < count; ++t) {
      for (std::size_t h = 0; h < heads; ++h) { write(first + t, h, out.data() + (t * heads + h) * case_.head_dim); }
    }
    return out;
  }

  Case case_;
};

}  // namespace bench
