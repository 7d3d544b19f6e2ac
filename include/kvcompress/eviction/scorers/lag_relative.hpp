// include/kvcompress/eviction/scorers/lag_relative.hpp - LagKV's score: how uneven a row is in the scale of the rows that follow it.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/core/math.hpp"
#include "kvcompress/eviction/decoded_rows.hpp"
#include "kvcompress/eviction/scored.hpp"
#include "kvcompress/eviction/scorers/among_rows.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Rows after the sinks, in text order, in chunks of `lag`: the standard deviation over the channels of (x - min) / (max - min), with the minimum
/// and maximum of each channel in the next chunk; a softmax inside the chunk; the mean of what keys and values say; and, unless `across_chunks`,
/// the row's rank in its chunk by that. Sinks, the last whole chunk and what follows it score 1, above all others. With less than two chunks,
/// newer rows score more. A channel without range counts as 0. Needs no attention; decides once, at the end of a prompt. Cost: decodes keys
/// and values twice; (keys + values) * 8 / lag bytes per row of scratch, and 20.
///
/// Source: "LagKV: Lag-Relative Information of the KV Cache Tells Which Tokens Are Important"; NVIDIA/kvpress@8bb29b9c3078:lagkv_press.py.
struct LagRelative : ComputedRows {
  static constexpr std::string_view name = "lag_relative";
  static constexpr Needs may{.decides = Decides::once};
  struct Options {
    std::size_t first_rows = 4;  ///< sinks
    std::size_t lag = 128;       ///< rows of a chunk, at least 1
    bool across_chunks = false;  ///< compare rows of different chunks by their scores, not by their ranks
    static void fields(auto& options, auto&& field) {
      field("first_rows", options.first_rows);
      field("lag", options.lag);
      field("across_chunks", options.across_chunks);
    }
  };

  static void validate(const Options& options, const Shape&) {
    check_bounds("lag_relative: first_rows", options.first_rows);
    check_bounds("lag_relative: lag", options.lag, 1);
  }

  static constexpr std::size_t recent(const Options&, std::size_t /*budget*/) noexcept { return 1; }

  static std::span<const float> score(const Options& options, const LaneView& lane, const RowTable& rows, const Moment& moment,
                                      std::span<float> out) {
    const Vector<Position> order = rows_in_text_order(rows, moment);
    const std::size_t after = order.size() - std::min(order.size(), options.first_rows);
    const std::size_t chunks = after / options.lag;
    std::fill(out.begin(), out.end(), 1.0F);
    if (chunks < 2) {
      for (std::size_t i = 0; i < after; ++i) {
        out[order[options.first_rows + i]] = static_cast<float>(static_cast<double>(i) / static_cast<double>(after));
      }
      return out;
    }
    Vector<Position> chunk_of(rows.rows(), no_position, order.get_allocator());  // of rows after the sinks
    for (std::size_t i = 0; i < after; ++i) { chunk_of[order[options.first_rows + i]] = static_cast<Position>(i / options.lag); }
    const std::size_t key_width = lane.site.shape.key_width();
    const std::size_t width = key_width + lane.site.shape.value_width();
    Vector<float> least = numbers_of<float>(moment, chunks * width);
    Vector<float> most(least);
    std::fill(least.begin(), least.end(), 3.4e38F);
    std::fill(most.begin(), most.end(), -3.4e38F);
    for_each_row(lane, rows, moment, [&](std::size_t row, const float* key, const float* value) {
      for (std::size_t c = 0; chunk_of[row] < chunks && c < width; ++c) {
        const float x = c < key_width ? key[c] : value[c - key_width];
        float& low = least[chunk_of[row] * width + c];
        float& high = most[chunk_of[row] * width + c];
        low = std::min(low, x);
        high = std::max(high, x);
      }
    });
    const auto spread = [&](const float* x, std::size_t first, std::size_t count) {  // of channels with their ranges from `first` on
      double sum = 0.0;
      double squares = 0.0;
      for (std::size_t c = 0; c < count; ++c) {
        const double range = static_cast<double>(most[first + c]) - static_cast<double>(least[first + c]);
        const double scaled = range > 0.0 ? (static_cast<double>(x[c]) - static_cast<double>(least[first + c])) / range : 0.0;
        sum += scaled;
        squares += scaled * scaled;
      }
      const auto n = static_cast<double>(count);
      return math::sqrt(std::max(0.0, squares - sum * sum / n) / std::max(1.0, n - 1.0));
    };
    Vector<double> keys = numbers_of<double>(moment, rows.rows());
    Vector<double> values(keys);
    for_each_row(lane, rows, moment, [&](std::size_t row, const float* key, const float* value) {
      if (chunk_of[row] == no_position || chunk_of[row] + 1 >= chunks) { return; }
      const std::size_t next = (chunk_of[row] + std::size_t{1}) * width;
      keys[row] = spread(key, next, key_width);
      values[row] = spread(value, next + key_width, width - key_width);
    });
    for (std::size_t chunk = 0; chunk + 1 < chunks; ++chunk) {
      const std::span<const Position> members(order.data() + options.first_rows + chunk * options.lag, options.lag);
      softmax_among(members, keys);
      softmax_among(members, values);
      for (const Position row : members) { out[row] = static_cast<float>(0.5 * (keys[row] + values[row])); }
      if (!options.across_chunks) { rank_among(members, out, moment); }
    }
    return out;
  }
};

}  // namespace kvcompress
