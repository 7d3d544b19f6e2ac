// tests/low_rank/row_space_test.cpp - the row space against Eigen's SVD, on easy, hard and degenerate matrices.
// SPDX-License-Identifier: MIT
#include "kvcompress/low_rank/row_space.hpp"

#include <gtest/gtest.h>

#include <Eigen/SVD>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "support/counting_memory.hpp"
#include "support/random_matrix.hpp"

namespace row_space_test {

using kvcompress::Memory;
using kvcompress::low_rank::Factorisation;
using kvcompress::low_rank::find_row_space;
using kvcompress::low_rank::RowSpace;
using kvcompress::reference::Index;
using kvcompress::reference::Matrix;
using Floats = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// A matrix in memory, as a source of rows.
struct Source {
  Floats matrix;
  [[nodiscard]] std::size_t rows() const { return static_cast<std::size_t>(matrix.rows()); }
  [[nodiscard]] std::size_t columns() const { return static_cast<std::size_t>(matrix.cols()); }
  void load(std::size_t first, std::size_t count, float* out) const {
    std::memcpy(out, matrix.data() + first * columns(), count * columns() * sizeof(float));
  }
};
static_assert(kvcompress::low_rank::RowSource<Source>);

Source gaussian(Index rows, Index columns, unsigned seed) {
  std::mt19937 rng(seed);  // fixed seed: a failure must reproduce
  return {kvcompress::test::random_matrix(rng, rows, columns).cast<float>()};
}

/// Two products with random matrices about a decaying diagonal, and an offset for every column.
Source decaying(Index rows, Index columns, Index rank, double power, unsigned seed) {
  std::mt19937 rng(seed);
  Matrix left = kvcompress::test::random_matrix(rng, rows, rank);
  for (Index i = 0; i < rank; ++i) { left.col(i) *= std::pow(static_cast<double>(i + 1), -power); }
  const Matrix product = left * kvcompress::test::random_matrix(rng, rank, columns);
  const Matrix offset = 4.0 * kvcompress::test::random_matrix(rng, 1, columns);
  return {(product.rowwise() + offset.row(0)).cast<float>()};
}

Matrix vectors(const RowSpace& space) {
  return Eigen::Map<const Floats>(space.vectors.data(), static_cast<Index>(space.columns), static_cast<Index>(space.rank)).cast<double>();
}

/// Frobenius norm of what the space leaves of the source.
double error(const Source& source, const RowSpace& space) {
  const Matrix m = source.matrix.cast<double>();
  const Matrix w = vectors(space);
  return (m - m * w * w.transpose()).norm();
}

/// Singular values, largest first.
Eigen::VectorXd singular_values(const Source& source) { return Eigen::BDCSVD<Matrix>(source.matrix.cast<double>()).singularValues(); }

/// The error of the best space of that rank (Eckart-Young).
double optimum(const Eigen::VectorXd& singular, std::size_t rank) {
  return singular.tail(singular.size() - static_cast<Index>(rank)).norm();
}

void expect_orthonormal(const RowSpace& space) {
  const Matrix w = vectors(space);
  EXPECT_LT((w.transpose() * w - Matrix::Identity(w.cols(), w.cols())).cwiseAbs().maxCoeff(), 2e-6);
}

TEST(RowSpace, ExactIsTheBestOfItsRank) {
  for (const auto& [rows, columns] : {std::pair<Index, Index>{90, 40}, {40, 90}, {60, 60}, {600, 24}, {24, 600}, {516, 520}}) {
    const Source source = decaying(rows, columns, 20, 0.5, 3);
    const Eigen::VectorXd singular = singular_values(source);
    for (const std::size_t rank : {1U, 7U, 19U}) {
      const RowSpace space = find_row_space(source, rank, Factorisation::exact, Memory{});
      ASSERT_EQ(space.rank, rank);
      const double best = optimum(singular, rank);
      EXPECT_NEAR(error(source, space), best, 1e-6 * best) << rows << " x " << columns << ", rank " << rank;
      expect_orthonormal(space);
    }
  }
}

TEST(RowSpace, AutomaticIsWithinOnePercentOfTheBest) {
  struct Case {
    const char* name;
    Source source;
  };
  const Case cases[] = {{"offsets and power law", decaying(700, 530, 530, 0.5, 1)},
                        {"noise", gaussian(600, 530, 2)},
                        {"fewer rows than columns", gaussian(520, 640, 3)},
                        {"steep", decaying(640, 530, 530, 2.5, 4)}};
  for (const auto& [name, source] : cases) {
    const Eigen::VectorXd singular = singular_values(source);
    for (const std::size_t rank : {8U, 48U}) {  // rank 8 passes over the rows, rank 48 forms the Gram matrix
      const RowSpace space = find_row_space(source, rank, Factorisation::automatic, Memory{});
      ASSERT_EQ(space.rank, rank) << name;
      EXPECT_LE(error(source, space), 1.01 * optimum(singular, rank)) << name << ", rank " << rank;
      expect_orthonormal(space);
    }
  }
}

TEST(RowSpace, ColumnsComeInTheOrderOfTheSingularValues) {
  const Source source = decaying(700, 530, 100, 1.0, 5);
  for (const auto mode : {Factorisation::automatic, Factorisation::exact}) {
    const RowSpace space = find_row_space(source, 40, mode, Memory{});
    const Matrix product = source.matrix.cast<double>() * vectors(space);
    for (Index i = 1; i < product.cols(); ++i) { EXPECT_LE(product.col(i).norm(), 1.01 * product.col(i - 1).norm()) << i; }
  }
}

TEST(RowSpace, IsExactOnceItHasTheRankOfTheMatrix) {
  for (const auto mode : {Factorisation::automatic, Factorisation::exact}) {
    for (const auto& [rows, columns] : {std::pair<Index, Index>{600, 540}, {540, 600}, {80, 30}, {30, 80}}) {
      const Source source = decaying(rows, columns, 5, 0.5, 6);
      const RowSpace space = find_row_space(source, 20, mode, Memory{});
      EXPECT_EQ(space.rank, 6U) << "five directions and the offset";
      EXPECT_LT(error(source, space), 5e-6 * source.matrix.cast<double>().norm());
      expect_orthonormal(space);
    }
  }
}

TEST(RowSpace, CutsTheRankToTheSidesOfTheMatrix) {
  for (const auto& [rows, columns] : {std::pair<Index, Index>{12, 30}, {30, 12}, {1, 9}, {9, 1}}) {
    const Source source = gaussian(rows, columns, 7);
    const RowSpace space = find_row_space(source, 100, Factorisation::automatic, Memory{});
    EXPECT_EQ(space.rank, static_cast<std::size_t>(std::min(rows, columns)));
    EXPECT_LT(error(source, space), 1e-6 * source.matrix.cast<double>().norm());
    expect_orthonormal(space);
  }
  EXPECT_EQ(find_row_space(gaussian(9, 9, 8), 0, Factorisation::automatic, Memory{}).rank, 0U);
  EXPECT_EQ(find_row_space(Source{Floats(0, 9)}, 3, Factorisation::automatic, Memory{}).rank, 0U);
}

TEST(RowSpace, OfAllDirectionsIsComplete) {
  const Source source = gaussian(530, 520, 9);
  const RowSpace space = find_row_space(source, 520, Factorisation::automatic, Memory{});
  EXPECT_EQ(space.rank, 520U);
  EXPECT_LT(error(source, space), 5e-6 * source.matrix.cast<double>().norm());
}

TEST(RowSpace, OfZerosIsEmptyAndOfEqualRowsALine) {
  for (const Index side : {20, 530}) {
    const Source zero{Floats::Zero(side + 10, side)};
    const RowSpace none = find_row_space(zero, 4, Factorisation::automatic, Memory{});
    EXPECT_EQ(none.rank, 0U);
    EXPECT_EQ(none.columns, static_cast<std::size_t>(side));
    none.project(zero.matrix.data(), 1, nullptr);

    const Source equal{gaussian(1, side, 10).matrix.replicate(side + 10, 1)};
    const RowSpace line = find_row_space(equal, 4, Factorisation::automatic, Memory{});
    EXPECT_EQ(line.rank, 1U);
    EXPECT_LT(error(equal, line), 5e-6 * equal.matrix.cast<double>().norm());
    expect_orthonormal(line);
  }
}

TEST(RowSpace, ProjectsRows) {
  const Source source = gaussian(50, 20, 11);
  const RowSpace space = find_row_space(source, 6, Factorisation::automatic, Memory{});
  Floats out(3, 6);
  space.project(source.matrix.data() + 2 * 20, 3, out.data());
  const Matrix expected = source.matrix.middleRows(2, 3).cast<double>() * vectors(space);
  EXPECT_LT((out.cast<double>() - expected).cwiseAbs().maxCoeff(), 1e-5);
}

TEST(RowSpace, GivesTheSameBitsTwice) {
  for (const Index side : {40, 530}) {
    const Source source = gaussian(side + 20, side, 12);
    const RowSpace one = find_row_space(source, 10, Factorisation::automatic, Memory{});
    const RowSpace two = find_row_space(source, 10, Factorisation::automatic, Memory{});
    EXPECT_EQ(one.vectors, two.vectors);
  }
}

TEST(RowSpace, TakesItsMemoryFromTheHandleAndGivesItBack) {
  kvcompress::test::CountingMemory memory;
  const auto find = [&](const Source& source, std::size_t rank) {
    return find_row_space(source, rank, Factorisation::automatic, memory.handle());
  };
  for (const auto& [rows, columns, rank] :
       {std::tuple<Index, Index, std::size_t>{60, 40, 10}, {40, 60, 10}, {600, 530, 8}, {600, 530, 48}}) {
    const Source source = gaussian(rows, columns, 13);
    memory.restart();
    { EXPECT_EQ(find(source, rank).vectors.get_allocator().memory, memory.handle()); }
    EXPECT_EQ(memory.live, 0U);
    const auto k = rank + 32;
    const auto c = static_cast<std::size_t>(columns);
    const auto side = static_cast<std::size_t>(std::min(rows, columns));
    const auto t = std::min<std::size_t>(512, static_cast<std::size_t>(rows));
    const std::size_t gram = c <= 8 * k ? c * c : 0;
    EXPECT_LE(memory.peak,
              side > 512 ? 4 * (2 * k * c + t * (c + k) + gram + rank * c) : 8 * (side * side + 2 * t * c) + 4 * t * c + 12 * rank * c);

    const std::size_t calls = memory.calls;
    for (std::size_t allowed = 0; allowed < calls; ++allowed) {
      memory.refuse_after(allowed);
      EXPECT_THROW(find(source, rank), kvcompress::Error) << allowed;
      EXPECT_EQ(memory.live, 0U) << allowed;
    }
    memory.allow();
  }
}

}  // namespace row_space_test
