// include/kvcompress/eviction/dispositions/value_spread.hpp - CaM's rule: values of rows that go are spread over the rows that follow them.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "kvcompress/concepts/eviction.hpp"
#include "kvcompress/core/bounds.hpp"
#include "kvcompress/core/random_bits.hpp"
#include "kvcompress/core/row_scores.hpp"
#include "kvcompress/eviction/decoded_rows.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Draws by a hash of seed, lane and position, so that no result depends on the order of calls.
struct HashedDraws {
  /// Whether the row at `position`, the `rank`-th candidate of its lane, is merged, of a probability.
  static bool merges(std::size_t seed, const Site& site, std::size_t /*rank*/, Position position, double probability) noexcept {
    return (static_cast<double>(random_bits(random_bits(seed, site) + position) >> 11U) + 0.5) * 0x1p-53 < probability;
  }
};

/// Of the rows that go, the `candidates` best by the eviction's scores (all, where it has none) may be merged, each with the probability a / b, at
/// most 1: a the attention that it got from queries after the prompt, b the mean of that of the next `spread` rows that stay. Then its value, divided
/// by their number, is added to theirs. Keys and weights stay as they are. Nothing is merged when a prompt ends.
///
/// Source: "CaM: Cache Merging for Memory-efficient LLMs Inference", as NVIDIA/kvpress@8bb29b9c3078:kvpress/presses/cam_press.py. Deviation: random
/// numbers are hashes; by Draws.
/// Observes every query. Cost: column sums in attend, 4 bytes per row and lane; a decision reads the values of candidates and of the rows behind
/// them. Loses: the values of rows that are not merged; what is added makes values longer.
template <class Draws = HashedDraws>
struct ValueSpread {
  static constexpr std::string_view name = "value_spread";
  static constexpr Needs may{.observes = Observes::every_query, .rewrites = true};
  using State = RowScores;

  struct Options {
    std::size_t candidates = 128;  ///< rows of a decision that may be merged
    std::size_t spread = 32;       ///< rows that one is merged into, at least 1
    std::size_t seed = 0;
    static void fields(auto& options, auto&& field) {
      field("candidates", options.candidates);
      field("spread", options.spread);
      field("seed", options.seed);
    }
  };

  static void validate(const Options& options, const Shape&) {
    check_bounds("value_spread: candidates", options.candidates);
    check_bounds("value_spread: spread", options.spread, 1);
  }
  static constexpr std::size_t row_bytes(const Options&, const Shape&) noexcept { return RowScores::row_bytes(1); }
  static State state(const Options&, const Site&, const Memory& memory) { return State(1, memory); }
  static void observe(const Options&, State& state, std::size_t /*head*/, std::span<const float> probabilities) noexcept {
    state.add(0, probabilities);
  }

  static void dispose(const Options& options, std::span<RowSet> sets, const Moment& moment) {
    for (const RowSet& set : sets) {
      if (moment.end_of_prompt) {
        for (const LaneView& lane : set.lanes) { lane.state<State>().forget(); }
        continue;
      }
      if (std::find(set.drop.begin(), set.drop.end(), 1) == set.drop.end()) { continue; }
      const Vector<Position> rows = rows_in_text_order(set.rows, moment);
      const Vector<Position> chosen = choose(options, set, rows);
      for (const LaneView& lane : set.lanes) { spread(options, set, lane, rows, chosen, moment); }
    }
  }

 private:
  /// The best rows that go, in text order.
  static Vector<Position> choose(const Options& options, const RowSet& set, const Vector<Position>& rows) {
    Vector<Position> chosen(rows.get_allocator());
    for (const Position row : rows) {
      if (set.drop[row] != 0) { chosen.push_back(row); }
    }
    if (set.scores.empty() || chosen.size() <= options.candidates) { return chosen; }
    const auto older = [&](Position a, Position b) { return set.rows.position(a) < set.rows.position(b); };
    std::sort(chosen.begin(), chosen.end(),
              [&](Position a, Position b) { return set.scores[a] != set.scores[b] ? set.scores[a] > set.scores[b] : older(a, b); });
    chosen.resize(options.candidates);
    std::sort(chosen.begin(), chosen.end(), older);
    return chosen;
  }
  static void spread(const Options& options, const RowSet& set, const LaneView& lane, const Vector<Position>& rows,
                     const Vector<Position>& chosen, const Moment& moment) {
    const State& sums = lane.state<State>();
    const std::size_t width = lane.site.shape.value_width();
    Vector<Position> kept(rows.get_allocator());
    for (const Position row : rows) {
      if (set.drop[row] == 0 && row >= set.first_writable) { kept.push_back(row); }
    }
    Vector<double> added = numbers_of<double>(moment, kept.size() * width);
    Vector<unsigned char> gets = numbers_of<unsigned char>(moment, kept.size());
    Vector<float> value = numbers_of<float>(moment, width);
    std::size_t next = 0;
    for (std::size_t rank = 0; rank < chosen.size(); ++rank) {
      const Position position = set.rows.position(chosen[rank]);
      while (next < kept.size() && set.rows.position(kept[next]) < position) { ++next; }
      const std::size_t count = std::min(options.spread, kept.size() - next);
      if (count == 0) { break; }
      double mean = 0.0;
      for (std::size_t i = next; i < next + count; ++i) { mean += static_cast<double>(sums.get(kept[i], 0)) / static_cast<double>(count); }
      const auto own = static_cast<double>(sums.get(chosen[rank], 0));
      const double probability = own <= 0.0 ? 0.0 : mean > own ? own / mean : 1.0;
      if (!Draws::merges(options.seed, lane.site, rank, position, probability)) { continue; }
      lane.values({chosen[rank], chosen[rank] + std::size_t{1}}, value.data());
      for (std::size_t i = next; i < next + count; ++i) {
        gets[i] = 1;
        for (std::size_t c = 0; c < width; ++c) { added[i * width + c] += static_cast<double>(value[c]) / static_cast<double>(count); }
      }
    }
    for (std::size_t i = 0; i < kept.size(); ++i) {
      if (gets[i] == 0) { continue; }
      lane.values({kept[i], kept[i] + std::size_t{1}}, value.data());
      for (std::size_t c = 0; c < width; ++c) { value[c] = static_cast<float>(static_cast<double>(value[c]) + added[i * width + c]); }
      set.write(lane, kept[i], {}, {value.data(), width});
    }
  }
};

}  // namespace kvcompress
