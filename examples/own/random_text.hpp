// examples/own/random_text.hpp - a text of random rows, and attention over all of it: what the programs beside this file try their parts on.
// SPDX-License-Identifier: MIT
#pragma once

#include <kvcompress/cache.hpp>

#include <cmath>
#include <cstddef>
#include <random>
#include <vector>

/// Keys, values and queries of all tokens, [layer][token][head][channel], normal numbers that may be changed before use.
struct RandomText {
  RandomText(const kvcompress::Shape& of, std::size_t count, unsigned seed = 1) : shape(of), tokens(count) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (auto* numbers : {&keys, &values, &queries}) {
      const std::size_t heads = numbers == &queries ? shape.query_heads : shape.kv_heads;
      numbers->resize(shape.layers * tokens * heads * shape.head_dim);
      for (float& x : *numbers) { x = normal(random); }
    }
  }
  float* key(std::size_t layer, std::size_t token, std::size_t head) { return keys.data() + at(layer, token, head, shape.kv_heads); }
  float* value(std::size_t layer, std::size_t token, std::size_t head) { return values.data() + at(layer, token, head, shape.kv_heads); }
  float* query(std::size_t layer, std::size_t token, std::size_t head) {
    return queries.data() + at(layer, token, head, shape.query_heads);
  }

  /// Tokens [first, last) of a layer go to a cache.
  void append(auto& cache, std::size_t layer, std::size_t first, std::size_t last) {
    cache.append(layer, kvcompress::Rows::tokens_first(key(layer, first, 0), last - first, shape.kv_heads, shape.head_dim),
                 kvcompress::Rows::tokens_first(value(layer, first, 0), last - first, shape.kv_heads, shape.head_dim));
  }
  [[nodiscard]] kvcompress::Rows query_rows(std::size_t layer, std::size_t first, std::size_t last) {
    return kvcompress::Rows::tokens_first(query(layer, first, 0), last - first, shape.query_heads, shape.head_dim);
  }
  /// Their queries attend; the output is (tokens, query heads, channels).
  std::vector<float> attend(auto& cache, std::size_t layer, std::size_t first, std::size_t last,
                            const kvcompress::AttendOptions& options = {}) {
    std::vector<float> out((last - first) * shape.query_heads * shape.head_dim);
    cache.attend(layer, query_rows(layer, first, last),
                 kvcompress::Output::tokens_first(out.data(), last - first, shape.query_heads, shape.head_dim), options);
    return out;
  }
  /// The probabilities of a token's query over all rows up to its own.
  std::vector<double> probabilities(std::size_t layer, std::size_t token, std::size_t head) {
    std::vector<double> p(token + 1);
    double sum = 0.0;
    for (std::size_t t = 0; t <= token; ++t) {
      double logit = 0.0;
      for (std::size_t c = 0; c < shape.head_dim; ++c) {
        logit += static_cast<double>(query(layer, token, head)[c]) * static_cast<double>(key(layer, t, head / shape.group())[c]);
      }
      sum += p[t] = std::exp(logit / std::sqrt(static_cast<double>(shape.head_dim)));
    }
    for (double& x : p) { x /= sum; }
    return p;
  }
  /// How far `out`, of one token, is from attention over all rows, relative to it.
  double error(const std::vector<float>& out, std::size_t layer, std::size_t token) {
    double off = 0.0;
    double all = 0.0;
    for (std::size_t head = 0; head < shape.query_heads; ++head) {
      const std::vector<double> p = probabilities(layer, token, head);
      for (std::size_t c = 0; c < shape.head_dim; ++c) {
        double exact = 0.0;
        for (std::size_t t = 0; t <= token; ++t) { exact += p[t] * static_cast<double>(value(layer, t, head / shape.group())[c]); }
        const double difference = exact - static_cast<double>(out[head * shape.head_dim + c]);
        off += difference * difference;
        all += exact * exact;
      }
    }
    return std::sqrt(off / all);
  }

  kvcompress::Shape shape;
  std::size_t tokens;
  std::vector<float> keys{}, values{}, queries{};

 private:
  [[nodiscard]] std::size_t at(std::size_t layer, std::size_t token, std::size_t head, std::size_t heads) const {
    return ((layer * tokens + token) * heads + head) * shape.head_dim;
  }
};
