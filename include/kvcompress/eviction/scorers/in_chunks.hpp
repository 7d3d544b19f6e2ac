// include/kvcompress/eviction/scorers/in_chunks.hpp - a scorer that sees one chunk of neighbouring rows at a time.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/eviction/decoded_rows.hpp"
#include "kvcompress/eviction/evict.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// The scores of S, which compares rows, of each chunk of `length` rows in text order as if there were no others. For scorers of keys and values. Cost:
/// that of S, and 16 bytes per row of scratch.
template <Scorer S>
struct InChunks : S {
  struct Options {
    std::size_t length = 1024;  ///< rows of a chunk, at least 1
    typename S::Options scorer{};
    static void fields(auto& options, auto&& field) {
      field("length", options.length);
      options.scorer.fields(options.scorer, field);
    }
  };
  static void validate(const Options& options, const Shape& shape) {
    check_bounds("in_chunks: length", options.length, 1);
    S::validate(options.scorer, shape);
  }
  static std::size_t row_bytes(const Options& options, const Shape& shape) { return S::row_bytes(options.scorer, shape); }
  static typename S::State state(const Options& options, const Site& site, const Memory& memory) {
    return S::state(options.scorer, site, memory);
  }
  static std::size_t recent(const Options& options, std::size_t budget) { return S::recent(options.scorer, budget); }
  static std::span<const float> score(const Options& options, const LaneView& lane, const RowTable& rows, const Moment& moment,
                                      std::span<float> out) {
    const Vector<Position> order = rows_in_text_order(rows, moment);
    Vector<Position> spare(order.get_allocator());
    Vector<float> room = numbers_of<float>(moment, rows.rows());
    for (std::size_t first = 0; first < order.size(); first += options.length) {
      const std::size_t last = std::min(first + options.length, order.size());
      RowTable chunk(rows);
      chunk.prepare_to_kill(spare);
      for (std::size_t i = 0; i < order.size(); ++i) {
        if (i < first || i >= last) { chunk.kill(order[i]); }
      }
      const std::span<const float> own = S::score(options.scorer, lane, chunk, moment, room);
      for (std::size_t i = first; i < last; ++i) { out[order[i]] = own[order[i]]; }
    }
    return out;
  }
};

}  // namespace kvcompress
