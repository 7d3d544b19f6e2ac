// examples/compare_policies/front.hpp - which of several choices nothing else beats in both of two costs.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <utility>
#include <vector>

#include "compare_policies/results.hpp"

namespace comparison {

/// Points than which no other is lower in both numbers, in ascending order of the first.
inline std::vector<std::size_t> pareto_front(const std::vector<std::pair<double, double>>& points) {
  std::vector<std::size_t> order(points.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return points[a] < points[b]; });
  std::vector<std::size_t> front;
  for (const std::size_t i : order) {
    if (front.empty() || points[i].second < points[front.back()].second) { front.push_back(i); }
  }
  return front;
}

/// Rows than which no other has fewer bytes and less KL, in ascending bytes.
inline std::vector<std::size_t> pareto_front(const std::vector<Row>& rows) {
  std::vector<std::pair<double, double>> points;
  for (const Row& row : rows) { points.emplace_back(row.bytes, row.kl); }
  return pareto_front(points);
}
/// The same, row by row.
inline std::vector<bool> on_front(const std::vector<Row>& rows) {
  std::vector<bool> on(rows.size(), false);
  for (const std::size_t row : pareto_front(rows)) { on[row] = true; }
  return on;
}

/// Whether no row is as small as something else and as close to the exact model.
inline bool is_beyond(const Row& other, const std::vector<Row>& rows) {
  return std::none_of(rows.begin(), rows.end(),
                      [&](const Row& row) { return row.bits_per_value <= other.bits_per_value && row.kl <= other.kl; });
}

}  // namespace comparison
