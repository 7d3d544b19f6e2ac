// include/kvcompress/eviction/scorers/future_logits.hpp - TriAttention's score: the logits that a key will have with the queries of its head.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/core/loaded_numbers.hpp"
#include "kvcompress/core/math.hpp"
#include "kvcompress/core/no_state.hpp"
#include "kvcompress/eviction/decoded_rows.hpp"
#include "kvcompress/eviction/scored.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// The logit of the mean query of a head with a key, averaged over the queries' distances 1, 2, 4, ... up to `farthest` from now, and for every pair of
/// channels that the rotary embedding turns what their lengths have beyond those of the mean; brought to mean 0 and deviation 1 per query head, of which
/// the largest counts. Rows of the prompt are above all others. Needs no attention, but statistics of the model. Cost: every decision decodes the
/// keys of the lane, so let `period` be more than 1 (there 128); group * width products per row, 8 * group bytes of scratch.
///
/// Source: WeianMao/triattention@c3744ee6a505:triattention/methods/{triattention.py,pruning_utils.py}, its mode per layer and head, in which the lanes
/// decide alone. Beyond it: channels that do not turn count with the mean query. Deviation: no random numbers against ties, which the older row wins.
struct FutureLogits : ScoredRows {
  static constexpr std::string_view name = "future_logits";
  struct Options {
    LoadedNumbers means{};         ///< (layers, query heads, key width): of the queries before their rotary embedding
    LoadedNumbers lengths{};       ///< (layers, query heads, rotary pairs): the mean of the length of each pair of channels
    std::size_t farthest = 65536;  ///< distance of a query from now, at least 1
    bool pin_prompt = true;        ///< rows of the prompt stay, unless they alone are more than the budget
    static void fields(auto& options, auto&& field) {
      field("farthest", options.farthest);
      field("pin_prompt", options.pin_prompt);
    }
  };
  using State = NoState;

  static void validate(const Options& options, const Shape& shape) {
    const auto numbers = [](const char* of, const LoadedNumbers& given, std::size_t needed) {
      require(given.size() == needed, ErrorCode::option, "future_logits: ", of, " has ", given.size(), " numbers, must have ", needed);
      for (const float x : given.all()) {
        require(x - x == 0.0F, ErrorCode::option, "future_logits: ", of, " has ", x, ", must be finite numbers");
      }
    };
    numbers("means", options.means, shape.layers * shape.query_heads * shape.key_width());
    numbers("lengths", options.lengths, shape.layers * shape.query_heads * shape.rotary_pairs());
    check_bounds("future_logits: farthest", options.farthest, 1);
  }
  static constexpr std::size_t row_bytes(const Options&, const Shape&) noexcept { return 0; }
  static State state(const Options&, const Site&, const Memory&) noexcept { return {}; }
  static constexpr std::size_t recent(const Options&, std::size_t /*budget*/) noexcept { return 0; }

  static std::span<const float> score(const Options& options, const LaneView& lane, const RowTable& rows, const Moment& moment,
                                      std::span<float> out) {
    const Shape& shape = lane.site.shape;
    const std::size_t width = shape.key_width();
    const std::size_t pairs = shape.rotary_pairs();
    const std::size_t group = shape.group();
    Position now = 0;
    for (std::size_t r = 0; r < rows.rows(); ++r) { now = rows.alive(r) ? std::max(now, rows.position(r) + 1) : now; }
    Vector<double> queries = numbers_of<double>(moment, group * width);  // turned to where they will be, on average
    Vector<double> beyond = numbers_of<double>(moment, group * pairs);
    for (std::size_t h = 0; h < group; ++h) {
      const std::size_t head = lane.site.layer * shape.query_heads + lane.site.kv_head * group + h;
      turn(options, shape, now, options.means.some(head * width, width), options.lengths.some(head * pairs, pairs),
           queries.data() + h * width, beyond.data() + h * pairs);
    }
    const bool split = shape.rope.pairing == RopePairing::half_split;
    const auto pinned = [&](std::size_t row) { return options.pin_prompt && rows.position(row) < moment.prompt_tokens; };
    Vector<double> scores = numbers_of<double>(moment, rows.rows() * group);
    for_each_key(lane, rows, moment, [&](std::size_t row, const float* key) {
      for (std::size_t h = 0; h < group; ++h) {
        double sum = 0.0;
        for (std::size_t c = 0; c < width; ++c) { sum += queries[h * width + c] * static_cast<double>(key[c]); }
        for (std::size_t f = 0; f < pairs; ++f) {
          const auto x = static_cast<double>(key[split ? f : 2 * f]);
          const auto y = static_cast<double>(key[split ? f + pairs : 2 * f + 1]);
          sum += beyond[h * pairs + f] * math::sqrt(x * x + y * y);
        }
        scores[row * group + h] = sum;
      }
    });
    std::fill(out.begin(), out.end(), -3.4e38F);
    for (std::size_t h = 0; h < group; ++h) {
      double count = 0.0;
      double mean = 0.0;
      double squares = 0.0;
      const auto competing = [&](auto&& visit) {
        for (std::size_t r = 0; r < rows.rows(); ++r) {
          if (rows.alive(r) && !pinned(r)) { visit(r, scores[r * group + h]); }
        }
      };
      competing([&](std::size_t, double x) { count += 1.0, mean += x; });
      mean /= std::max(count, 1.0);
      competing([&](std::size_t, double x) { squares += (x - mean) * (x - mean); });
      const double deviation = std::max(math::sqrt(squares / std::max(count, 1.0)), 1e-6);
      competing([&](std::size_t r, double x) { out[r] = std::max(out[r], static_cast<float>((x - mean) / deviation)); });
    }
    for (std::size_t r = 0; r < rows.rows(); ++r) {
      if (rows.alive(r) && pinned(r)) { out[r] = 3.4e38F; }
    }
    return out;
  }

 private:
  /// The mean query as a key at its own position meets it, on average over the distances; and how much longer its pairs are than its mean's.
  static void turn(const Options& options, const Shape& shape, Position now, std::span<const float> mean, std::span<const float> lengths,
                   double* query, double* beyond) {
    std::copy(mean.begin(), mean.end(), query);
    const bool split = shape.rope.pairing == RopePairing::half_split;
    for (std::size_t f = 0; f < lengths.size(); ++f) {
      double speed = shape.rope.scale * math::pow(shape.rope.theta, -static_cast<double>(f) / static_cast<double>(lengths.size()));
      if (shape.rope.frequency_factors != nullptr) { speed /= shape.rope.frequency_factors[f]; }
      double cosine = 0.0;
      double sine = 0.0;
      double distances = 0.0;
      for (std::size_t distance = 1; distance <= options.farthest; distance *= 2, distances += 1.0) {
        const double angle = speed * (static_cast<double>(now) + static_cast<double>(distance));
        cosine += math::cos(angle);
        sine += math::sin(angle);
      }
      double& x = query[split ? f : 2 * f];
      double& y = query[split ? f + lengths.size() : 2 * f + 1];
      beyond[f] = static_cast<double>(lengths[f]) - math::sqrt(x * x + y * y);
      const double turned = (x * cosine - y * sine) / distances;
      y = (x * sine + y * cosine) / distances;
      x = turned;
    }
  }
};

}  // namespace kvcompress
