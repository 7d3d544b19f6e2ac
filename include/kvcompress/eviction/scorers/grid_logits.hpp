// include/kvcompress/eviction/scorers/grid_logits.hpp - ScaleKV's score: what a grid of queries of the newest token map points to.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/core/bounds.hpp"
#include "kvcompress/core/math.hpp"
#include "kvcompress/eviction/scorers/prompt_queries.hpp"
#include "kvcompress/eviction/scorers/window_attention.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// For models that make an image map by map, each map a prompt: `window` rows of the newest map are a grid, the middles of its square patches, or its
/// newest rows where map or window are no squares or the map is smaller than the grid; of rows before the map its first query asks. They stay. Others have the sum of their logits with the
/// grid's queries, over the query heads of the KV head, pooled over `kernel` neighbours, the grid's rows left out.
///
/// Observes: the queries of the prompt (see QueriesScoredRows); those before the newest map are gone. Acts at the end of every map. Cost then: rows *
/// window * group * key width products, 8 bytes per row of scratch. Loses: what the grid does not point to, for later maps too.
///
/// Source: "Memory-Efficient Visual Autoregressive Modeling with Scale-Aware KV Cache Compression" (ScaleKV); StargazerX0/ScaleKV@eb0615a100fa:scale_kv.py.
/// Logits are summed as they are, without a softmax, as there: one query with large logits counts more than the others.
struct GridLogits : QueriesScoredRows {
  static constexpr std::string_view name = "grid_logits";
  struct Options {
    std::size_t window = 16;         ///< rows of the grid, 1 to 65536
    std::size_t kernel = 5;          ///< pooling width, odd, at most 65535; 1 means none
    Pooling pooling = Pooling::max;  ///< average: what has a row of the grid among its neighbours goes first, as there
    static void fields(auto& options, auto&& field) {
      field("window", options.window);
      field("kernel", options.kernel);
      field("pooling", options.pooling);
    }
  };
  static void validate(const Options& options, const Shape&) {
    check_bounds("grid_logits: window", options.window, 1, 65536);
    WindowAttention::validate(WindowAttention::Options{options.window, options.kernel, options.pooling}, name);
  }

  /// Where in a map of `tokens` rows the grid's are, ascending; negative: that many rows before the map.
  static Vector<std::int64_t> grid(std::size_t window, std::size_t tokens, const Memory& memory) {
    Vector<std::int64_t> rows(Allocator<std::int64_t>{memory});
    const std::size_t side = root_of(tokens);
    const std::size_t cells = root_of(window);
    const bool fits = side * side == tokens && cells * cells == window && side >= cells;
    for (std::size_t i = 0; i < window; ++i) {
      const std::size_t patch = fits ? side / cells : 0;
      const auto middle = [&](std::size_t cell) { return cell * patch + (patch - 1) / 2; };
      rows.push_back(fits ? static_cast<std::int64_t>(middle(i / cells) * side + middle(i % cells))
                          : static_cast<std::int64_t>(tokens) - static_cast<std::int64_t>(window - i));
    }
    return rows;
  }

  static std::span<const float> score(const Options& options, const LaneView& lane, const RowTable& rows, const Moment& moment,
                                      std::span<float> out) {
    const State& state = lane.state<State>();
    const std::size_t width = lane.site.shape.key_width();
    const std::size_t group = lane.site.shape.group();
    const Vector<Position> order = rows_in_text_order(rows, moment);
    const std::size_t tokens = std::min(state.count(), order.size());
    Vector<double> sum_of_queries = numbers_of<double>(moment, width);  // the logits' sum is the logit of the sum
    Vector<float> query = numbers_of<float>(moment, width);
    Vector<unsigned char> in_grid = numbers_of<unsigned char>(moment, order.size());
    for (const std::int64_t in_map : grid(options.window, tokens, Memory{})) {
      const std::int64_t at = in_map + static_cast<std::int64_t>(order.size() - tokens);
      if (at >= 0) { in_grid[static_cast<std::size_t>(at)] = 1; }
      const auto asks = static_cast<std::size_t>(std::max<std::int64_t>(0, in_map));  // the first one of the map for rows before it
      for (std::size_t head = 0; tokens > 0 && head < group; ++head) {
        std::copy_n(state.query(tokens - 1 - asks, head), width, query.begin());
        lane.turn(std::int64_t{rows.position(order[order.size() - tokens + asks])}, query.data());
        for (std::size_t c = 0; c < width; ++c) { sum_of_queries[c] += static_cast<double>(query[c]); }
      }
    }
    std::fill(out.begin(), out.end(), lowest);
    const double scale = 1.0 / math::sqrt(static_cast<double>(width));
    for_each_key(lane, rows, moment, [&](std::size_t row, const float* key) {
      double sum = 0.0;
      for (std::size_t c = 0; c < width; ++c) { sum += sum_of_queries[c] * static_cast<double>(key[c]); }
      out[row] = static_cast<float>(scale * sum);
    });
    pool(options, order, in_grid, moment, out);
    return out;
  }

 private:
  static constexpr float lowest = -3.4e38F;

  static std::size_t root_of(std::size_t square) noexcept {
    std::size_t root = 0;
    while ((root + 1) * (root + 1) <= square) { ++root; }
    return root;
  }
  static void pool(const Options& options, const Vector<Position>& order, const Vector<unsigned char>& in_grid, const Moment& moment,
                   std::span<float> out) {
    Vector<float> before = numbers_of<float>(moment, order.size());
    for (std::size_t i = 0; i < order.size(); ++i) { before[i] = in_grid[i] != 0 ? lowest : out[order[i]]; }
    const std::size_t reach = options.kernel / 2;
    for (std::size_t i = 0; i < order.size(); ++i) {
      double pooled = options.pooling == Pooling::max ? static_cast<double>(lowest) : 0.0;
      for (std::size_t j = i - std::min(i, reach); j < std::min(i + reach + 1, order.size()); ++j) {
        const auto own = static_cast<double>(before[j]);
        pooled = options.pooling == Pooling::max ? std::max(pooled, own) : pooled + own / static_cast<double>(options.kernel);
      }
      out[order[i]] = in_grid[i] != 0 ? -lowest : static_cast<float>(std::max(pooled, static_cast<double>(lowest)));
    }
  }
};

}  // namespace kvcompress
