// include/kvcompress/policies/oscar.hpp - OSCAR: keys and values in rotations fitted to the model, cut at a percentile, 2 bits per token.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/policies/combine.hpp"
#include "kvcompress/quantization/buffered.hpp"
#include "kvcompress/quantization/fitted_codes.hpp"
#include "kvcompress/quantization/loaded_rotation.hpp"
#include "kvcompress/quantization/per_token.hpp"
#include "kvcompress/quantization/per_token_keys.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// See Oscar.
template <int Bits, class Scale>
struct OscarStorage {
  template <bool OfKeys>
  struct Code : ClippedCode<Bits, Scale> {
    explicit Code(const auto& options) noexcept
        : ClippedCode<Bits, Scale>(static_cast<float>(OfKeys ? options.key_clip : options.value_clip)) {}
  };
  using Keys = Buffered<PerTokenKeys<Code<true>>, FlushStrips, LoadedRotation<true>>;
  using Values = Buffered<PerTokenValues<Code<false>>, FlushStrips, LoadedRotation<false>>;
  struct Options {
    LoadedNumbers key_rotations{};                         ///< (layers, key width, key width), of fit_rotation
    LoadedNumbers value_rotations{};                       ///< (layers, value width, value width)
    double key_clip = 0.96;                                ///< share of a key's numbers that are not cut; 0: all
    double value_clip = 0.92;                              ///< and of a value's
    std::size_t residual = 256;                            ///< the newest residual to residual + 15 rows are exact
    std::size_t group = 0;                                 ///< channels that share a scale, a multiple of 32; 0: all of the row
    Accumulation accumulation = Accumulation::near_exact;  ///< how attention adds up products with codes
    static void fields(auto& options, auto&& field) {
      field("key_clip", options.key_clip);
      field("value_clip", options.value_clip);
      field("residual", options.residual);
      field("group", options.group);
      field("accumulation", options.accumulation);
    }
    static void unnamed_fields(auto& options, auto&& field) {
      field("key_rotations", options.key_rotations);
      field("value_rotations", options.value_rotations);
    }
  };
  static void validate(const Options& options) {
    check_bounds("oscar: residual", options.residual);
    require(options.group % 32 == 0, ErrorCode::option, "oscar: group is ", options.group, ", must be 0 or a multiple of 32");
    for (const double clip : {options.key_clip, options.value_clip}) {
      require(clip >= 0.0 && clip <= 1.0, ErrorCode::option, "oscar: a clip is ", clip, ", must be 0 to 1");
    }
    check_accumulation<Bits>(options.accumulation, "oscar");
  }
  static void validate_shape(const Options& options, const Shape& shape) {
    for (const std::size_t width : {shape.key_width(), shape.value_width()}) {
      require(width <= most_token_width, ErrorCode::option, "oscar: the width of a row is ", width, ", must be at most ", most_token_width);
    }
    check_rotations("oscar: key_rotations", options.key_rotations, shape.layers, shape.key_width());
    check_rotations("oscar: value_rotations", options.value_rotations, shape.layers, shape.value_width());
  }
};

/// OSCAR, FutureMLS-Lab/OSCAR@473ff3f9d29a: rows times an orthogonal matrix of their layer that was fitted to a calibration text (see fit_rotation), cut at a
/// percentile of their magnitudes, then from the smallest to the largest number per token. Deviations: the first 64 rows are not kept exact, an eviction's
/// job here; scales and minima are rounded to Scale, where the official kernels hold a zero point in bfloat16; 16 rows are encoded at a time.
///
/// Keeps: every row. Observes: nothing. Loses: half a step, and what is cut. Bits per number: Bits + 32 / group, and the newest rows. Cost beside the codes':
/// width^2 multiply-adds a row, a query and an output.
template <int Bits = 2, class Scale = half>
struct Oscar {
  using Storage = OscarStorage<Bits, Scale>;
};

}  // namespace kvcompress
