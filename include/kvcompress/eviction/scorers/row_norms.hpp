// include/kvcompress/eviction/scorers/row_norms.hpp - CURDKV's score: the squared lengths of key and value, among their neighbours.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/core/loaded_numbers.hpp"
#include "kvcompress/eviction/decoded_rows.hpp"
#include "kvcompress/eviction/scored.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Which squared lengths make a score.
enum class Leverage { key, value, average, product };
constexpr auto names_of(Leverage) noexcept { return std::array{"key", "value", "average", "product"}; }

/// Squared length of the key, of the value, their average or their product, each first divided by its sum over the `neighbours` rows of the
/// block that the row is in, in text order (0: not divided); then by the sum over the lane. The first rows score 1, above all others. Needs no
/// attention; decides once, at the end of a prompt. Cost: decodes keys and values once; 20 bytes per row of scratch.
///
/// Source: "Value-Guided KV Compression for LLMs via Approximated CUR Decomposition"; NVIDIA/kvpress@8bb29b9c3078:cur_press.py, which draws its
/// projection anew each time. Blocks without any length score 0, where that code divides by 0.
struct RowNorms : ComputedRows {
  static constexpr std::string_view name = "row_norms";
  static constexpr Needs may{.decides = Decides::once};
  struct Options {
    std::size_t first_rows = 4;  ///< sinks
    Leverage leverage = Leverage::product;
    std::size_t neighbours = 16;  ///< rows of a block; 0: none
    LoadedNumbers projection{};   ///< (width, any) random numbers that keys and values are multiplied with first; none: as they are
    static void fields(auto& options, auto&& field) {
      field("first_rows", options.first_rows);
      field("leverage", options.leverage);
      field("neighbours", options.neighbours);
    }
    static void unnamed_fields(auto& options, auto&& field) { field("projection", options.projection); }
  };

  static void validate(const Options& options, const Shape& model) {
    const std::size_t numbers = options.projection.size();
    for (std::size_t layer = 0; numbers != 0 && layer < model.kinds(); ++layer) {
      const Shape& shape = model.of(layer);
      const std::size_t columns = std::max<std::size_t>(1, numbers / shape.key_width());
      options.projection.check("row_norms: projection", columns * shape.key_width(), "a multiple of the key width");
      require(shape.key_width() == shape.value_width(), ErrorCode::option, "row_norms: projection has ", numbers,
              " numbers, must have none where the value width, ", shape.value_width(), ", is not the key width, ", shape.key_width());
    }
    check_bounds("row_norms: first_rows", options.first_rows);
    check_named("row_norms: leverage", options.leverage);
    check_bounds("row_norms: neighbours", options.neighbours);
  }

  static std::span<const float> score(const Options& options, const LaneView& lane, const RowTable& rows, const Moment& moment,
                                      std::span<float> out) {
    const Shape& shape = lane.site.shape;
    Vector<double> keys = numbers_of<double>(moment, rows.rows());
    Vector<double> values(keys);
    const std::size_t projected = options.projection.size() / shape.key_width();
    Vector<double> product = numbers_of<double>(moment, projected);
    const auto square = [&](const float* x, std::size_t width) {
      double sum = 0.0;
      for (std::size_t c = 0; projected == 0 && c < width; ++c) { sum += static_cast<double>(x[c]) * static_cast<double>(x[c]); }
      std::fill(product.begin(), product.end(), 0.0);
      for (std::size_t i = 0; i < projected * width; ++i) {
        product[i % projected] += static_cast<double>(x[i / projected]) * static_cast<double>(options.projection.all()[i]);
      }
      for (const double number : product) { sum += number * number; }
      return sum;
    };
    for_each_row(lane, rows, moment, [&](std::size_t row, const float* key, const float* value) {
      keys[row] = square(key, shape.key_width());
      values[row] = square(value, shape.value_width());
    });
    const Vector<Position> order = rows_in_text_order(rows, moment);
    const auto divide = [&](Vector<double>& numbers, std::size_t block) {
      for (std::size_t first = 0; block > 0 && first < order.size(); first += block) {
        const std::size_t end = std::min(first + block, order.size());
        double sum = 0.0;
        for (std::size_t i = first; i < end; ++i) { sum += numbers[order[i]]; }
        for (std::size_t i = first; i < end && sum > 0.0; ++i) { numbers[order[i]] /= sum; }
      }
    };
    divide(keys, options.neighbours);
    divide(values, options.neighbours);
    for (const Position row : order) {
      switch (options.leverage) {
        case Leverage::key:
          break;
        case Leverage::value:
          keys[row] = values[row];
          break;
        case Leverage::average:
          keys[row] = 0.5 * (keys[row] + values[row]);
          break;
        case Leverage::product:
          keys[row] *= values[row];
          break;
      }
    }
    divide(keys, order.size());
    std::transform(keys.begin(), keys.end(), out.begin(), [](double number) { return static_cast<float>(number); });
    for (std::size_t i = 0; i < std::min(order.size(), options.first_rows); ++i) { out[order[i]] = 1.0F; }
    return out;
  }
};

}  // namespace kvcompress
