// include/kvcompress/eviction/scorers/window_attention.hpp - SnapKV's score: what the last queries of the prompt look at, pooled.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/eviction/scored.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// How neighbouring scores are joined: the mean with a divisor that is always the kernel size, or the maximum.
enum class Pooling { average, max };
constexpr auto names_of(Pooling) noexcept { return std::array{"average", "max"}; }

/// Attention that the last `window` queries of the prompt give a row, over the query heads of the KV head, pooled over neighbours in text
/// order. The window itself stays. See ObservationWindow.
struct WindowAttention : AttentionScoredRows {
  static constexpr std::string_view name = "window_attention";
  static constexpr Needs may{Decides::once, Observes::last_prompt_queries};
  struct Options {
    std::size_t window = 32;                ///< observing queries, at least 1
    std::size_t kernel = 7;                 ///< pooling width, odd, at most 65535; 1 means none
    Pooling pooling = Pooling::max;         ///< the published configurations use max, the code's default is average
    Reduction reduction = Reduction::mean;  ///< over the query heads of a KV head
    static void fields(auto& options, auto&& field) {
      field("window", options.window);
      field("kernel", options.kernel);
      field("pooling", options.pooling);
      field("reduction", options.reduction);
    }
  };

  static void validate(const Options& options, const Shape&) { validate(options, "window_attention"); }
  /// With the name of the policy that has these options.
  static void validate(const auto& options, std::string_view policy) {
    require(options.window > 0, ErrorCode::option, policy, ": window is 0, must be at least 1");
    require(options.window <= most_rows, ErrorCode::option, policy, ": window is ", options.window, ", must be 1 to ", most_rows);
    require(options.kernel % 2 == 1, ErrorCode::option, policy, ": kernel is ", options.kernel, ", must be odd");
    require(options.kernel <= 65535, ErrorCode::option, policy, ": kernel is ", options.kernel, ", must be 1 to 65535");
    require(static_cast<std::size_t>(options.pooling) < 2, ErrorCode::option, policy, ": pooling is ",
            static_cast<std::size_t>(options.pooling), ", must be a value of its enumeration, 0 to 1");
    require(static_cast<std::size_t>(options.reduction) < 3, ErrorCode::option, policy, ": reduction is ",
            static_cast<std::size_t>(options.reduction), ", must be a value of its enumeration, 0 to 2");
  }
  static std::size_t window(const Options& options) noexcept { return options.window; }
  /// A prompt's queries are about to be observed: scores of an earlier prompt are forgotten.
  static void start(const Options&, State& state) noexcept { state.forget(); }
  static std::size_t recent(const Options& options, std::size_t /*budget*/) noexcept { return options.window; }

  /// Pools the scores of the rows before the window over their neighbours in text order.
  static void join(const Options& options, RowSet& set, std::span<float> scores, const Moment& moment) {
    set.sort_rows();
    const std::size_t count = set.order.size() - std::min(set.order.size(), options.window);
    Vector<float>& before = moment.scratch.rows;
    before.resize(std::max(before.size(), count));
    for (std::size_t i = 0; i < count; ++i) { before[i] = scores[set.order[i]]; }
    const std::size_t reach = options.kernel / 2;
    for (std::size_t i = 0; i < count; ++i) {
      const auto first = before.begin() + static_cast<std::ptrdiff_t>(i - std::min(i, reach));
      const auto last = before.begin() + static_cast<std::ptrdiff_t>(std::min(i + reach + 1, count));
      float pooled = 0.0F;
      if (options.pooling == Pooling::max) {
        pooled = *std::max_element(first, last);
      } else {
        for (auto score = first; score != last; ++score) { pooled += *score; }
        pooled /= static_cast<float>(options.kernel);
      }
      scores[set.order[i]] = pooled;
    }
  }
};

}  // namespace kvcompress
