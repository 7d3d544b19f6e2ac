// include/kvcompress/eviction/scorers/output_change.hpp - how much the outputs of the last queries would change without a row.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/eviction/decoded_rows.hpp"
#include "kvcompress/eviction/scorers/window_attention.hpp"
#include "kvcompress/eviction/scorers/window_probabilities.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Squared change of the attention outputs o of the last `window` queries of a prompt, if a row of probability p and value v were not there:
/// (p / (1 - p + epsilon))^2 |v - o|^2, added up over the queries, the mean over the query heads of the KV head, averaged over `kernel` neighbours
/// in text order. The window itself stays. Cost: window/tokens of the prompt's attention, and as much again for outputs and changes; decodes the
/// values twice; window * group * 4 bytes per row and lane until the end of the prompt, none afterwards.
///
/// Source: DropKV, NVIDIA/kvpress@7fb862554f55:dropkv_press.py (an open proposal). There the square is expanded in float, which loses all digits
/// where one row has nearly all attention; here it is not.
struct OutputChange : ScoredRows {
  static constexpr std::string_view name = "output_change";
  static constexpr Needs may{Decides::once, Observes::last_prompt_queries};
  struct Options {
    std::size_t window = 32;  ///< observing queries, at least 1
    std::size_t kernel = 7;   ///< pooling width, odd, at most 65535; 1 means none
    double epsilon = 1e-6;    ///< 1e-12 to 1
    static void fields(auto& options, auto&& field) {
      field("window", options.window);
      field("kernel", options.kernel);
      field("epsilon", options.epsilon);
    }
  };
  using State = WindowProbabilities;

  static void validate(const Options& options, const Shape&) {
    WindowAttention::validate(WindowAttention::Options{options.window, options.kernel}, name);
    require(options.epsilon >= 1e-12 && options.epsilon <= 1.0, ErrorCode::option, "output_change: epsilon is ", options.epsilon,
            ", must be 1e-12 to 1");
  }
  static constexpr std::size_t row_bytes(const Options&, const Shape&) noexcept { return 0; }
  static State state(const Options& options, const Site& site, const Memory& memory) {
    return State(options.window * site.shape.group(), memory);
  }
  static std::size_t window(const Options& options) noexcept { return options.window; }
  static std::size_t recent(const Options& options, std::size_t /*budget*/) noexcept { return options.window; }
  static void start(const Options&, State& state) noexcept { state.forget(); }
  static void observe(const Options&, State& state, std::size_t /*head*/, std::span<const float> probabilities) {
    state.add(probabilities);
  }
  static std::span<const float> score(const Options& options, const LaneView& lane, const RowTable& rows, const Moment& moment,
                                      std::span<float> out) {
    State& state = lane.state<State>();
    const std::size_t width = lane.site.shape.value_width();
    const std::size_t queries = state.queries();
    const auto p = [&](std::size_t query, std::size_t row) { return static_cast<double>(state.get(row, query)); };
    Vector<double> outputs = numbers_of<double>(moment, queries * width);
    for_each_value(lane, rows, moment, [&](std::size_t row, const float* value) {
      for (std::size_t q = 0; q < queries; ++q) {
        for (std::size_t c = 0; c < width; ++c) { outputs[q * width + c] += p(q, row) * static_cast<double>(value[c]); }
      }
    });
    std::fill(out.begin(), out.end(), 0.0F);
    for_each_value(lane, rows, moment, [&](std::size_t row, const float* value) {
      double sum = 0.0;
      for (std::size_t q = 0; q < queries; ++q) {
        double square = 0.0;
        for (std::size_t c = 0; c < width; ++c) {
          const double difference = static_cast<double>(value[c]) - outputs[q * width + c];
          square += difference * difference;
        }
        const double odds = p(q, row) / (1.0 - p(q, row) + options.epsilon);
        sum += odds * odds * square;
      }
      out[row] = static_cast<float>(sum / static_cast<double>(lane.site.shape.group()));
    });
    state.forget();
    return out;
  }
  /// Unlike SnapKV's, the average takes in the window.
  static void join(const Options& options, RowSet& set, std::span<float> scores, const Moment& moment) {
    WindowAttention::join({0, options.kernel, Pooling::average}, set, scores, moment);
  }
};

}  // namespace kvcompress
