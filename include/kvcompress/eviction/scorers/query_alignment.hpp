// include/kvcompress/eviction/scorers/query_alignment.hpp - CapKV's score: how much a value adds to what the values that queries look for span.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/core/cholesky.hpp"
#include "kvcompress/eviction/scorers/expected_attention.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// w * v^T (1 + sum over the rows of (w + epsilon) v v^T)^-1 v of the value v, where w is exp(sharpness * cosine) of the key and the mean query of the
/// next `future` positions, at most 1; the mean over the query heads of the KV head. The first `first_rows` rows stay.
///
/// Observes: the queries of the prompt, before their rotary embedding, but for the first `first_rows` (see ExpectedQueries, whose mean it is). Acts
/// once, at the end of a prompt. A prompt's queries cannot be taken back by truncate. Cost: key width per query and head; at the end of a prompt
/// rows * group * value width^2 products per lane, 8 * group * value width^2 bytes and 4 * group bytes per row of scratch.
///
/// Source: NVIDIA/kvpress@8bb29b9c3078:cap_press.py (CapKV), whose scores of the paper's unscaled dot products are those of unit vectors, too.
struct QueryAlignment : ExpectedQueries {
  static constexpr std::string_view name = "query_alignment";
  struct Options {
    std::size_t future = 512;    ///< positions that queries are expected at, 1 to 65536
    std::size_t first_rows = 4;  ///< sinks: first rows, and queries, left out of all statistics; they stay
    double sharpness = 5.0;      ///< 0 to 100
    double epsilon = 1e-6;       ///< 0 to 1
    static void fields(auto& options, auto&& field) {
      field("future", options.future);
      field("first_rows", options.first_rows);
      field("sharpness", options.sharpness);
      field("epsilon", options.epsilon);
    }
  };

  static void validate(const Options& options, const Shape&) {
    check_bounds("query_alignment: future", options.future, 1, 65536);
    check_bounds("query_alignment: first_rows", options.first_rows);
    require(options.sharpness >= 0.0 && options.sharpness <= 100.0, ErrorCode::option, "query_alignment: sharpness is ", options.sharpness,
            ", must be 0 to 100");
    require(options.epsilon >= 0.0 && options.epsilon <= 1.0, ErrorCode::option, "query_alignment: epsilon is ", options.epsilon,
            ", must be 0 to 1");
  }
  static constexpr std::size_t row_bytes(const Options&, const Shape&) noexcept { return 0; }
  static State state(const Options&, const Site&, const Memory& memory) { return State(memory); }
  static constexpr std::size_t recent(const Options&, std::size_t /*budget*/) noexcept { return 0; }
  static void make_room_for_queries(const Options&, State& state, const Shape& shape) {
    state.make_room(shape.group(), shape.key_width(), false);
  }
  static void observe_query(const Options& options, State& state, std::size_t head, const float* query) noexcept {
    if (!state.skips(head, options.first_rows)) { state.add(head, query); }
  }

  static std::span<const float> score(const Options& options, const LaneView& lane, const RowTable& rows, const Moment& moment,
                                      std::span<float> out) {
    const Shape& shape = lane.site.shape;
    const std::size_t group = shape.group();
    const std::size_t width = shape.value_width();
    const auto first = static_cast<Position>(options.first_rows + moment.padding);
    const auto counts = [&](std::size_t r) { return rows.alive(r) && rows.position(r) >= first; };
    const Vector<float> weights = weights_of(options, lane, rows, moment, counts);
    Vector<double> spans = numbers_of<double>(moment, group * width * width);
    for (std::size_t head = 0; head < group; ++head) {
      for (std::size_t c = 0; c < width; ++c) { spans[(head * width + c) * width + c] = 1.0; }
    }
    for_each_value(lane, rows, moment, [&](std::size_t r, const float* value) {
      for (std::size_t head = 0; counts(r) && head < group; ++head) {
        const double weight = static_cast<double>(weights[head * rows.rows() + r]) + options.epsilon;
        for (std::size_t a = 0; a < width; ++a) {
          double* const line = spans.data() + (head * width + a) * width;
          const double scaled = weight * static_cast<double>(value[a]);
          for (std::size_t b = 0; b <= a; ++b) { line[b] += scaled * static_cast<double>(value[b]); }
        }
      }
    });
    for (std::size_t head = 0; head < group; ++head) { cholesky::factor(spans.data() + head * width * width, width); }
    std::fill(out.begin(), out.end(), 3.4e38F);
    Vector<double> solved = numbers_of<double>(moment, width);
    for_each_value(lane, rows, moment, [&](std::size_t r, const float* value) {
      if (!counts(r)) { return; }
      double sum = 0.0;
      for (std::size_t head = 0; head < group; ++head) {
        std::copy_n(value, width, solved.begin());
        sum += static_cast<double>(weights[head * rows.rows() + r]) *
               cholesky::solved_square(spans.data() + head * width * width, solved.data(), width);
      }
      out[r] = static_cast<float>(sum / static_cast<double>(group));
    });
    return out;
  }

 private:
  /// (group, rows)
  static Vector<float> weights_of(const Options& options, const LaneView& lane, const RowTable& rows, const Moment& moment, auto&& counts) {
    const std::size_t width = lane.site.shape.key_width();
    const std::size_t group = lane.site.shape.group();
    const Vector<float> means = mean_queries(options.future, lane, moment);
    Vector<float> weights = numbers_of<float>(moment, group * rows.rows());
    Vector<double> largest = numbers_of<double>(moment, group);
    std::fill(largest.begin(), largest.end(), -2.0);
    const auto length = [&](const float* x) {
      double sum = 0.0;
      for (std::size_t c = 0; c < width; ++c) { sum += static_cast<double>(x[c]) * static_cast<double>(x[c]); }
      return std::max(math::sqrt(sum), 1e-12);
    };
    for_each_key(lane, rows, moment, [&](std::size_t r, const float* key) {
      for (std::size_t head = 0; counts(r) && head < group; ++head) {
        const float* const mean = means.data() + head * width;
        double dot = 0.0;
        for (std::size_t c = 0; c < width; ++c) { dot += static_cast<double>(mean[c]) * static_cast<double>(key[c]); }
        const double cosine = std::clamp(dot / (length(mean) * length(key)), -1.0, 1.0);
        weights[head * rows.rows() + r] = static_cast<float>(cosine);
        largest[head] = std::max(largest[head], cosine);
      }
    });
    for (std::size_t i = 0; i < weights.size(); ++i) {
      const double cosine = static_cast<double>(weights[i]);
      weights[i] = static_cast<float>(math::exp(options.sharpness * (cosine - largest[i / rows.rows()])));
    }
    return weights;
  }
};

}  // namespace kvcompress
