// include/kvcompress/eviction/scorers/key_leverage.hpp - how much a key adds to what the other keys span.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

#include "kvcompress/attention/rope.hpp"
#include "kvcompress/core/cholesky.hpp"
#include "kvcompress/core/loaded_numbers.hpp"
#include "kvcompress/eviction/decoded_rows.hpp"
#include "kvcompress/eviction/scored.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Statistical leverage of the keys before their rotary embedding, centred: the diagonal of X (X^T X + jitter I)^-1 X^T, where X are the keys times
/// a random sketch. Needs no attention; decides once, at the end of a prompt. Cost: decodes the keys once and turns them back; rows * rank *
/// (key width + rank) products; 8 * rank bytes per row of scratch.
///
/// Source: NVIDIA/kvpress@8bb29b9c3078:leverage_press.py, from "Compactor: Calibrated Query-Agnostic KV Cache Compression with Approximate Leverage
/// Scores"; there scores of all heads of a layer are brought to mean 0 and deviation 1 together, which ranks no row otherwise.
struct KeyLeverage : ComputedRows {
  static constexpr std::string_view name = "key_leverage";
  static constexpr Needs may{.decides = Decides::once};
  struct Options {
    std::size_t rank = 48;   ///< of the sketch, 1 to 1024
    double jitter = 0.01;    ///< at least 1e-9
    std::size_t seed = 1;    ///< of the sketch
    LoadedNumbers sketch{};  ///< (KV heads, key width, rank), divided by the root of the rank, instead of the seed's
    static void fields(auto& options, auto&& field) {
      field("rank", options.rank);
      field("jitter", options.jitter);
      field("seed", options.seed);
    }
    static void unnamed_fields(auto& options, auto&& field) { field("sketch", options.sketch); }
  };

  static void validate(const Options& options, const Shape& shape) {
    check_bounds("key_leverage: rank", options.rank, 1, 1024);
    require(options.jitter >= 1e-9 && options.jitter <= 1e9, ErrorCode::option, "key_leverage: jitter is ", options.jitter,
            ", must be 1e-9 to 1e9");
    if (options.sketch.size() != 0) {
      for (std::size_t layer = 0; layer < shape.kinds(); ++layer) {
        const Shape& of = shape.of(layer);
        options.sketch.check("key_leverage: sketch", of.kv_heads * of.key_width() * options.rank, "kv_heads * the key width * rank");
      }
    }
  }

  static std::span<const float> score(const Options& options, const LaneView& lane, const RowTable& rows, const Moment& moment,
                                      std::span<float> out) {
    const Shape& shape = lane.site.shape;
    const std::size_t width = shape.key_width();
    const std::size_t rank = options.rank;
    const Vector<double> sketch = sketch_of(options, lane.site, moment);
    Vector<double> projected = numbers_of<double>(moment, rows.rows() * rank);
    Vector<double> mean = numbers_of<double>(moment, rank);
    Vector<float> plain = numbers_of<float>(moment, width);
    Rotation rotation(shape, Memory{});
    for_each_key(lane, rows, moment, [&](std::size_t row, const float* key) {
      std::copy_n(key, width, plain.begin());
      if (shape.rope.theta != 0.0) {
        rotation.turn_by(-static_cast<std::int64_t>(rows.position(row)));
        rotation.apply(plain.data());
      }
      double* const to = projected.data() + row * rank;
      for (std::size_t c = 0; c < width; ++c) {
        for (std::size_t j = 0; j < rank; ++j) { to[j] += static_cast<double>(plain[c]) * sketch[c * rank + j]; }
      }
      for (std::size_t j = 0; j < rank; ++j) { mean[j] += to[j] / static_cast<double>(rows.live()); }
    });
    Vector<double> gram = numbers_of<double>(moment, rank * rank);
    for (std::size_t j = 0; j < rank; ++j) { gram[j * rank + j] = options.jitter; }
    for (std::size_t r = 0; r < rows.rows(); ++r) {
      double* const x = projected.data() + r * rank;
      for (std::size_t j = 0; rows.alive(r) && j < rank; ++j) {
        x[j] -= mean[j];
        for (std::size_t i = 0; i <= j; ++i) { gram[j * rank + i] += x[i] * x[j]; }
      }
    }
    cholesky::factor(gram.data(), rank);
    for (std::size_t r = 0; r < rows.rows(); ++r) {
      out[r] = static_cast<float>(cholesky::solved_square(gram.data(), projected.data() + r * rank, rank));
    }
    return out;
  }

 private:
  /// (key width, rank): what was given, or products of the seed's uniform numbers with mean 0 and deviation 1/root(rank).
  static Vector<double> sketch_of(const Options& options, const Site& site, const Moment& moment) {
    const std::size_t count = site.shape.key_width() * options.rank;
    Vector<double> sketch = numbers_of<double>(moment, count);
    if (options.sketch.size() != 0) {
      const std::span<const float> given = options.sketch.some(site.kv_head * count, count);
      std::copy(given.begin(), given.end(), sketch.begin());
      return sketch;
    }
    std::uint64_t random = options.seed + (site.layer << 20U) + site.kv_head;
    const double scale = math::sqrt(12.0 / static_cast<double>(options.rank));
    for (double& number : sketch) {
      random = random * 6364136223846793005U + 1442695040888963407U;
      number = scale * (static_cast<double>(random >> 11U) * 0x1p-53 - 0.5);
    }
    return sketch;
  }
};

}  // namespace kvcompress
