// include/kvcompress/eviction/dispositions/nearest.hpp - which row that stays has the key most like that of a row that goes.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>

#include "kvcompress/concepts/eviction.hpp"
#include "kvcompress/core/math.hpp"
#include "kvcompress/eviction/decoded_rows.hpp"
#include "kvcompress/kernels/exact.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// At which angle keys are compared and merged: as they are held, each rotated to its position, or before their rotary embedding.
enum class KeyAngle { stored, unrotated };
constexpr auto names_of(KeyAngle) noexcept { return std::array{"stored", "unrotated"}; }

namespace detail {

/// Rows of a set in text order: those that go, and those that stay and can be written.
struct GoneAndKept {
  Vector<Position> gone;
  Vector<Position> kept;
};
inline GoneAndKept gone_and_kept(const RowSet& set, const Moment& moment) {
  const Vector<Position> order = rows_in_text_order(set.rows, moment);
  GoneAndKept rows{Vector<Position>(order.get_allocator()), Vector<Position>(order.get_allocator())};
  for (const Position row : order) {
    if (set.drop[row] != 0) {
      rows.gone.push_back(row);
    } else if (row >= set.first_writable) {
      rows.kept.push_back(row);
    }
  }
  return rows;
}

/// Of every row that goes, in their order, the nearest of those that stay, as an index into these, and the cosine of both keys.
struct Nearest {
  Vector<Position> target;
  Vector<float> cosine;
};

inline void read_key(const RowSet& set, const LaneView& lane, std::size_t row, KeyAngle angle, float* out) {
  lane.keys({row, row + 1}, out);
  if (angle == KeyAngle::unrotated) { lane.turn(-std::int64_t{set.rows.turned(row)}, out); }
}
inline double length_of(const float* x, std::size_t count) noexcept {
  double sum = 0.0;
  for (std::size_t c = 0; c < count; ++c) { sum += static_cast<double>(x[c]) * static_cast<double>(x[c]); }
  return math::sqrt(sum);
}
/// Scales a key to length 1; 0 stays 0.
inline void normalise(float* x, std::size_t count) noexcept {
  const double length = length_of(x, count);
  for (std::size_t c = 0; length > 0.0 && c < count; ++c) { x[c] = static_cast<float>(static_cast<double>(x[c]) / length); }
}

/// Ties go to the older row. Cost: a dot product for every pair, and the keys once.
inline Nearest find_nearest(const RowSet& set, const LaneView& lane, const GoneAndKept& rows, KeyAngle angle, const Moment& moment) {
  constexpr std::size_t at_once = 8;
  const std::size_t width = lane.site.shape.key_width();
  const std::size_t stride = kernels::padded(width);
  const std::size_t count = rows.kept.size();
  Nearest nearest{Vector<Position>(rows.gone.size(), 0, rows.gone.get_allocator()), numbers_of<float>(moment, rows.gone.size())};
  if (count == 0) { return nearest; }
  Vector<float> keys = numbers_of<float>(moment, count * width);
  for (std::size_t i = 0; i < count; ++i) {
    read_key(set, lane, rows.kept[i], angle, keys.data() + i * width);
    normalise(keys.data() + i * width, width);
  }
  Vector<float> asked = numbers_of<float>(moment, at_once * stride);
  Vector<float> cosines = numbers_of<float>(moment, at_once * count);
  for (std::size_t first = 0; first < rows.gone.size(); first += at_once) {
    const std::size_t now = std::min(at_once, rows.gone.size() - first);
    for (std::size_t i = 0; i < now; ++i) {
      read_key(set, lane, rows.gone[first + i], angle, asked.data() + i * stride);
      normalise(asked.data() + i * stride, width);
    }
    kernels::dot_rows(keys.data(), count, width, asked.data(), stride, now, cosines.data(), count);
    for (std::size_t i = 0; i < now; ++i) {
      const float* const own = cosines.data() + i * count;
      const float* const best = std::max_element(own, own + count);
      nearest.target[first + i] = static_cast<Position>(best - own);
      nearest.cosine[first + i] = *best;
    }
  }
  return nearest;
}

}  // namespace detail
}  // namespace kvcompress
