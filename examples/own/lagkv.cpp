// examples/own/lagkv.cpp - rows by how they lie in the range of the rows that follow, as in LagKV: no attention is needed.
// SPDX-License-Identifier: MIT
#include <kvcompress/kvcompress.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>

#include "random_text.hpp"
using namespace kvcompress;

/// Behind the `sinks` first rows, chunks of `lag`: keys and values of a chunk on the scale from the smallest to the largest number of the next one,
/// channel by channel; the standard deviation of a row's channels, softmax over the chunk, the mean of both; then a row is worth its rank in its
/// chunk, so that all chunks keep alike. What no chunk follows stays. ("LagKV: Lag-Relative Information of the KV Cache Tells Which Tokens Are
/// Important", as kvpress@8bb29b9 has it.) Remembers nothing.
struct LagRanks : ComputedRows {
  static constexpr std::string_view name = "lag_ranks";
  static constexpr Needs may{.decides = Decides::once};
  struct Options {
    std::size_t sinks = 4;
    std::size_t lag = 128;
    static void fields(auto& options, auto&& field) {
      field("lag_sinks", options.sinks);
      field("lag", options.lag);
    }
  };
  static void validate(const Options& options, const Shape&) {
    require(options.lag > 1, ErrorCode::option, "lagkv: lag is ", options.lag, ", must be at least 2");
  }
  static std::span<const float> score(const Options& options, const LaneView& lane, const RowTable& rows, const Moment& moment,
                                      std::span<float> out) {
    const auto memory = moment.scratch.rows.get_allocator();
    Vector<std::size_t> order{Allocator<std::size_t>(memory)};  // live rows in the order of the text
    for (std::size_t row = 0; row < rows.rows(); ++row) {
      if (rows.alive(row)) { order.push_back(row); }
    }
    std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return rows.position(a) < rows.position(b); });
    std::fill(out.begin(), out.end(), 2.0F);
    const std::size_t width = std::max(lane.site.shape.key_width(), lane.site.shape.value_width());
    Vector<float> chunks(2 * options.lag * width + 3 * options.lag, memory);
    float* one = chunks.data();
    float* scores = one + 2 * options.lag * width;  // of keys, of both
    for (std::size_t first = options.sinks; first + 2 * options.lag <= order.size(); first += options.lag) {
      const std::span<const std::size_t> pair = std::span(order).subspan(first, 2 * options.lag);
      float* both = scores + options.lag;
      std::fill_n(both, options.lag, 0.0F);
      for (const bool values : {false, true}) {
        const std::size_t dim = values ? lane.site.shape.value_width() : lane.site.shape.key_width();
        for (std::size_t i = 0; i < pair.size(); ++i) {
          values ? lane.values({pair[i], pair[i] + 1}, one + i * dim) : lane.keys({pair[i], pair[i] + 1}, one + i * dim);
        }
        deviations(one, options.lag, dim, scores);
        for (std::size_t i = 0; i < options.lag; ++i) { both[i] += scores[i]; }
      }
      for (std::size_t i = 0; i < options.lag; ++i) {
        const auto worse = std::count_if(both, both + options.lag, [&](float x) { return x < both[i]; });
        out[pair[i]] = static_cast<float>(worse) / static_cast<float>(options.lag);
      }
    }
    return out;
  }

  /// Of the first `count` rows against the next `count`: softmax of the standard deviations over the channels.
  static void deviations(const float* rows, std::size_t count, std::size_t dim, float* out) {
    std::fill_n(out, count, 0.0F);
    for (std::size_t i = 0; i < count; ++i) {
      float sum = 0.0F;
      float squares = 0.0F;
      for (std::size_t c = 0; c < dim; ++c) {
        float low = HUGE_VALF;
        float high = -HUGE_VALF;
        for (std::size_t r = count; r < 2 * count; ++r) {
          low = std::min(low, rows[r * dim + c]);
          high = std::max(high, rows[r * dim + c]);
        }
        const float x = (rows[i * dim + c] - low) / std::max(high - low, 1e-6F);
        sum += x;
        squares += x * x;
      }
      const float n = static_cast<float>(dim);
      out[i] = std::exp(std::sqrt(std::max(0.0F, (squares - sum * sum / n) / (n - 1.0F))));
    }
    const float all = std::accumulate(out, out + count, 0.0F);
    for (std::size_t i = 0; i < count; ++i) { out[i] /= all; }
  }
};
struct LagKVLike {
  using Eviction = Evict<LagRanks>;
};

int main() {
  RandomText text({.query_heads = 4, .kv_heads = 2, .head_dim = 64}, 330);
  const std::size_t prompt = 4 + 9 * 32 + 10;
  const auto odd = [](std::size_t t) { return t % 6 == 1; };  // rows whose channels differ more than those that follow
  for (std::size_t t = 0; t < text.tokens; ++t) {
    for (std::size_t h = 0; h < 2 && !odd(t); ++h) {
      for (std::size_t c = 0; c < 64; ++c) { text.key(0, t, h)[c] *= 0.5F, text.value(0, t, h)[c] *= 0.5F; }
    }
  }
  // 4 + 42 rows that no chunk follows, and half of the other 8 * 32.
  KVCache<LagKVLike> cache(text.shape, {.eviction = {.budget = 46 + 128, .scorer = {.lag = 32}}});
  text.append(cache, 0, 0, prompt);
  text.attend(cache, 0, 0, prompt);
  cache.end_prompt(0);
  const std::vector<Position> kept = cache.kept(0, 1);
  std::size_t of_chunk[8] = {};
  std::size_t last = 0;
  for (const Position p : kept) { p >= 4 && p < 4 + 8 * 32 ? ++of_chunk[(p - 4) / 32] : ++last; }
  std::size_t odd_ones = 0;
  for (Position p = 4; p < 4 + 8 * 32; ++p) { odd_ones += odd(p) && !std::binary_search(kept.begin(), kept.end(), p) ? 1U : 0U; }
  const bool alike = std::all_of(of_chunk, of_chunk + 8, [](std::size_t count) { return count == 16; });
  double worst = 0.0;
  for (std::size_t t = prompt; t < text.tokens; ++t) {
    text.append(cache, 0, t, t + 1);
    worst = std::max(worst, text.error(text.attend(cache, 0, t, t + 1), 0, t));
  }
  std::printf("%zu rows stay: %s 16 of every chunk, %zu others; %zu rows that stand out went; worst relative error %.3f\n", kept.size(),
              alike ? "" : "not", last, odd_ones, worst);
  return alike && last == 46 && odd_ones == 0 && worst < 1.2 ? 0 : 1;
}
