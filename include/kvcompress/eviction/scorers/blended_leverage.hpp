// include/kvcompress/eviction/scorers/blended_leverage.hpp - Compactor's score: leverage of the keys and attention without a question, blended.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/eviction/scorers/key_leverage.hpp"
#include "kvcompress/eviction/scorers/non_causal_attention.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// `blending` times the leverage of a row (see KeyLeverage) and what NonCausalAttention says of it, each of the rows between the sinks, and each with
/// mean 0 and deviation 1 over all heads of the layer. The `first_rows` oldest and the `last_rows` newest rows stay. Observes, acts and costs what both
/// do.
///
/// Source: "Compactor: Calibrated Query-Agnostic KV Cache Compression with Approximate Leverage Scores"; NVIDIA/kvpress@8bb29b9c3078:compactor_press.py,
/// whose blending, where none is given, is the share of the rows that goes. Deviation: the last chunk, as NonCausalAttention says.
struct BlendedLeverage : QueriesScoredRows {
  static constexpr std::string_view name = "blended_leverage";
  struct Options {
    std::size_t first_rows = 8;  ///< oldest rows that stay
    std::size_t last_rows = 4;   ///< newest rows that stay
    std::size_t chunk = 256;     ///< rows that see each other, 1 to 65536
    double blending = 0.5;       ///< what leverage counts, 0 to 100
    KeyLeverage::Options leverage{};
    static void fields(auto& options, auto&& field) {
      field("first_rows", options.first_rows);
      field("last_rows", options.last_rows);
      field("chunk", options.chunk);
      field("blending", options.blending);
      KeyLeverage::Options::fields(options.leverage, field);
    }
    static void unnamed_fields(auto& options, auto&& field) { KeyLeverage::Options::unnamed_fields(options.leverage, field); }
  };

  static void validate(const Options& options, const Shape& shape) {
    check_bounds("blended_leverage: first_rows", options.first_rows);
    check_bounds("blended_leverage: last_rows", options.last_rows);
    check_bounds("blended_leverage: chunk", options.chunk, 1, 65536);
    require(options.blending >= 0.0 && options.blending <= 100.0, ErrorCode::option, "blended_leverage: blending is ", options.blending,
            ", must be 0 to 100");
    KeyLeverage::validate(options.leverage, shape);
  }

  static std::span<const float> score(const Options& options, const LaneView& lane, const RowTable& rows, const Moment& moment,
                                      std::span<float> out) {
    const Vector<Position> order = rows_in_text_order(rows, moment);
    std::fill(out.begin(), out.end(), 0.0F);
    const std::span<const Position> between = between_sinks(options, order);
    if (!between.empty()) { NonCausalAttention::of_rows(options.chunk, lane, rows, between, options.last_rows, moment, out); }
    return out;
  }
  static void compare(const Options& options, std::span<RowSet> sets, std::span<const std::span<float>> scores, const Moment& moment) {
    std::size_t rows = 0;
    for (const std::span<float> own : scores) { rows += own.size(); }
    Vector<float> room = numbers_of<float>(moment, rows);
    Vector<std::span<float>> leverage(Allocator<std::span<float>>(room.get_allocator()));
    std::size_t first = 0;
    for (const std::span<float> own : scores) {
      leverage.emplace_back(room.data() + first, own.size());
      first += own.size();
    }
    Vector<unsigned char> stays = numbers_of<unsigned char>(moment, rows);  // sinks and dead rows
    for (std::size_t i = 0; i < sets.size(); ++i) {
      add_leverage(options, sets[i], leverage[i], stays.data() + (leverage[i].data() - room.data()), moment);
    }
    const auto competes = [&](const RowSet& set, std::size_t row) {
      return stays[static_cast<std::size_t>(leverage[static_cast<std::size_t>(&set - sets.data())].data() - room.data()) + row] == 0;
    };
    NonCausalAttention::standardize(sets, scores, competes);
    NonCausalAttention::standardize(sets, {leverage.data(), leverage.size()}, competes);
    for (std::size_t i = 0; i < sets.size(); ++i) {
      for (std::size_t r = 0; r < scores[i].size(); ++r) {
        scores[i][r] = competes(sets[i], r)
                           ? static_cast<float>(options.blending * static_cast<double>(leverage[i][r]) + static_cast<double>(scores[i][r]))
                           : 3.4e38F;
      }
    }
  }

 private:
  static std::span<const Position> between_sinks(const Options& options, const Vector<Position>& order) noexcept {
    const std::size_t first = std::min(options.first_rows, order.size());
    const std::size_t last = order.size() - std::min(options.last_rows, order.size() - first);
    return {order.data() + first, last - first};
  }
  /// Leverage of the rows between the sinks, summed over the lanes of the set; marks the others.
  static void add_leverage(const Options& options, const RowSet& set, std::span<float> out, unsigned char* stays, const Moment& moment) {
    const Vector<Position> order = rows_in_text_order(set.rows, moment);
    const std::span<const Position> between = between_sinks(options, order);
    std::fill_n(stays, out.size(), static_cast<unsigned char>(1));
    for (const Position row : between) { stays[row] = 0; }
    if (between.empty()) { return; }
    RowTable competing(set.rows);
    Vector<Position> spare(order.get_allocator());
    competing.prepare_to_kill(spare);
    for (const Position row : order) {
      if (stays[row] != 0) { competing.kill(row); }
    }
    Vector<float> own = numbers_of<float>(moment, out.size());
    for (const LaneView& lane : set.lanes) {
      KeyLeverage::score(options.leverage, lane, competing, moment, own);
      for (const Position row : between) { out[row] += own[row]; }
    }
  }
};

}  // namespace kvcompress
