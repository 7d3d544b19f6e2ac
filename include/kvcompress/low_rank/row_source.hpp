// include/kvcompress/low_rank/row_source.hpp - a tall matrix that is read tile by tile and never held as a whole.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/low_rank/eigen_core.hpp"

#include <algorithm>
#include <concepts>
#include <cstddef>

#include "kvcompress/core/memory.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::low_rank {

/// A matrix of finite floats by its rows: load(first, count, out) writes rows [first, first + count), row-major, to `out`.
template <class S>
concept RowSource = requires(const S source, std::size_t number, float* out) {
  { source.rows() } -> std::convertible_to<std::size_t>;
  { source.columns() } -> std::convertible_to<std::size_t>;
  { source.load(number, number, out) } -> std::same_as<void>;
};

namespace detail {

using Eigen::Index;
using RowsF = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using RowsD = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// Rows per tile: enough that a product with the tile is bound by arithmetic, 8 MiB of floats at 4096 columns.
inline constexpr std::size_t tile_rows = 512;

constexpr Index index(std::size_t number) noexcept { return static_cast<Index>(number); }

/// A matrix of Eigen's over a Vector that holds at least rows * columns numbers.
template <class Matrix>
Eigen::Map<Matrix> map(Vector<typename Matrix::Scalar>& storage, std::size_t rows, std::size_t columns) noexcept {
  return {storage.data(), index(rows), index(columns)};
}

/// A source of any type behind one type, so that a program compiles the factorisation once (20 s with GCC 12). Refers to it.
class AnyRows {
 public:
  template <RowSource S>
  explicit AnyRows(const S& source) noexcept
      : source_(&source), rows_(source.rows()), columns_(source.columns()),
        load_([](const void* from, std::size_t first, std::size_t count, float* out) {
          static_cast<const S*>(from)->load(first, count, out);
        }) {}

  [[nodiscard]] std::size_t rows() const noexcept { return rows_; }
  [[nodiscard]] std::size_t columns() const noexcept { return columns_; }
  void load(std::size_t first, std::size_t count, float* out) const { load_(source_, first, count, out); }

 private:
  const void* source_;
  std::size_t rows_;
  std::size_t columns_;
  void (*load_)(const void* from, std::size_t first, std::size_t count, float* out);
};

/// Calls take(tile) with every tile of the source, first to last; `tile` is its (rows of the tile, columns) in `storage`.
template <RowSource S, class Take>
void for_each_tile(const S& source, Vector<float>& storage, Take take) {
  const std::size_t rows = source.rows();
  for (std::size_t first = 0; first < rows; first += tile_rows) {
    const std::size_t count = std::min(tile_rows, rows - first);
    source.load(first, count, storage.data());
    take(map<RowsF>(storage, count, source.columns()));
  }
}

/// Singular values at most this fraction of the largest are rounding of floats: sigma^2 <= 2^-40 sigma_1^2.
inline constexpr double smallest_eigenvalue = 0x1p-40;

/// How many of the `rank` largest eigenvalues (ascending, as Eigen gives them) are above rounding.
template <class Values>
std::size_t significant(const Values& ascending, std::size_t rank) {
  const double largest = ascending(ascending.size() - 1);
  std::size_t count = 0;
  while (count < rank && ascending(ascending.size() - 1 - index(count)) > smallest_eigenvalue * largest) { ++count; }
  return largest > 0.0 ? count : 0;
}

}  // namespace detail
}  // namespace kvcompress::low_rank
