// include/kvcompress/eviction/scorers/future_logits.hpp - TriAttention's score: the logits that a key will have with the queries of its head.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/core/loaded_numbers.hpp"
#include "kvcompress/core/math.hpp"
#include "kvcompress/eviction/decoded_rows.hpp"
#include "kvcompress/eviction/scored.hpp"
#include "kvcompress/eviction/scorers/future_query.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// The logit of the mean query of a head with a key, averaged over the queries' distances 1, 2, 4, ... up to `farthest` from now, and for every pair of
/// channels that the rotary embedding turns what their lengths have beyond those of the mean; brought to mean 0 and deviation 1 per query head, of which
/// the largest counts. Rows of the prompt are above all others. Needs no attention, but statistics of the model. Cost: every decision decodes the
/// keys of the lane, so let `period` be more than 1 (there 128); group * width products per row, 8 * group bytes of scratch.
///
/// Source: WeianMao/triattention@c3744ee6a505:triattention/methods/{triattention.py,pruning_utils.py}, its mode per layer and head, in which the lanes
/// decide alone. Beyond it: channels that do not turn count with the mean query. Deviation: no random numbers against ties, which the older row wins.
struct FutureLogits : ComputedRows {
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
    static void unnamed_fields(auto& options, auto&& field) {
      field("means", options.means);
      field("lengths", options.lengths);
    }
  };

  static void validate(const Options& options, const Shape& shape) {
    const auto numbers = [](const Shape& layer) { return layer.query_heads * layer.key_width(); };
    const auto pairs = [](const Shape& layer) { return layer.query_heads * layer.rotary_pairs(); };
    options.means.check("future_logits: means", shape.sum(numbers), "layers * query_heads * the key width");
    options.lengths.check("future_logits: lengths", shape.sum(pairs), "layers * query_heads * rotary pairs");
    check_bounds("future_logits: farthest", options.farthest, 1);
  }

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
    const Site& site = lane.site;
    const std::size_t first_mean = site.model.sum_before(site.layer, [](const Shape& one) { return one.query_heads * one.key_width(); });
    const std::size_t first_length =
        site.model.sum_before(site.layer, [](const Shape& one) { return one.query_heads * one.rotary_pairs(); });
    for (std::size_t h = 0; h < group; ++h) {
      const std::size_t head = site.kv_head * group + h;
      turn_to_the_future(shape, now, options.farthest, options.means.some(first_mean + head * width, width),
                         options.lengths.some(first_length + head * pairs, pairs), queries.data() + h * width, beyond.data() + h * pairs);
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
};

}  // namespace kvcompress
