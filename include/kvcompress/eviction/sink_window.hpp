// include/kvcompress/eviction/sink_window.hpp - StreamingLLM's rule: the first tokens and a window of the newest ones.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/concepts/eviction.hpp"
#include "kvcompress/core/no_state.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Keeps the first `sinks` rows and the newest `window` rows; by default attention sees them at in-cache positions 0, 1, 2, ...
///
/// Source: "Efficient Streaming Language Models with Attention Sinks"; mit-han-lab/streaming-llm@2e5042606d69
/// (StartRecentKVCache: trim after appending; position-shifted attention over the sinks + window + new rows).
/// Cost: O(sinks + window) per layer and commit. In-cache positions cost one extra rotation of the query per run of rows with equal
/// distance between position and slot (here two runs), 8 bytes per row and layer.
/// Loses: every fact that lives only in the middle of the text.
/// A later end_prompt trims like any commit.
struct SinkWindow {
  static constexpr std::string_view name = "sink_window";
  static constexpr Needs may{.agrees = Scope::group};

  struct Options {
    std::size_t sinks = 4;           ///< first rows, 0 or more
    std::size_t window = 1020;       ///< newest rows, at least 1
    bool in_cache_positions = true;  ///< renumber as the paper's code does; false keeps original positions
    static void fields(auto& options, auto&& field) {
      field("sinks", options.sinks);
      field("window", options.window);
      field("in_cache_positions", options.in_cache_positions);
    }
  };
  using State = NoState;

  static void validate(const Options& options, const Shape&) {
    require(options.window > 0 && options.window < no_position, ErrorCode::option, "streaming: window is ", options.window,
            ", must be 1 to ", no_position - 1);
    require(options.sinks < no_position, ErrorCode::option, "streaming: sinks is ", options.sinks, ", must be less than ", no_position);
  }
  static bool renumbers(const Options& options) noexcept { return options.in_cache_positions; }
  static constexpr std::size_t row_bytes(const Options&, const Shape&) noexcept { return 0; }
  static State state(const Options&, const Site&, const Memory&) noexcept { return {}; }

  static void select(const Options& options, std::span<RowSet> sets, const Moment&) {
    for (RowSet& set : sets) {
      if (set.rows.live() <= options.sinks + options.window) { continue; }
      const Position first_gone = set.oldest(options.sinks);
      const Position first_kept = set.newest(options.window - 1);
      const std::span<const Position> positions = set.rows.positions();
      if (set.rows.live() == options.sinks + options.window + 1 && !positions.empty()) {  // every step of decoding
        set.drop[detail::row_at(positions, first_gone)] = 1;
        continue;
      }
      for (std::size_t r = 0; r < set.rows.rows(); ++r) {
        const Position p = set.rows.position(r);
        set.drop[r] = p >= first_gone && p < first_kept ? 1 : 0;
      }
    }
  }
};

}  // namespace kvcompress
