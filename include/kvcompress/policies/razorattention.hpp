// include/kvcompress/policies/razorattention.hpp - RazorAttention: retrieval heads keep everything, the others a window and the mean of the rest.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

#include "kvcompress/any/any_eviction.hpp"
#include "kvcompress/eviction/dispose.hpp"
#include "kvcompress/eviction/dispositions/mean_row.hpp"
#include "kvcompress/eviction/sink_window.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// First and newest rows, and one row that stands for all between them, at original positions.
struct CompensatedWindow : Disposed<SinkWindow, MeanRow> {
  using Base = Disposed<SinkWindow, MeanRow>;
  static constexpr std::string_view name = "compensated_window";
  struct Options : Base::Options {
    constexpr Options() { this->in_cache_positions = false; }
  };
};

/// A policy of such lanes alone, for RazorAttention by name: "heads 0.1,3.0: f16; rest: razorattention".
struct RazorLanes {
  using Eviction = CompensatedWindow;
};

/// "RazorAttention: Efficient KV Cache Compression Through Retrieval Heads", which has no public code: after its text. KV heads of which a query head
/// finds what was repeated keep everything; the others the first and the newest rows, and the mean of all between them with its weight (see MeanRow).
/// Keeps: n or sinks + 1 + window rows per lane. Observes: nothing. Loses: in the other heads what the middle of the text has apart from its mean.
struct RazorAttention {
  using Eviction = AnyEviction;

  /// Which of two readings of the text counts what a query finds: the row where its token came last, or all of them.
  enum class Repeats { latest, all };
  /// How much a head looks at repeats, in the mean over the queries from the second block on.
  struct Looks {
    double echo;       ///< at the token itself, earlier
    double induction;  ///< at the one behind it
  };
  /// Of a head's causal attention, (tokens, tokens), to a block of `block` tokens that is repeated.
  [[nodiscard]] static Looks looks(std::span<const float> probabilities, std::size_t block, Repeats repeats) {
    std::size_t tokens = 0;
    while (tokens * tokens < probabilities.size()) { ++tokens; }
    require(block > 0 && tokens > block && tokens * tokens == probabilities.size(), ErrorCode::input, "razor_attention: there are ",
            probabilities.size(), " probabilities, must be those of a square of more than block = ", block, " tokens");
    Looks sum{};
    for (std::size_t t = block; t < tokens; ++t) {
      const auto row = probabilities.subspan(t * tokens, tokens);
      for (std::size_t back = block; back <= t && (repeats == Repeats::all || back == block); back += block) {
        sum.echo += static_cast<double>(row[t - back]);
        sum.induction += static_cast<double>(row[t - back + 1]);
      }
    }
    const auto queries = static_cast<double>(tokens - block);
    return {sum.echo / queries, sum.induction / queries};
  }
  /// Which lanes, (layers, KV heads), keep everything: those of the ceil(share * heads) query heads that echo most, and of those that induce most.
  /// `looks`: (layers, query heads). Of equal ones the earlier.
  [[nodiscard]] static std::vector<bool> full_lanes(std::span<const Looks> looks, std::size_t group, double echo_share,
                                                    double induction_share) {
    require(group > 0 && !looks.empty() && looks.size() % group == 0, ErrorCode::input, "razor_attention: looks has ", looks.size(),
            " entries, must have a multiple of ", group, " query heads per KV head");
    std::vector<bool> full(looks.size() / group);
    const auto best = [&](double share, double Looks::*what) {
      require(share >= 0.0 && share <= 1.0, ErrorCode::option, "razor_attention: a share of heads is ", share, ", must be 0 to 1");
      std::vector<std::size_t> order(looks.size());
      std::iota(order.begin(), order.end(), std::size_t{0});
      std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return looks[a].*what > looks[b].*what; });
      const double wanted = share * static_cast<double>(looks.size());
      auto count = static_cast<std::size_t>(wanted);
      count += wanted > static_cast<double>(count) ? 1U : 0U;
      for (std::size_t i = 0; i < count; ++i) { full[order[i] / group] = true; }
    };
    best(echo_share, &Looks::echo);
    best(induction_share, &Looks::induction);
    return full;
  }
  /// Options of a cache of such lanes.
  [[nodiscard]] static AnyEviction::Options options(const std::vector<bool>& full, const CompensatedWindow::Options& others = {}) {
    AnyEviction::Options options;
    options.chosen.entries.clear();
    for (const bool all : full) {  // entries stand in the order of their first lanes
      auto& entries = options.chosen.entries;
      const bool as_first = all == full.front();
      if (entries.size() == (as_first ? 0U : 1U)) {
        entries.push_back(all ? AnyEviction::of<KeepAll>() : AnyEviction::of<CompensatedWindow>(others));
      }
      options.chosen.of_lane.push_back(as_first ? std::uint16_t{0} : std::uint16_t{1});
    }
    return options;
  }
};

}  // namespace kvcompress
