// include/kvcompress/low_rank/factorisation.hpp - what row_space.hpp declares: the factorisation, the slowest part of the library to compile.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>

#include "kvcompress/low_rank/gram.hpp"
#include "kvcompress/low_rank/range_finder.hpp"
#include "kvcompress/low_rank/row_space.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::low_rank::detail {

KVCOMPRESS_FACTORISATION_DEFINED
Vector<float> leading_directions(const AnyRows& source, std::size_t rank, Factorisation mode, const Memory& memory) {
  constexpr std::size_t small_side = 512;
  if (mode == Factorisation::exact || std::min(source.rows(), source.columns()) <= small_side) {
    return leading_by_gram(source, rank, memory);
  }
  return RangeFinder<AnyRows>(source, rank, memory).leading();
}
KVCOMPRESS_FACTORISATION_DEFINED
void project(const float* rows, std::size_t count, std::size_t columns, const float* directions, std::size_t rank, float* out) {
  const Eigen::Map<const RowsF> m(rows, index(count), index(columns));
  const Eigen::Map<const RowsF> w(directions, index(columns), index(rank));
  Eigen::Map<RowsF>(out, index(count), index(rank)).noalias() = m * w;
}

}  // namespace kvcompress::low_rank::detail
