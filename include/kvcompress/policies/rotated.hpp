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
  using Keys = Buffered<PerTokenKeys<Code>, FlushStrips, BlockHadamard>;
  using Values = Buffered<PerTokenValues<Code, 32>, FlushStrips, BlockHadamard>;
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
    check_accumulation<Code::product_bits>(options.accumulation, "rotated");
  }
  static void validate_shape(const Options& /*options*/, const Shape& shape) {
    for (const std::size_t width : {shape.key_width(), shape.value_width()}) {
      require(width <= most_token_width, ErrorCode::option, "rotated: the width of a row is ", width, ", must be at most ", most_token_width);
    }
  }
};

/// Every row times a block Hadamard matrix (see BlockHadamard), then quantised per token, min to max, keys and values alike.
template <int Bits = 4, class Scale = half>
struct Rotated {
  using Storage = RotatedStorage<AffineCode<Bits, Scale>>;
};

/// The same in Lloyd's and Max's levels for normal numbers, times one scale.
template <int Bits = 4, class Scale = half>
struct RotatedLevels {
  using Storage = RotatedStorage<LevelCode<Bits, Scale>>;
};

}  // namespace kvcompress
