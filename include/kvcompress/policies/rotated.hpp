// include/kvcompress/policies/rotated.hpp - keys and values rotated by a block Hadamard and quantised per token, the newest rows exact.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/policies/combine.hpp"
#include "kvcompress/quantization/buffered.hpp"
#include "kvcompress/quantization/per_token.hpp"
#include "kvcompress/quantization/per_token_keys.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// See Rotated and RotatedLevels.
template <class Code>
struct RotatedStorage {
  using Keys = Buffered<PerTokenKeys<Code>, FlushStrips, SignedHadamard>;
  using Values = Buffered<PerTokenValues<Code>, FlushStrips, SignedHadamard>;
  struct Options {
    std::size_t residual = 16;                             ///< the newest residual to residual + 15 rows are exact
    std::size_t group = 0;                                 ///< channels that share a scale, a multiple of 32; 0: all of the row
    Accumulation accumulation = Accumulation::near_exact;  ///< how attention adds up products with codes
    static void fields(auto& options, auto&& field) {
      field("residual", options.residual);
      field("group", options.group);
      field("accumulation", options.accumulation);
    }
  };
  static void validate(const Options& options) {
    check_bounds("rotated: residual", options.residual);
    require(options.group % 32 == 0, ErrorCode::option, "rotated: group is ", options.group, ", must be 0 or a multiple of 32");
    require(!Code::looks_up || options.accumulation != Accumulation::fast, ErrorCode::option,
            "rotated: accumulation is fast, must be exact or near_exact with levels, which have 8 bits in products");
    check_accumulation<Code::product_bits>(options.accumulation, "rotated");
  }
  static void validate_shape(const Options& /*options*/, const Shape& shape) {
    for (std::size_t layer = 0; layer < shape.kinds(); ++layer) {
      const std::size_t width = std::max(shape.of(layer).key_width(), shape.of(layer).value_width());
      require(width <= most_token_width, ErrorCode::option, "rotated: the width of a row is ", width, ", must be at most ",
              most_token_width);
    }
  }
};

/// Every row times signs and a block Hadamard matrix (see SignedHadamard), then quantised per token from its smallest to its largest number, keys and values
/// alike: the form of rotated int4 caches (llama.cpp's rotated K and V, vLLM's INT4 per token and head, SAW-INT4), none of which it copies: theirs
/// have other signs or none, an integer zero point, or block types of their own.
///
/// Keeps: every row. Observes: nothing. Loses: mean squared error, of that of normal rows of 128 numbers, 4 bits: 0.0099, 0.0061 in groups of 32
/// (KIVI's values 0.0061); of 64 numbers 0.0081. Bits per number: Bits + 32 / group, and 16 to 31 exact rows.
/// Of the length of hard rows of 64 numbers it loses, at 4 bits, beside 0.085 of normal ones: of rows with three channels 60 times as large 0.064, of one
/// sign (5 + |normal|) 0.080 (without signs before the rotation 0.19), of constant ones 0.091 (without 0), of numbers near half's largest 0.093.
/// tests/quantization/rotated_test.cpp prints these.
template <int Bits = 4, class Scale = half>
struct Rotated {
  using Storage = RotatedStorage<AffineCode<Bits, Scale>>;
};

/// The same in Lloyd's and Max's levels for normal numbers, times one scale, which keeps the norm of a row: TurboQuant's keys, as
/// vllm-project/vllm@06d0369d75e0 holds them (norm correction); there values are quantised from min to max.
/// Deviations: rows have signs before the rotation, there none; levels are 255ths of their span, so that they are looked up in registers and multiplied as integers; the scale, not the norm, is what
/// is rounded to Scale; the product of levels and scale is over `group` channels.
///
/// Loses: mean squared error, of that of normal rows, 4 bits: 0.0092 of 128 numbers and 0.0089 of 64 (0.0095 for infinitely many), 3 bits: 0.034.
/// Of the length of rows of 64 numbers, at 4 bits: normal 0.091, one sign 0.086, constant 0.099 (without signs 0.27 and 0.33), three outlier channels 0.087.
/// Bits per number: Bits + 16 / group.
template <int Bits = 4, class Scale = half>
struct RotatedLevels {
  using Storage = RotatedStorage<LevelCode<Bits, Scale>>;
};

}  // namespace kvcompress
