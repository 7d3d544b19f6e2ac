// include/kvcompress/reference/rope.hpp - rotary position embedding with angles in double.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/low_rank/eigen_core.hpp"

#include <cmath>
#include <cstdint>

#include "kvcompress/reference/attention.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::reference {

/// Which two channels turn together: (i, i + rotary_dim / 2), or (2i, 2i + 1).
enum class Pairing { half, interleaved };

/// RoPE (arXiv:2104.09864, "RoFormer"): pair i turns by position / linear_factor * theta^(-2i / rotary_dim)
/// radians.
struct Rope {
  Pairing pairing = Pairing::half;
  double theta = 10000.0;
  Index rotary_dim = 0;        // only the first `rotary_dim` channels turn; 0 means all
  double linear_factor = 1.0;  // linear scaling (position interpolation) divides positions by it

  /// Radians by which pair `pair` of `dim` rotated channels turns at `position`.
  [[nodiscard]] double angle(std::int64_t position, Index pair, Index dim) const {
    const double exponent = -2.0 * static_cast<double>(pair) / static_cast<double>(dim);
    return static_cast<double>(position) / linear_factor * std::pow(theta, exponent);
  }
};

/// Turns each row by its position. Rotating by a, then by b, equals rotating by a + b; negative positions
/// turn back.
inline Matrix rotate(const Matrix& rows, const Positions& positions, const Rope& rope = {}) {
  require(rows.rows() == positions.size(), ErrorCode::shape, "reference: positions.size() is ", positions.size(),
          ", must be that of the rows, ", rows.rows());
  const Index dim = rope.rotary_dim == 0 ? rows.cols() : rope.rotary_dim;
  require(dim <= rows.cols() && dim % 2 == 0, ErrorCode::option, "reference: rotary_dim is ", dim,
          ", must be even and at most the head size, ", rows.cols());
  Matrix out = rows;
  for (Index t = 0; t < rows.rows(); ++t) {
    for (Index pair = 0; pair < dim / 2; ++pair) {
      const Index a = rope.pairing == Pairing::half ? pair : 2 * pair;
      const Index b = rope.pairing == Pairing::half ? pair + dim / 2 : 2 * pair + 1;
      const double angle = rope.angle(positions(t), pair, dim);
      out(t, a) = std::cos(angle) * rows(t, a) - std::sin(angle) * rows(t, b);
      out(t, b) = std::sin(angle) * rows(t, a) + std::cos(angle) * rows(t, b);
    }
  }
  return out;
}

/// Moves rows that were rotated at `from` to the positions `to`.
inline Matrix rerotate(const Matrix& rotated, const Positions& from, const Positions& to, const Rope& rope = {}) {
  return rotate(rotated, to - from, rope);
}

}  // namespace kvcompress::reference
