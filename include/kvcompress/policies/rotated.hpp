// include/kvcompress/policies/rotated.hpp - keys and values rotated by a block Hadamard and quantised per token, the newest rows exact.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/policies/combine.hpp"
#include "kvcompress/quantization/buffered.hpp"
#include "kvcompress/quantization/per_token.hpp"
#include "kvcompress/quantization/per_token_keys.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// See Rotated.
template <int Bits, class Scale>
struct RotatedStorage {
  using Keys = Buffered<PerTokenKeys<Bits, Scale>, FlushStrips, BlockHadamard>;
  using Values = Buffered<PerToken<Bits, 32, Scale>, FlushStrips, BlockHadamard>;
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
    check_accumulation<Bits>(options.accumulation, "rotated");
  }
};

/// Every row times a block Hadamard matrix (see BlockHadamard), then quantised per token, min to max, keys and values alike.
template <int Bits = 4, class Scale = half>
struct Rotated {
  using Storage = RotatedStorage<Bits, Scale>;
};

}  // namespace kvcompress
