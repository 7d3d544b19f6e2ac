// include/kvcompress/eviction/scorers/non_causal_attention.hpp - what the queries of a chunk give its rows where each sees all of them.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/core/bounds.hpp"
#include "kvcompress/core/math.hpp"
#include "kvcompress/eviction/scorers/prompt_queries.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Rows in text order, in chunks of `chunk`: the attention that the queries of a chunk give its rows, later ones included, with logits that are not
/// divided by the root of the key width; the sum over the queries, the mean over the query heads of the KV head, times the length of the value,
/// averaged over three neighbours; then all heads of the layer are brought to mean 0 and deviation 1 together.
///
/// Observes: the queries of the prompt (see QueriesScoredRows). Acts once, at the end of a prompt. Needs no question: later ones are as safe as the
/// budget lets them be. Cost at the end of a prompt: 2 * rows * chunk * group * key width products per lane, 24 bytes per row of scratch.
///
/// Source: NVIDIA/kvpress@8bb29b9c3078:non_causal_attention_press.py, of "Compactor: Calibrated Query-Agnostic KV Cache Compression with Approximate
/// Leverage Scores". Deviation: there the last chunk, where it is shorter, is filled with keys of logit 0 and with queries that see everything
/// alike; here it is shorter.
struct NonCausalAttention : QueriesScoredRows {
  static constexpr std::string_view name = "non_causal_attention";
  struct Options {
    std::size_t chunk = 256;  ///< rows that see each other, 1 to 65536
    static void fields(auto& options, auto&& field) { field("chunk", options.chunk); }
  };
  static void validate(const Options& options, const Shape&) { check_bounds("non_causal_attention: chunk", options.chunk, 1, 65536); }

  static std::span<const float> score(const Options& options, const LaneView& lane, const RowTable& rows, const Moment& moment,
                                      std::span<float> out) {
    const Vector<Position> order = rows_in_text_order(rows, moment);
    std::fill(out.begin(), out.end(), 0.0F);
    of_rows(options.chunk, lane, rows, {order.data(), order.size()}, 0, moment, out);
    return out;
  }
  static void compare(const Options&, std::span<RowSet> sets, std::span<const std::span<float>> scores, const Moment&) {
    standardize(sets, scores, [](const RowSet& set, std::size_t row) { return set.rows.alive(row); });
  }

  /// Of the rows `order`, which `after` more follow in the text, without the last step.
  static void of_rows(std::size_t chunk, const LaneView& lane, const RowTable& rows, std::span<const Position> order, std::size_t after,
                      const Moment& moment, std::span<float> out) {
    const std::size_t group = lane.site.shape.group();
    Vector<double> sums = numbers_of<double>(moment, order.size());
    for (std::size_t first = 0; first < order.size(); first += chunk) {
      const std::size_t count = std::min(chunk, order.size() - first);
      columns(lane, rows, order.subspan(first, count), order.size() - first - count + after, moment, {sums.data() + first, count});
    }
    const std::size_t width = lane.site.shape.value_width();
    Vector<float> products = numbers_of<float>(moment, rows.rows());
    for_each_value(lane, rows, moment, [&](std::size_t row, const float* value) {
      products[row] = math::sqrt(detail::dot_of(value, value, width)) / static_cast<float>(group);
    });
    for (std::size_t i = 0; i < order.size(); ++i) { sums[i] *= static_cast<double>(products[order[i]]); }
    for (std::size_t i = 0; i < order.size(); ++i) {
      const double before = i > 0 ? sums[i - 1] : 0.0;
      const double behind = i + 1 < order.size() ? sums[i + 1] : 0.0;
      out[order[i]] = static_cast<float>((before + sums[i] + behind) / 3.0);
    }
  }
  /// Scores of the rows of a layer's sets that takes(set, row) names get mean 0 and, unbiased, deviation 1, all of them together.
  static void standardize(std::span<RowSet> sets, std::span<const std::span<float>> scores, auto&& takes) {
    double count = 0.0;
    double sum = 0.0;
    double squares = 0.0;
    const auto each = [&](auto&& visit) {
      for (std::size_t i = 0; i < sets.size(); ++i) {
        for (std::size_t r = 0; r < scores[i].size(); ++r) {
          if (takes(sets[i], r)) { visit(scores[i][r]); }
        }
      }
    };
    each([&](float x) { count += 1.0, sum += static_cast<double>(x); });
    const double mean = sum / std::max(1.0, count);
    each([&](float x) { squares += (static_cast<double>(x) - mean) * (static_cast<double>(x) - mean); });
    const double deviation = std::max(math::sqrt(squares / std::max(1.0, count - 1.0)), 1e-30);
    each([&](float& x) { x = static_cast<float>((static_cast<double>(x) - mean) / deviation); });
  }

 private:
  /// Adds what the queries of the rows of a chunk, behind which `after` rows follow, give to each of them.
  static void columns(const LaneView& lane, const RowTable& rows, std::span<const Position> chunk, std::size_t after, const Moment& moment,
                      std::span<double> sums) {
    const PromptQueries& state = lane.state<PromptQueries>();
    const std::size_t width = lane.site.shape.key_width();
    Vector<float> keys = numbers_of<float>(moment, chunk.size() * width);
    for (std::size_t i = 0; i < chunk.size(); ++i) { lane.keys({chunk[i], chunk[i] + std::size_t{1}}, keys.data() + i * width); }
    Vector<float> query = numbers_of<float>(moment, width);
    Vector<double> probabilities = numbers_of<double>(moment, chunk.size());
    for (std::size_t t = 0; t < chunk.size(); ++t) {
      const std::size_t ago = chunk.size() - 1 - t + after;
      for (std::size_t head = 0; ago < state.count() && head < lane.site.shape.group(); ++head) {
        std::copy_n(state.query(ago, head), width, query.begin());
        lane.turn(std::int64_t{rows.position(chunk[t])}, query.data());
        double largest = -1e300;
        for (std::size_t i = 0; i < chunk.size(); ++i) {
          probabilities[i] = static_cast<double>(detail::dot_of(query.data(), keys.data() + i * width, width));
          largest = std::max(largest, probabilities[i]);
        }
        double sum = 0.0;
        for (double& p : probabilities) {
          p = math::exp(p - largest);
          sum += p;
        }
        for (std::size_t i = 0; i < chunk.size(); ++i) { sums[i] += probabilities[i] / sum; }
      }
    }
  }
};

}  // namespace kvcompress
