// include/kvcompress/policies/kivi.hpp - KIVI: keys quantised per channel, values per token, the newest rows exact.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/policies/combine.hpp"
#include "kvcompress/quantization/buffered.hpp"
#include "kvcompress/quantization/per_channel.hpp"
#include "kvcompress/quantization/per_token.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// KIVI's storage; see Kivi.
template <int Bits, std::size_t Group, std::size_t Residual, class Scale>
struct KiviStorage {
  using Keys = Buffered<PerChannel<Bits, 0, Scale>, FlushAll>;
  using Values = Buffered<PerToken<Bits, 0, Scale>, FlushOldest>;
  struct Options {
    std::size_t residual = Residual;                       ///< residual length: exact rows, a multiple of group
    std::size_t group = Group;                             ///< 8, 16, 32, 64 or 128 tokens of a key channel, channels of a value
    Accumulation accumulation = Accumulation::near_exact;  ///< how attention adds up products with codes
    static void fields(auto& options, auto&& field) {
      field("residual", options.residual);
      field("group", options.group);
      field("accumulation", options.accumulation);
    }
  };
  static void validate(const Options& options) {
    const std::size_t group = options.group;
    require(group == 8 || group == 16 || group == 32 || group == 64 || group == 128, ErrorCode::option, "kivi: group is ", group,
            ", must be 8, 16, 32, 64 or 128");
    require(options.residual >= group && options.residual % group == 0, ErrorCode::option, "kivi: residual is ", options.residual,
            ", must be a positive multiple of the group size ", group);
    check_bounds("kivi: residual", options.residual);
    check_accumulation<Bits>(options.accumulation, "kivi");
  }
};

/// "KIVI: A Tuning-Free Asymmetric 2bit Quantization for KV Cache"; jy-yuan/KIVI@876b4d2d08e3. Keys (rotated) in groups of `group`
/// tokens per channel, flushed `residual` rows at a time; values in groups of `group` channels per token, the newest `residual` exact.
/// `Scale` (half, bfloat16, float) is the type of scales, minima and exact rows: the model's dtype in the official code.
/// Deviations: scales are rounded to Scale before codes are computed, and away from 0 where a number would else be out of reach (see
/// GroupQuantizer); a group that does not divide the head size has a shorter last group; several tokens at once flush as the same tokens one by
/// one would. 1 to 8 bits.
///
/// Keeps: every row. Observes: nothing. Loses: at most half a step per number, tiny and large ones too. Bits per number: Bits + 32/group behind the newest rows.
/// With an eviction, rows die in place until fewer than half of the encoded rows are alive; then the live ones are encoded anew once
/// (values are moved, not encoded: no further loss), so that bytes stay within twice those of live rows. What that adds to the relative
/// error of decoded keys, Gaussian rows, 4000 tokens, residual 32 (tests/policies/rebuilding_test.cpp prints it for 2400): H2O with
/// budget 256, 27 times rebuilt: 0.393 -> 0.436 at 2 bits, 0.078 -> 0.088 at 4 bits. A window much shorter than 128 rows is the bad
/// case, since its sinks are encoded anew every time: StreamingLLM 4 + 60 at 4 bits 0.078 -> 0.228, 4 + 300 is never rebuilt.
template <int Bits = 2, std::size_t Group = 32, std::size_t Residual = 128, class Scale = half>
struct Kivi {
  using Storage = KiviStorage<Bits, Group, Residual, Scale>;
};

}  // namespace kvcompress
