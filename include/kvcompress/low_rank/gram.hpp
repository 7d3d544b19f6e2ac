// include/kvcompress/low_rank/gram.hpp - right singular vectors from the smaller Gram matrix, in double.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/low_rank/eigen_core.hpp"

#include <Eigen/Eigenvalues>
#include <Eigen/QR>

#include "kvcompress/low_rank/row_source.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::low_rank::detail {

/// gram += lower half of M^T M: (columns, columns).
template <RowSource S>
void add_columns_gram(const S& source, Eigen::Map<Eigen::MatrixXd> gram, const Memory& memory) {
  const std::size_t most = std::min(tile_rows, source.rows());
  Vector<float> floats(most * source.columns(), Allocator<float>(memory));
  Vector<double> doubles(most * source.columns(), Allocator<double>(memory));
  for_each_tile(source, floats, [&](const auto& tile) {
    auto wide = map<RowsD>(doubles, static_cast<std::size_t>(tile.rows()), source.columns());
    wide = tile.template cast<double>();
    gram.selfadjointView<Eigen::Lower>().rankUpdate(wide.transpose());
  });
}

/// gram = lower half of M M^T: (rows, rows). Loads every pair of tiles once.
template <RowSource S>
void fill_rows_gram(const S& source, Eigen::Map<Eigen::MatrixXd> gram, const Memory& memory) {
  const std::size_t rows = source.rows();
  const std::size_t columns = source.columns();
  const std::size_t most = std::min(tile_rows, rows);
  Vector<float> floats(most * columns, Allocator<float>(memory));
  Vector<double> left(most * columns, Allocator<double>(memory));
  Vector<double> right(most * columns, Allocator<double>(memory));
  const auto load = [&](std::size_t first, Vector<double>& doubles) {
    const std::size_t count = std::min(tile_rows, rows - first);
    source.load(first, count, floats.data());
    auto wide = map<RowsD>(doubles, count, columns);
    wide = map<RowsF>(floats, count, columns).template cast<double>();
    return wide;
  };
  for (std::size_t i = 0; i < rows; i += tile_rows) {
    const auto a = load(i, left);
    for (std::size_t j = 0; j <= i; j += tile_rows) {
      const auto b = load(j, right);
      gram.block(index(i), index(j), a.rows(), b.rows()).noalias() = a * b.transpose();
    }
  }
}

/// The leading right singular vectors, (columns, rank) row-major, from the eigenvectors of the smaller Gram matrix. The error is
/// that of double: the singular values are good to 1e-8 of the largest. `rank` is at least 1, at most min(rows, columns).
template <RowSource S>
Vector<float> leading_by_gram(const S& source, std::size_t rank, const Memory& memory) {
  const std::size_t rows = source.rows();
  const std::size_t columns = source.columns();
  const std::size_t side = std::min(rows, columns);
  Vector<double> storage(side * side, Allocator<double>(memory));
  auto gram = map<Eigen::MatrixXd>(storage, side, side);
  if (columns <= rows) {
    add_columns_gram(source, gram, memory);
  } else {
    fill_rows_gram(source, gram, memory);
  }
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(gram);  // reads the lower half
  rank = significant(solver.eigenvalues(), rank);
  const auto leading = solver.eigenvectors().rightCols(index(rank)).rowwise().reverse();
  Vector<float> vectors(columns * rank, Allocator<float>(memory));
  auto out = map<RowsF>(vectors, columns, rank);
  if (columns <= rows) {
    out = leading.template cast<float>();
    return vectors;
  }
  Vector<float> floats(std::min(tile_rows, rows) * columns, Allocator<float>(memory));
  Vector<double> wide(columns * rank, Allocator<double>(memory));
  auto right = map<Eigen::MatrixXd>(wide, columns, rank);
  Index first = 0;
  for_each_tile(source, floats, [&](const auto& tile) {
    right.noalias() += tile.transpose().template cast<double>() * leading.middleRows(first, tile.rows());
    first += tile.rows();
  });
  // M^T U has orthogonal columns up to rounding over their length; QR removes both, and their signs do not matter.
  const Eigen::HouseholderQR<Eigen::Ref<Eigen::MatrixXd>> qr(right);
  Eigen::MatrixXd basis = Eigen::MatrixXd::Identity(index(columns), index(rank));
  basis.applyOnTheLeft(qr.householderQ());
  out = basis.cast<float>();
  return vectors;
}

}  // namespace kvcompress::low_rank::detail
