// examples/pictures/lanes.hpp - what a policy does to every row of every lane of a dump: kept, read, and how far from what it was.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <string>
#include <vector>

#include "kvcompress/any/any_cache.hpp"
#include "registry/registry.hpp"
#include "tensors/dump.hpp"

namespace pictures {

/// A number from 0 to 1 for every row of a lane.
using Lane = std::vector<double>;

/// What one policy did, lane after lane: (layers * kv_heads).
struct Outcome {
  std::vector<Lane> kept;         // 1 where the row is still there after the last token
  std::vector<Lane> read;         // the share of the decoded tokens whose queries gave the row any weight, of those that came after it
  std::vector<Lane> weight;       // the attention on it, mean over those tokens and the query heads
  std::vector<Lane> key_error;    // length of the error by that of the key; 1 where the row is gone
  std::vector<Lane> value_error;  // the same of the value
  double bits = 0.0;              // per number, after the last token, without scratch and the slow tier
};

/// The first sequence of a dump through caches by name.
class Lanes {
 public:
  Lanes(const tensors::Dump& dump, std::size_t decoded) : dump_(dump), decoded_(decoded) {
    shape_.layers = dump.layers.size();
    shape_.query_heads = dump.query_heads;
    shape_.kv_heads = dump.kv_heads;
    shape_.head_dim = dump.key_dim;
    shape_.value_dim = dump.value_dim;
    shape_.rope.theta = dump.config.rotary.base;
  }

  [[nodiscard]] std::size_t tokens() const { return dump_.tokens; }
  [[nodiscard]] std::size_t prompt() const { return dump_.tokens - decoded_; }
  [[nodiscard]] std::size_t count() const { return shape_.layers * shape_.kv_heads; }

  [[nodiscard]] Outcome run(const std::string& policy) const {
    Outcome outcome;
    outcome.read.assign(count(), Lane(tokens()));
    outcome.weight = outcome.read;
    // A query's weights are its output where the values are the rows of an identity matrix: a value's width of rows at a time.
    for (std::size_t first = 0; first < tokens(); first += dump_.value_dim) { pass(policy, first, outcome); }
    kvcompress::AnyCache cache = examples::registry().make(policy, shape_);
    feed(
        cache, [&](std::size_t layer) -> const std::vector<float>& { return dump_.sequences[0][layer].values; }, [](auto&&...) {});
    compare(cache, outcome);
    const kvcompress::MemoryReport memory = cache.memory();
    outcome.bits = 8.0 * static_cast<double>(memory.fast() - memory.scratch) / static_cast<double>(tokens() * shape_.values_per_token());
    return outcome;
  }

 private:
  /// The prompt, with the queries of all its tokens, then the rest token by token. seen(layer, token, output) after each of these.
  void feed(kvcompress::AnyCache& cache, auto&& values_of, auto&& seen) const {
    using kvcompress::Output;
    using kvcompress::Rows;
    std::vector<float> out(prompt() * shape_.query_heads * dump_.value_dim);
    const auto step = [&](std::size_t layer, std::size_t first, std::size_t count) {
      const tensors::LayerRows& rows = dump_.sequences[0][layer];
      const std::vector<float>& values = values_of(layer);
      cache.append(layer,
                   Rows::tokens_first(rows.keys.data() + first * shape_.kv_heads * dump_.key_dim, count, shape_.kv_heads, dump_.key_dim),
                   Rows::tokens_first(values.data() + first * shape_.kv_heads * dump_.value_dim, count, shape_.kv_heads, dump_.value_dim));
      cache.attend(
          layer,
          Rows::tokens_first(rows.queries.data() + first * shape_.query_heads * dump_.key_dim, count, shape_.query_heads, dump_.key_dim),
          Output::tokens_first(out.data(), count, shape_.query_heads, dump_.value_dim));
    };
    for (std::size_t layer = 0; layer < shape_.layers; ++layer) {
      step(layer, 0, prompt());
      cache.end_prompt(layer);
    }
    for (std::size_t token = prompt(); token < tokens(); ++token) {
      for (std::size_t layer = 0; layer < shape_.layers; ++layer) {
        step(layer, token, 1);
        seen(layer, token, out);
      }
    }
    for (std::size_t layer = 0; layer < shape_.layers; ++layer) { cache.commit(layer); }
  }

  /// Notes which of the rows from `first` on are read, and with what weight.
  void pass(const std::string& policy, std::size_t first, Outcome& outcome) const {
    const std::size_t dim = dump_.value_dim;
    std::vector<float> ones(tokens() * shape_.kv_heads * dim);
    for (std::size_t row = first; row < std::min(first + dim, tokens()); ++row) {
      for (std::size_t head = 0; head < shape_.kv_heads; ++head) { ones[(row * shape_.kv_heads + head) * dim + row - first] = 1.0F; }
    }
    kvcompress::AnyCache cache = examples::registry().make(policy, shape_);
    const std::size_t group = shape_.query_heads / shape_.kv_heads;
    feed(
        cache, [&](std::size_t) -> const std::vector<float>& { return ones; },
        [&](std::size_t layer, std::size_t token, const std::vector<float>& out) {
      for (std::size_t head = 0; head < shape_.kv_heads; ++head) {
        Lane& read = outcome.read[layer * shape_.kv_heads + head];
        Lane& weight = outcome.weight[layer * shape_.kv_heads + head];
        for (std::size_t row = first; row < std::min(first + dim, token + 1); ++row) {
          double sum = 0.0;
          for (std::size_t q = head * group; q < (head + 1) * group; ++q) { sum += static_cast<double>(out[q * dim + row - first]); }
          const auto after = static_cast<double>(tokens() - std::max(row, prompt()));
          read[row] += sum > 0.0 ? 1.0 / after : 0.0;
          weight[row] += sum / static_cast<double>(group) / after;
        }
      }
        });
  }

  void compare(kvcompress::AnyCache& cache, Outcome& outcome) const {
    outcome.kept.assign(count(), Lane(tokens()));
    outcome.key_error.assign(count(), Lane(tokens(), 1.0));
    outcome.value_error = outcome.key_error;
    std::vector<float> key(dump_.key_dim);
    std::vector<float> value(dump_.value_dim);
    const auto error = [](const float* exact, const std::vector<float>& found) {
      double difference = 0.0;
      double length = 0.0;
      for (std::size_t c = 0; c < found.size(); ++c) {
        difference += std::pow(static_cast<double>(exact[c]) - static_cast<double>(found[c]), 2);
        length += std::pow(static_cast<double>(exact[c]), 2);
      }
      return std::sqrt(difference / length);
    };
    for (std::size_t lane = 0; lane < count(); ++lane) {
      const std::size_t layer = lane / shape_.kv_heads;
      const std::size_t head = lane % shape_.kv_heads;
      const kvcompress::RowTable& table = cache.table(layer, head);
      const tensors::LayerRows& rows = dump_.sequences[0][layer];
      for (std::size_t r = 0; r < table.rows(); ++r) {
        if (!table.alive(r)) { continue; }
        const auto position = static_cast<std::size_t>(table.position(r));
        cache.read(layer, head, r, key.data(), value.data());
        outcome.kept[lane][position] = 1.0;
        outcome.key_error[lane][position] = error(rows.keys.data() + (position * shape_.kv_heads + head) * dump_.key_dim, key);
        outcome.value_error[lane][position] = error(rows.values.data() + (position * shape_.kv_heads + head) * dump_.value_dim, value);
      }
    }
  }

  const tensors::Dump& dump_;
  std::size_t decoded_;
  kvcompress::Shape shape_;
};

}  // namespace pictures
