// include/kvcompress/eviction/scorers/among_rows.hpp - scores of a few rows, seen against each other.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

#include "kvcompress/eviction/row_set.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Numbers of the members become their softmax.
inline void softmax_among(std::span<const Position> members, Vector<double>& numbers) {
  double largest = 0.0;
  double sum = 0.0;
  for (const Position row : members) { largest = std::max(largest, numbers[row]); }
  for (const Position row : members) { sum += numbers[row] = __builtin_exp(numbers[row] - largest); }
  for (const Position row : members) { numbers[row] /= sum; }
}
/// Scores of the members become their ranks from 0 up, divided by their number; of equal ones the newer row is above.
inline void rank_among(std::span<const Position> members, std::span<float> out, const Moment& moment) {
  Vector<Position> ascending(members.begin(), members.end(), Allocator<Position>(moment.scratch.rows.get_allocator()));
  std::stable_sort(ascending.begin(), ascending.end(), [&](Position a, Position b) { return out[a] < out[b]; });
  for (std::size_t i = 0; i < ascending.size(); ++i) {
    out[ascending[i]] = static_cast<float>(static_cast<double>(i) / static_cast<double>(members.size()));
  }
}

}  // namespace kvcompress
