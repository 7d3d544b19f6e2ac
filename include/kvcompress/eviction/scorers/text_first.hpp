// include/kvcompress/eviction/scorers/text_first.hpp - LOOK-M's prior: rows of text are worth more than rows of images.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

#include "kvcompress/core/loaded_numbers.hpp"
#include "kvcompress/eviction/decoded_rows.hpp"
#include "kvcompress/eviction/evict.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Rows at the positions `images` come after all others; both are ordered by the scores of S, and score their rank. Observes, acts and keeps what S
/// does. Cost: a sort of the rows per decision, 4 bytes per row of scratch.
///
/// Source: "LOOK-M: Look-Once Optimization in KV Cache for Efficient Multimodal Long-Context Inference"; SUSTechBruce/LOOK-M@ecf0f51a9c41:
/// LLaVA-mix_merge_v1/llava/model/kv_token_merge/modify_llama.py. Deviations: there 65516 is taken from the scores of images, which in the
/// precision of that code makes them alike; rows of text stay there even where they are more than the budget.
template <Scorer S>
struct TextFirst : S {
  static constexpr std::string_view name = "text_first";
  struct Options {
    LoadedNumbers images{};  ///< pairs of positions: where an image begins, and the first one behind it
    typename S::Options scorer{};
    static void fields(auto& options, auto&& field) { options.scorer.fields(options.scorer, field); }
    static void unnamed_fields(auto& options, auto&& field) {
      field("images", options.images);
      if constexpr (requires { options.scorer.unnamed_fields(options.scorer, field); }) {
        options.scorer.unnamed_fields(options.scorer, field);
      }
    }
  };
  using State = typename S::State;

  static void validate(const Options& options, const Shape& shape) {
    const std::span<const float> images = options.images.all();
    require(images.size() % 2 == 0, ErrorCode::option, "text_first: images has ", images.size(), " numbers, must have 2 for each image");
    for (std::size_t i = 0; i < images.size(); i += 2) {
      require(images[i] >= 0.0F && images[i] < images[i + 1] && images[i + 1] < 16777216.0F, ErrorCode::option, "text_first: image ", i / 2,
              " is from ", images[i], " to ", images[i + 1], ", must be from 0 or more to a larger position below 2^24");
    }
    S::validate(options.scorer, shape);
  }
  static std::size_t row_bytes(const Options& options, const Shape& shape) { return S::row_bytes(options.scorer, shape); }
  static State state(const Options& options, const Site& site, const Memory& memory) { return S::state(options.scorer, site, memory); }
  static std::size_t recent(const Options& options, std::size_t budget) { return S::recent(options.scorer, budget); }
  static std::size_t window(const Options& options) noexcept requires requires { S::window(options.scorer); }
  { return S::window(options.scorer); }
  static void start(const Options& options, State& state) requires requires { S::start(options.scorer, state); }
  { S::start(options.scorer, state); }
  static void observe(const Options& options, State& state, std::size_t head, std::span<const float> probabilities) requires requires {
    S::observe(options.scorer, state, head, probabilities);
  }
  { S::observe(options.scorer, state, head, probabilities); }
  static std::span<const float> score(const Options& options, const LaneView& lane, const RowTable& rows, const Moment& moment,
                                      std::span<float> out) {
    return S::score(options.scorer, lane, rows, moment, out);
  }
  static void join(const Options& options, RowSet& set, std::span<float> scores, const Moment& moment) {
    static_assert(!compares<S>, "kvcompress::TextFirst<S>: S brings the scores of a layer to a common scale, which ranks have not");
    if constexpr (requires { S::join(options.scorer, set, scores, moment); }) { S::join(options.scorer, set, scores, moment); }
    Vector<Position> order = rows_in_text_order(set.rows, moment);
    const auto of_text = [&](Position row) {
      const auto position = static_cast<float>(set.rows.position(row));
      const std::span<const float> images = options.images.all();
      for (std::size_t i = 0; i < images.size(); i += 2) {
        if (position >= images[i] && position < images[i + 1]) { return false; }
      }
      return true;
    };
    const auto alike = [&](Position a, Position b) { return of_text(a) == of_text(b) && scores[a] == scores[b]; };
    std::stable_sort(order.begin(), order.end(),
                     [&](Position a, Position b) { return of_text(a) != of_text(b) ? of_text(b) : scores[a] < scores[b]; });
    Vector<float> ranks = numbers_of<float>(moment, scores.size());
    for (std::size_t i = 0; i < order.size(); ++i) {
      ranks[order[i]] = i > 0 && alike(order[i - 1], order[i]) ? ranks[order[i - 1]] : static_cast<float>(i);
    }
    std::copy(ranks.begin(), ranks.end(), scores.begin());
  }

 private:
  template <class Own>
  static constexpr bool compares = requires(const typename Own::Options& options, std::span<RowSet> sets,
                                            std::span<const std::span<float>> scores, const Moment& moment) {
    Own::compare(options, sets, scores, moment);
  };
};

}  // namespace kvcompress
