// include/kvcompress/eviction/dispositions/mean_row.hpp - rows that go are replaced by their mean, which weighs as much as they did.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <span>

#include "kvcompress/concepts/eviction.hpp"
#include "kvcompress/core/math.hpp"
#include "kvcompress/core/no_state.hpp"
#include "kvcompress/eviction/decoded_rows.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// The oldest row that goes stays instead, one row beside the budget, and becomes the mean of all that go, key and value each, with the sum of their
/// weights: for a query that looks at all of them alike attention is what it was. At the next decision that row goes first and is folded into the
/// mean with its weight, so that there is one such row in a lane, whose position is that of the first row that went. Keys are averaged as they are
/// held, rotated. Observes nothing. Cost: each row that goes is read once, in double; 4 bytes per row of the table.
/// Loses: what the rows had apart from their mean; in 16-bit rows also the digits that the mean loses each time.
struct MeanRow {
  static constexpr std::string_view name = "mean_row";
  static constexpr Needs may{.rewrites = true, .weighs = true};
  using State = NoState;
  struct Options {
    static void fields(auto&, auto&&) {}
  };

  static void validate(const Options&, const Shape&) noexcept {}
  static constexpr std::size_t row_bytes(const Options&, const Shape&) noexcept { return 0; }
  static State state(const Options&, const Site&, const Memory&) noexcept { return {}; }

  static void dispose(const Options&, std::span<RowSet> sets, const Moment& moment) {
    for (RowSet& set : sets) {
      const std::size_t carrier = oldest_that_goes(set);
      if (carrier == set.rows.rows()) { continue; }
      set.drop[carrier] = 0;
      double total = weight(set, carrier);
      bool alone = true;
      for (std::size_t r = 0; r < set.rows.rows(); ++r) {
        if (set.drop[r] == 0 || !set.rows.alive(r)) { continue; }
        total += weight(set, r);
        alone = false;
      }
      if (alone) { continue; }
      for (const LaneView& lane : set.lanes) { write_mean(set, lane, carrier, total, moment); }
      set.weigh(carrier, static_cast<float>(math::log(total)));
    }
  }

 private:
  static double weight(const RowSet& set, std::size_t row) noexcept { return math::exp(static_cast<double>(set.rows.log_weight(row))); }
  /// Of those that can be written; the number of rows if none is.
  static std::size_t oldest_that_goes(const RowSet& set) noexcept {
    std::size_t oldest = set.rows.rows();
    for (std::size_t r = set.first_writable; r < set.rows.rows(); ++r) {
      const bool goes = set.drop[r] != 0 && set.rows.alive(r);
      if (goes && (oldest == set.rows.rows() || set.rows.position(r) < set.rows.position(oldest))) { oldest = r; }
    }
    return oldest;
  }
  static void write_mean(const RowSet& set, const LaneView& lane, std::size_t carrier, double total, const Moment& moment) {
    const std::size_t key_width = lane.site.shape.key_width();
    const std::size_t width = key_width + lane.site.shape.value_width();
    Vector<double> mean = numbers_of<double>(moment, width);
    Vector<float> row = numbers_of<float>(moment, width);
    for (std::size_t r = 0; r < set.rows.rows(); ++r) {
      if ((set.drop[r] == 0 || !set.rows.alive(r)) && r != carrier) { continue; }
      lane.keys({r, r + 1}, row.data());
      lane.values({r, r + 1}, row.data() + key_width);
      const double share = weight(set, r) / total;
      for (std::size_t c = 0; c < width; ++c) { mean[c] += share * static_cast<double>(row[c]); }
    }
    for (std::size_t c = 0; c < width; ++c) { row[c] = static_cast<float>(mean[c]); }
    set.write(lane, carrier, {row.data(), key_width}, {row.data() + key_width, width - key_width});
  }
};

}  // namespace kvcompress
