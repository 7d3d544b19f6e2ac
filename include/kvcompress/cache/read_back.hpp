// include/kvcompress/cache/read_back.hpp - rows as a cache holds them, decoded: one, or many into the caller's buffers.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "kvcompress/cache.hpp"
#include "kvcompress/core/half.hpp"
#include "kvcompress/core/shape.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// By which rotary embedding a key is turned that is read back.
enum class Angle {
  position,   ///< that of the position that the row is at now
  held,       ///< that which its codes carry: another one only after shift
  unrotated,  ///< none; Rope::magnitude stays
};
constexpr auto names_of(Angle) noexcept { return std::array{"position", "held", "unrotated"}; }

/// Where rows [first, last) of a lane are read to, one behind the other; what is empty is not read. Keys (rows, key width), values (rows,
/// value width), in f32, f16 or both; positions (rows), no_position for a row that is dead, whose numbers are 0.
struct ReadInto {
  std::span<float> keys{};
  std::span<float> values{};
  std::span<half> half_keys{};
  std::span<half> half_values{};
  std::span<Position> positions{};
  Angle angle = Angle::position;
};

template <class P>
void KVCache<P>::read_one(std::size_t layer, std::size_t kv_head, std::size_t row, Angle angle, float* key, float* value) {
  const Lane& from = at(layer).lanes[kv_head];
  const RowTable& rows = at(layer).table(kv_head);
  Rotation& rotation = workspace_.rotation_of(shape_.store(layer));
  const bool in_keys = detail::facts_of(from.values).in_keys;
  if (!in_keys) { from.values.read(row, value); }  // first: it may fail
  from.read_key(row, rows, rotation, key);
  if (in_keys) { std::copy_n(key, shape_.of(layer).value_width(), value); }
  const std::int64_t held = rows.turned(row);
  std::int64_t wanted = held;
  if (angle == Angle::position && rows.alive(row)) { wanted = rows.position(row); }
  if (angle == Angle::unrotated) { wanted = 0; }
  if (wanted == held) { return; }
  rotation.turn_by(wanted - held);
  rotation.apply(key);
}

template <class P>
void KVCache<P>::read(std::size_t layer, std::size_t kv_head, std::size_t row, float* key, float* value) {
  detail::check_lane(shape_, "read", layer, kv_head);
  const RowTable& rows = at(layer).table(kv_head);
  const Shape& shape = shape_.of(layer);
  require(row < rows.rows(), ErrorCode::shape, "read: row is ", row, ", must be less than ", rows.rows());
  require(key != nullptr, ErrorCode::input, "read: key is null, must have room for ", shape.key_width(), " numbers");
  require(value != nullptr, ErrorCode::input, "read: value is null, must have room for ", shape.value_width(), " numbers");
  read_one(layer, kv_head, row, Angle::position, key, value);
}

template <class P>
void KVCache<P>::read_rows(std::size_t layer, std::size_t kv_head, RowRange range, const ReadInto& into) {
  detail::check_lane(shape_, "read_rows", layer, kv_head);
  const RowTable& rows = at(layer).table(kv_head);
  require(range.first <= range.last && range.last <= rows.rows(), ErrorCode::shape, "read_rows: rows are [", range.first, ", ", range.last,
          "), must be ascending and within the ", rows.rows(), " rows of the lane");
  check_named("read_rows: angle", into.angle);
  const auto room = [&](const char* name, std::size_t numbers, std::size_t width) {
    require(numbers == 0 || numbers >= range.size() * width, ErrorCode::input, "read_rows: ", name, " has room for ", numbers,
            " numbers, must have for ", range.size() * width, ": ", range.size(), " rows of ", width);
  };
  const std::size_t key_width = shape_.of(layer).key_width();
  const std::size_t value_width = shape_.of(layer).value_width();
  room("keys", into.keys.size(), key_width);
  room("half_keys", into.half_keys.size(), key_width);
  room("values", into.values.size(), value_width);
  room("half_values", into.half_values.size(), value_width);
  room("positions", into.positions.size(), 1);
  float* const key = row_.data();
  float* const value = key + key_width;
  const auto give = [](const auto& to, std::size_t i, const float* numbers, std::size_t width) {
    using T = std::remove_cvref_t<decltype(to.front())>;
    for (std::size_t c = 0; !to.empty() && c < width; ++c) { to[i * width + c] = T(numbers[c]); }
  };
  for (std::size_t row = range.first; row < range.last; ++row) {
    const std::size_t i = row - range.first;
    if (!into.positions.empty()) { into.positions[i] = rows.position(row); }
    rows.alive(row) ? read_one(layer, kv_head, row, into.angle, key, value) : static_cast<void>(std::fill(key, value + value_width, 0.0F));
    give(into.keys, i, key, key_width);
    give(into.half_keys, i, key, key_width);
    give(into.values, i, value, value_width);
    give(into.half_values, i, value, value_width);
  }
}

}  // namespace kvcompress
