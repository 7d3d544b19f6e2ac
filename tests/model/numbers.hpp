// tests/model/numbers.hpp - the numbers of a row and of its queries, and attention in double over the rows that a cache holds.
// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "kvcompress/any/any_cache.hpp"
#include "model/model.hpp"

namespace kvcompress::test::model {

enum class Stream : std::uint32_t { key, value, query };

/// Numbers in [-1.75, 1.75]; queries twice as large.
inline void fill(std::uint32_t seed, std::size_t layer, Stream stream, float* out, std::size_t count) {
  std::uint64_t state = (std::uint64_t{seed} * 8 + layer * 4 + static_cast<std::uint64_t>(stream)) * 0x9E3779B97F4A7C15U;
  for (std::size_t i = 0; i < count; ++i) {  // splitmix64
    state += 0x9E3779B97F4A7C15U;
    std::uint64_t z = (state ^ (state >> 30U)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27U)) * 0x94D049BB133111EBU;
    const double unit = static_cast<double>((z ^ (z >> 31U)) >> 11U) * 0x1p-53;
    out[i] = static_cast<float>((2.0 * unit - 1.0) * (stream == Stream::query ? 3.5 : 1.75));
  }
}
/// Keys, values or queries of rows, (rows, heads, 16).
inline std::vector<float> numbers(const Row* rows, std::size_t count, std::size_t layer, Stream stream) {
  const std::size_t width = (stream == Stream::query ? shape.query_heads : shape.kv_heads) * shape.head_dim;
  std::vector<float> all(count * width);
  for (std::size_t i = 0; i < count; ++i) { fill(rows[i].seed, layer, stream, all.data() + i * width, width); }
  return all;
}

/// The rows of a lane as the cache decodes them, ascending by position.
struct Held {
  std::vector<Position> positions{};
  std::vector<float> keys{};  // (rows, 16), rotated to their positions
  std::vector<float> values{};
  friend bool operator==(const Held&, const Held&) = default;
};
inline Held held(AnyCache& cache, std::size_t layer, std::size_t head) {
  const RowTable& table = cache.table(layer, head);
  std::vector<std::pair<Position, std::size_t>> order;
  for (std::size_t r = 0; r < table.rows(); ++r) {
    if (table.alive(r)) { order.emplace_back(table.position(r), r); }
  }
  std::sort(order.begin(), order.end());
  Held all;
  all.keys.resize(order.size() * shape.head_dim);
  all.values.resize(order.size() * shape.head_dim);
  for (std::size_t i = 0; i < order.size(); ++i) {
    all.positions.push_back(order[i].first);
    cache.read(layer, head, order[i].second, all.keys.data() + i * shape.head_dim, all.values.data() + i * shape.head_dim);
  }
  return all;
}

/// Turns a vector from one position to another.
inline void turn(double* vector, double by) {
  constexpr std::size_t half = 8;
  static const std::array<double, half> frequencies = [] {
    std::array<double, half> all{};
    for (std::size_t i = 0; i < half; ++i) { all[i] = std::pow(10000.0, -static_cast<double>(i) / half); }
    return all;
  }();
  for (std::size_t i = 0; i < half; ++i) {
    const double angle = by * frequencies[i];
    const double x = vector[i];
    const double y = vector[i + half];
    vector[i] = x * std::cos(angle) - y * std::sin(angle);
    vector[i + half] = x * std::sin(angle) + y * std::cos(angle);
  }
}

/// Attention of one query head whose query is at `position`. With `renumbers`, rows and query stand at their ranks.
inline void attention(const Held& rows, bool renumbers, const float* query, Position position, const AttendOptions& options, double* out) {
  const std::size_t dim = shape.head_dim;
  const auto rank = [&](Position p) {
    return static_cast<std::size_t>(std::lower_bound(rows.positions.begin(), rows.positions.end(), p) - rows.positions.begin());
  };
  const std::size_t place = renumbers ? rank(position) : position;
  std::vector<double> q(query, query + dim);
  if (renumbers) { turn(q.data(), static_cast<double>(place) - position); }
  std::vector<double> weights(rows.positions.size(), 0.0);
  double largest = -1e300;
  for (std::size_t r = 0; r < weights.size(); ++r) {
    const Position p = rows.positions[r];
    const std::size_t at = renumbers ? r : p;
    if (p > position || p < options.start || (options.window > 0 && place - at >= options.window)) {
      weights[r] = -1e300;
      continue;
    }
    std::vector<double> key(rows.keys.begin() + static_cast<std::ptrdiff_t>(r * dim),
                            rows.keys.begin() + static_cast<std::ptrdiff_t>((r + 1) * dim));
    if (renumbers && at != p) { turn(key.data(), static_cast<double>(at) - p); }
    double logit = 0.0;
    for (std::size_t c = 0; c < dim; ++c) { logit += q[c] * key[c]; }
    logit *= options.scale != 0.0F ? static_cast<double>(options.scale) : 0.25;
    if (options.soft_cap != 0.0F) {
      logit = static_cast<double>(options.soft_cap) * std::tanh(logit / static_cast<double>(options.soft_cap));
    }
    weights[r] = logit;
    largest = std::max(largest, logit);
  }
  double sum = 0.0;
  std::fill(out, out + dim, 0.0);
  for (std::size_t r = 0; r < weights.size(); ++r) {
    if (weights[r] == -1e300) { continue; }
    const double weight = std::exp(weights[r] - largest);
    sum += weight;
    for (std::size_t c = 0; c < dim; ++c) { out[c] += weight * static_cast<double>(rows.values[r * dim + c]); }
  }
  for (std::size_t c = 0; c < dim; ++c) { out[c] /= sum > 0.0 ? sum : 1.0; }
}

}  // namespace kvcompress::test::model
