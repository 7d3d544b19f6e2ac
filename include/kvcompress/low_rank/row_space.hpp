// include/kvcompress/low_rank/row_space.hpp - the leading right singular vectors of a tall matrix, and rows projected on them.
// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <utility>

#include "kvcompress/low_rank/row_source.hpp"

// The factorisation takes 20 s to compile (GCC 12). A program of many source files can define KVCOMPRESS_FACTORISATION_APART in all of them
// and include low_rank/factorisation.hpp in one.
#if defined(KVCOMPRESS_FACTORISATION_APART)
#define KVCOMPRESS_FACTORISATION_DECLARED
#define KVCOMPRESS_FACTORISATION_DEFINED
#else  // as templates, so that only programs that factorise compile it
#define KVCOMPRESS_FACTORISATION_DECLARED template <class = void>
#define KVCOMPRESS_FACTORISATION_DEFINED template <class>
#endif

namespace kvcompress::inline KVCOMPRESS_ABI::low_rank {

/// How find_row_space works. `automatic`: as `exact` while the smaller side of the matrix is at most 512, else subspace
/// iteration. `exact`: eigenvectors of the smaller Gram matrix in double, whatever its side (0.3 s at 1024 and 4096 rows; twice
/// the side takes about ten times as long).
enum class Factorisation { automatic, exact };
/// What its values are called, in their order, in names of policies and in saved caches.
constexpr auto names_of(Factorisation) noexcept { return std::array{"automatic", "exact"}; }

namespace detail {

/// The `rank` leading directions of a source, at least 1 and at most its smaller side: (columns, rank) row-major, fewer columns where the
/// singular values end before the rank does. See find_row_space.
KVCOMPRESS_FACTORISATION_DECLARED
Vector<float> leading_directions(const AnyRows& source, std::size_t rank, Factorisation mode, const Memory& memory);
/// out = rows W: (count, columns) by (columns, rank), all row-major.
KVCOMPRESS_FACTORISATION_DECLARED
void project(const float* rows, std::size_t count, std::size_t columns, const float* directions, std::size_t rank, float* out);

}  // namespace detail

/// Orthonormal directions W such that rows M ~ (M W) W^T. Signs, and the order of directions of equal length, mean nothing.
struct RowSpace {
  std::size_t columns = 0;
  std::size_t rank = 0;
  Vector<float> vectors{};  // W: (columns, rank) row-major, the direction with the largest singular value first

  /// out = rows W: (count, columns) -> (count, rank), both row-major.
  void project(const float* rows, std::size_t count, float* out) const { detail::project(rows, count, columns, vectors.data(), rank, out); }
};

/// The `rank` leading right singular vectors of the source (Eckart-Young: no other W of that rank leaves a smaller Frobenius
/// error). `rank` is cut to min(rank, rows, columns) and to the singular values above 2^-20 of the largest, so that a matrix
/// of rank 3 gives 3 directions and a zero matrix none.
///
/// Error: `exact` within 1e-6 of the optimum, relative; `automatic` within 1 % of it, and never closer to zero than about 2e-6
/// of the norm of the source, where floats end. The entries must be finite, with a root mean square between 1e-12 and 1e12.
/// Deterministic: the same source gives the same bits on the same machine (with Eigen's own threads: for the same number).
///
/// Memory from the handle, with k = min(rank + max(32, rank / 8), rows, columns) and t = min(512, rows): at most
/// 4 (2 k c + t (c + k) + g + rank c) bytes for c columns, where g = c^2 if c <= min(8 k, rows) and 0 otherwise; `exact` with
/// s = min(rows, c): 8 (s^2 + 2 t c) + 4 t c + 12 rank c. Beside the handle, by Eigen: about 32 k^2 bytes and 4 MiB of packed
/// tiles; `exact` about 16 s^2, and 8 rank c if rows < c.
template <RowSource S>
RowSpace find_row_space(const S& of, std::size_t rank, Factorisation mode, const Memory& memory) {
  const detail::AnyRows source(of);
  const std::size_t rows = source.rows();
  const std::size_t columns = source.columns();
  rank = std::min({rank, rows, columns});
  if (rank == 0) { return {columns, 0, Vector<float>(Allocator<float>(memory))}; }
  Vector<float> vectors = detail::leading_directions(source, rank, mode, memory);
  rank = vectors.size() / columns;
  return {columns, rank, std::move(vectors)};
}

}  // namespace kvcompress::low_rank

#if !defined(KVCOMPRESS_FACTORISATION_APART)
#include "kvcompress/low_rank/factorisation.hpp"
#endif
