// include/kvcompress/eviction/shared_windows.hpp - WindowKV's rule: windows of neighbouring rows, chosen by one layer for those after it.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>

#include "kvcompress/core/bounds.hpp"
#include "kvcompress/eviction/decoded_rows.hpp"
#include "kvcompress/eviction/scored.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// What a window of rows is worth: the mean of its rows, or of its better half.
enum class WindowWorth { average, max };
constexpr auto names_of(WindowWorth) noexcept { return std::array{"average", "max"}; }

/// At the end of the last layer's prompt: the rows before the last `suffix`, in windows of `window` rows, the last one shorter. The first of every
/// `shared` layers chooses for all of them, by the attention of the last `suffix` queries over all of its heads: the windows that are worth least go
/// until no more rows are left than the layer's budget. The suffix stays, and rows that are decoded later. `budget` is rows per lane, suffix
/// included, on average over the layers: from group to group it falls by equal steps, to shared/beta of the even one.
///
/// Observes: the last `suffix` queries of a prompt. Acts once, when the last layer has ended its prompt; until then all prompts are held in full.
/// Bytes: 4 * group per row and lane. Drafts can be taken back. Later questions find what this one's window looked at. Cost: suffix/tokens of the
/// prompt's attention and a sort of the windows.
///
/// Source: "WindowKV: Task-Adaptive Group-Wise KV Cache Window Selection for Efficient LLM Inference"; optim996/WindowKV@7513467999fe:
/// models/compress_utils.py, whose classifier of tasks is the option `worth` here: average for tasks that collect, suffix 16 there; max for
/// those that look something up, suffix 32. Deviations: where the shorter last window goes, it can be that one window more goes, for the budget's
/// sake; a layer whose rows are not those of the first of its group chooses itself.
struct SharedWindows : ScoredRows {
  static constexpr std::string_view name = "shared_windows";
  static constexpr Needs may{.decides = Decides::once, .observes = Observes::last_prompt_queries, .agrees = Scope::layer, .model = true};
  struct Options {
    Budget budget = 1024;                  ///< rows per lane, of rows or a fraction of the prompt, suffix included
    std::size_t suffix = 32;               ///< observing queries; their rows stay; 1 to budget - 1
    std::size_t window = 8;                ///< rows of a window, at least 1
    WindowWorth worth = WindowWorth::max;  ///< average or max
    std::size_t shared = 8;                ///< layers for which one chooses, at least 1
    std::size_t beta = 14;                 ///< the last group has shared/beta of the even budget, at least 1
    static void fields(auto& options, auto&& field) {
      field("budget", options.budget);
      field("suffix", options.suffix);
      field("window", options.window);
      field("worth", options.worth);
      field("shared", options.shared);
      field("beta", options.beta);
    }
  };

  static void validate(const Options& options, const Shape&) {
    options.budget.validate("shared_windows: budget");
    require(options.budget.bytes_of == 0, ErrorCode::option, "shared_windows: budget is ", options.budget.bytes_of,
            " bytes, must be rows or a fraction");
    check_bounds("shared_windows: suffix", options.suffix, 1, options.budget.rows_of > 0 ? options.budget.rows_of - 1 : most_rows);
    check_bounds("shared_windows: window", options.window, 1);
    check_named("shared_windows: worth", options.worth);
    check_bounds("shared_windows: shared", options.shared, 1);
    check_bounds("shared_windows: beta", options.beta, 1);
  }
  static std::size_t row_bytes(const Options&, const Shape& shape) noexcept { return RowScores::row_bytes(shape.group()); }
  static State state(const Options&, const Site& site, const Memory& memory) { return State(site.shape.group(), memory); }
  static std::size_t window(const Options& options) noexcept { return options.suffix; }
  static void start(const Options&, State& state) noexcept { state.forget(); }
  static void observe(const Options&, State& state, std::size_t head, std::span<const float> probabilities) noexcept {
    state.add(head, probabilities);
  }

  static void select(const Options& options, std::span<RowSet> sets, const Moment& moment) {
    if (!moment.end_of_prompt) { return; }
    const RowSet* leader = nullptr;
    for (RowSet& set : sets) {
      const Site& site = set.lanes.front().site;
      const double even = options.budget.fraction_of > 0.0
                              ? options.budget.fraction_of * static_cast<double>(moment.prompt_tokens - moment.padding)
                              : static_cast<double>(options.budget.rows_of);
      const std::size_t rows = rows_of_layer(options, static_cast<std::size_t>(even), site.layer, site.shape.layers);
      set.budget = std::max<std::size_t>(1, std::min(rows, set.rows.live()));
      const bool follows = leader != nullptr && site.layer % options.shared != 0 &&
                           leader->lanes.front().site.layer == site.layer / options.shared * options.shared &&
                           same_rows(leader->rows, set.rows);
      if (follows) {
        std::copy(leader->drop.begin(), leader->drop.end(), set.drop.begin());
      } else {
        choose(options, set, rows, moment);
        leader = &set;
      }
    }
  }
  /// Rows that a layer keeps where all keep `even` on average, suffix included.
  static std::size_t rows_of_layer(const Options& options, std::size_t even, std::size_t layer, std::size_t layers) noexcept {
    const std::size_t kept = std::min(options.suffix, even);
    const std::size_t groups = std::max<std::size_t>(1, layers / options.shared);
    const std::size_t last = std::min((even - kept) * options.shared / options.beta, even - kept);
    if (groups == 1) { return even; }
    const std::size_t first = 2 * (even - kept) - last;
    const std::size_t group = std::min(layer / options.shared, groups - 1);
    return kept + (group + 1 == groups ? last : first - group * ((first - last) / (groups - 1)));
  }
  /// What the windows of a set are worth, in text order, by the rows before the last `suffix`; leaves the rows in text order in set.order.
  static Vector<double> worths(const Options& options, RowSet& set, const Moment& moment) {
    set.sort_rows();
    const std::size_t rows = set.order.size() - std::min(set.order.size(), options.suffix);
    Vector<double> all = numbers_of<double>(moment, (rows + options.window - 1) / options.window);
    Vector<float> scores = numbers_of<float>(moment, options.window);
    double heads = 0.0;
    for (const LaneView& lane : set.lanes) {
      const State& state = lane.state<State>();
      heads += static_cast<double>(state.columns());
      for (std::size_t head = 0; head < state.columns(); ++head) {
        for (std::size_t w = 0; w < all.size(); ++w) {
          const std::size_t count = std::min(options.window, rows - w * options.window);
          for (std::size_t i = 0; i < count; ++i) { scores[i] = state.get(set.order[w * options.window + i], head); }
          std::sort(scores.begin(), scores.begin() + static_cast<std::ptrdiff_t>(count), [](float a, float b) { return a > b; });
          const std::size_t taken =
              options.worth == WindowWorth::average ? count : std::min(std::max<std::size_t>(1, options.window / 2), count);
          // The mean over all heads and rows is that of whole windows; there a shorter one is divided by its own rows, too.
          for (std::size_t i = 0; i < taken; ++i) { all[w] += static_cast<double>(scores[i]) / static_cast<double>(taken); }
        }
      }
    }
    for (double& worth : all) { worth /= heads; }
    return all;
  }

 private:
  static bool same_rows(const RowTable& a, const RowTable& b) noexcept {
    if (a.rows() != b.rows()) { return false; }
    for (std::size_t r = 0; r < a.rows(); ++r) {
      if (a.alive(r) != b.alive(r) || (a.alive(r) && a.position(r) != b.position(r))) { return false; }
    }
    return true;
  }
  static void choose(const Options& options, RowSet& set, std::size_t budget, const Moment& moment) {
    const Vector<double> all = worths(options, set, moment);
    const std::size_t rows = set.order.size() - std::min(set.order.size(), options.suffix);
    Vector<std::size_t> worst = numbers_of<std::size_t>(moment, all.size());
    for (std::size_t w = 0; w < worst.size(); ++w) { worst[w] = w; }
    std::sort(worst.begin(), worst.end(), [&](std::size_t a, std::size_t b) { return all[a] != all[b] ? all[a] < all[b] : a > b; });
    std::size_t left = set.order.size();
    for (std::size_t i = 0; i < worst.size() && left > budget; ++i) {
      const std::size_t first = worst[i] * options.window;
      const std::size_t last = std::min(first + options.window, rows);
      for (std::size_t r = first; r < last; ++r) { set.drop[set.order[r]] = 1; }
      left -= last - first;
    }
  }
};

}  // namespace kvcompress
