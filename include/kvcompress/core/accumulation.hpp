// include/kvcompress/core/accumulation.hpp - how attention adds up products with integer codes.
// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>

#include "kvcompress/core/error.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Codes are multiplied by queries, or probabilities, times their scales: the weights. Error of a head's output against `exact`, relative to
/// its length, with normal rows, the worst head of each row of the benchmarks: near_exact 7e-5 to 1.4e-4, fast 2e-2 to 5e-2; it grows with the
/// spread of the logits. The benchmarks print it row by row and fail above 2e-4 (5e-2); tests/properties/accumulation_test.cpp prints it relative to
/// the largest output of a text.
enum class Accumulation {
  exact,       ///< weights in fp32
  near_exact,  ///< weights as 16-bit integers, in units of the largest weight of 128 to 256 rows; outlier channels of keys in fp32
  fast         ///< weights as 8-bit integers
};

/// What its values are called, in their order, in names of policies and in saved caches.
constexpr auto names_of(Accumulation) noexcept { return std::array{"exact", "near_exact", "fast"}; }

/// Fast is offered where it adds less than a fifth to the error that the codes themselves leave.
template <int Bits>
inline constexpr bool offers_fast = Bits <= 5;

/// Raises an Error if codes of `Bits` bits do not offer `mode`.
template <int Bits>
inline void check_accumulation(Accumulation mode, const char* storage) {
  require(static_cast<std::size_t>(mode) < names_of(mode).size(), ErrorCode::option, storage, ": accumulation is ",
          static_cast<std::size_t>(mode), ", must be a value of its enumeration, 0 to ", names_of(mode).size() - 1);
  require(mode != Accumulation::fast || offers_fast<Bits>, ErrorCode::option, storage,
          ": accumulation is fast, must be exact or near_exact at ", Bits, " bits: it would cost more than the codes do");
}

}  // namespace kvcompress
