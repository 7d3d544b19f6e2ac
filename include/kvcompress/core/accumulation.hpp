// include/kvcompress/core/accumulation.hpp - how attention adds up products with integer codes.
// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>

#include "kvcompress/core/error.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Codes are multiplied by queries, or probabilities, times their scales: the weights. Error of a head's output against `exact`, relative to its
/// length, with normal rows, the worst head of many, measured by tests/properties/accumulation_test.cpp, which holds these bounds:
///
/// | logits of spread        | near_exact, heads of up to 576 | up to 1000             | fast, heads of up to 1000 |
/// |-------------------------|--------------------------------|------------------------|---------------------------|
/// | 1                       | 2e-4                           | 3e-4; 8 bits: 4e-4     | 5e-2 (2e-2 in the mean)   |
/// | 2                       | 3e-4; 8 bits above 256: 5e-4   | 4e-4; 8 bits: 1.2e-3   | 6e-2                      |
/// | up to 16 channels of keys 60 times as large as the rest: 2e-4 and 5e-2                                         |
///
/// More such channels cost the others their precision: with 20 of 128 up to 1e-3 and 3e-1. Codes of 8 bits leave weights fewer bits in long heads,
/// since sums must fit 31. The benchmarks print the error row by row and fail above 2e-4 (5e-2).
///
/// In every mode the output of a query has the same bits whatever other queries share its call.
enum class Accumulation {
  exact,       ///< weights in fp32
  near_exact,  ///< weights as 16-bit integers, in units of a query's largest weight of 128 to 256 rows; outlier channels of keys in fp32
  fast         ///< the same with 8-bit integers
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
