// include/kvcompress/low_rank/range_finder.hpp - right singular vectors by subspace iteration from a random start.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/low_rank/eigen_core.hpp"

#include <Eigen/Eigenvalues>
#include <Eigen/QR>

#include <cstdint>

#include "kvcompress/low_rank/row_source.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::low_rank::detail {

/// Subspace iteration for the leading eigenvectors of G = M^T M, filtered: W <- orth(p(G) W), where the polynomial p is small
/// on the eigenvalues that W is to leave out (Chebyshev's, with one zero at 0; cf. Zhou, Saad, Tiago and Chelikowsky, 2006), until
/// the residual of W says that the error is close to its optimum. G itself is formed where it is at most `gram_factor` times as
/// large as W, which is also where that is cheaper than passing over the rows again; else G W is M^T (M W), tile by tile.
///
/// Tried and worse (4096 x 1024, rank 160, error above the optimum): plain iteration, 2 / 3 / 4 steps: 1.8 / 1.1 / 0.76 %; with dynamic
/// shifts 1.4 / 0.7 / 0.4 %; block Krylov 1 to 2 % on flat spectra; Eigen's eigenvectors in float are orthogonal to 5e-4 only.
template <RowSource S>
class RangeFinder {
 public:
  /// `rank` is at least 1 and at most min(rows, columns).
  RangeFinder(const S& source, std::size_t rank, const Memory& memory)
      : source_(source), columns_(source.columns()), tile_count_(std::min(tile_rows, source.rows())), rank_(rank),
        width_(std::min({rank + std::max(oversampling, rank / 8), source.rows(), columns_})), memory_(memory),
        tile_(tile_count_ * columns_, Allocator<float>(memory)), projected_(tile_count_ * width_, Allocator<float>(memory)),
        basis_(columns_ * width_, Allocator<float>(memory)), image_(columns_ * width_, Allocator<float>(memory)),
        gram_(Allocator<float>(memory)) {
    if (columns_ <= gram_factor * width_ && columns_ <= source.rows()) { gram_.resize(columns_ * columns_); }
  }

  /// (columns, rank) row-major, fewer columns where the singular values end before the rank does.
  Vector<float> leading() {
    measure();
    if (scale_ == 0.0F) { return Vector<float>(Allocator<float>(memory_)); }
    start();
    solve(Eigen::EigenvaluesOnly);
    for (int step = 0; step < most_steps; ++step) {
      filter();
      solve(Eigen::ComputeEigenvectors);
      if (blurred() || excess() <= allowed_excess) { break; }
    }
    if (blurred()) { polish(); }
    const std::size_t count = significant(solver_.eigenvalues(), rank_);
    Vector<float> vectors(columns_ * count, Allocator<float>(memory_));
    map<RowsF>(vectors, columns_, count).noalias() = basis() * turn(count).rowwise().reverse();
    return vectors;
  }

 private:
  static constexpr std::size_t oversampling = 32;        // directions beyond the rank, at least; an eighth of the rank if more
  static constexpr std::size_t gram_factor = 8;          // see above
  static constexpr int most_steps = 6;                   // one is enough, with rare exceptions
  static constexpr double allowed_excess = 0.005;        // by the estimate below, which is up to 1.8 times too small
  static constexpr double blurred_eigenvalue = 0x1p-20;  // of the largest: below it, a product with G in float is rounding
  static constexpr double steep_eigenvalue = 0x1p-12;    // of the largest: below it, a third factor costs too many digits
  static constexpr std::size_t panel = 64;               // columns handled together where a cache decides

  Eigen::Map<Eigen::MatrixXf> basis() { return map<Eigen::MatrixXf>(basis_, columns_, width_); }
  Eigen::Map<Eigen::MatrixXf> image() { return map<Eigen::MatrixXf>(image_, columns_, width_); }
  Eigen::Map<Eigen::MatrixXf> gram() { return map<Eigen::MatrixXf>(gram_, columns_, columns_); }

  /// G where it is used, and the scale that gives it the trace 1: third powers of it have to stay in the range of float.
  void measure() {
    double energy = 0.0;  // the squared Frobenius norm
    for_each_tile(source_, tile_, [&](const auto& tile) {
      energy += tile.rowwise().squaredNorm().template cast<double>().sum();
      if (!gram_.empty()) { gram().template selfadjointView<Eigen::Lower>().rankUpdate(tile.transpose()); }
    });
    if (!(energy > 0.0)) { return; }
    scale_ = static_cast<float>(1.0 / energy);
    // By panels: Eigen's own way through a transposed view takes three times as long.
    for (std::size_t j = 0; !gram_.empty() && j < columns_; j += panel) {
      const Index size = index(std::min(panel, columns_ - j));
      const Index below = index(columns_ - j) - size;
      auto square = gram().block(index(j), index(j), size, size);
      gram().block(index(j), index(j), size + below, size) *= scale_;
      square.template triangularView<Eigen::StrictlyUpper>() = square.transpose();
      gram().block(index(j), index(j) + size, size, below) = gram().block(index(j) + size, index(j), below, size).transpose();
    }
  }

  /// basis = orth(G X) of a sparse random X: every channel enters, with a random sign, four columns chosen at random. Where G is
  /// at hand this costs next to nothing and serves as well as a dense X.
  void start() {
    std::uint64_t state = 0x853C49E6748FEA9BULL;  // SplitMix64 from any fixed seed: the same numbers on every machine
    for (std::size_t i = 0; i < 4 * columns_; ++i) {
      state += 0x9E3779B97F4A7C15ULL;
      std::uint64_t z = state;
      z = (z ^ (z >> 30U)) * 0xBF58476D1CE4E5B9ULL;
      z = (z ^ (z >> 27U)) * 0x94D049BB133111EBULL;
      z ^= z >> 31U;
      const float sign = (z & 1U) != 0 ? 1.0F : -1.0F;
      const auto column = index((z >> 8U) % width_);
      if (gram_.empty()) {
        basis()(index(i / 4), column) += sign;
      } else {
        image().col(column) += sign * gram().col(index(i / 4));
      }
    }
    if (gram_.empty()) { multiply(0.0F); }
    orthonormalise();
  }

  /// image = G basis, and the eigenvalues of basis^T G basis (Rayleigh-Ritz). In double: Eigen's eigenvectors in float are
  /// orthogonal to no more than 1e-5.
  void solve(int what) {
    multiply(0.0F);
    const Eigen::MatrixXf small = basis().transpose() * image();
    solver_.compute(small.cast<double>(), what);
  }

  /// The eigenvectors of the `count` largest eigenvalues, ascending.
  [[nodiscard]] Eigen::MatrixXf turn(std::size_t count) const {
    return solver_.eigenvectors().rightCols(index(count)).template cast<float>();
  }

  /// basis = orth(p(G) basis), from image = G basis: p is the Chebyshev polynomial of the range [0, smallest eigenvalue of W],
  /// stretched so that its first zero is 0. Of a steep spectrum the columns of p(G) W would lose the small eigenvalues.
  void filter() {
    const auto& values = solver_.eigenvalues();
    const double edge = values(0);
    const double largest = values(index(width_) - 1);
    if (edge > steep_eigenvalue * largest) {
      apply_factor(0.5 * edge);
      apply_factor(0.933 * edge);
    } else if (edge > blurred_eigenvalue * largest) {
      apply_factor(0.828 * edge);
    }
    orthonormalise();
  }

  void apply_factor(double zero) {
    basis_.swap(image_);
    multiply(static_cast<float>(zero));
  }

  /// By how much the error is above its optimum, relative: to first order a direction x with eigenvalue theta gains
  /// |G x - theta x|^2 / (theta - lambda) when what it lacks lies at the eigenvalue lambda, here 0.9 of the smallest of W.
  double excess() {
    const auto& values = solver_.eigenvalues();
    const auto theta = values.tail(index(rank_)).array();
    const Eigen::VectorXf scale = theta.template cast<float>();
    const Eigen::MatrixXf vectors = turn(rank_);
    Eigen::VectorXd squares = Eigen::VectorXd::Zero(index(rank_));
    for (std::size_t first = 0; first < columns_; first += tile_count_) {
      const Index count = index(std::min(tile_count_, columns_ - first));
      auto residual = map<RowsF>(projected_, static_cast<std::size_t>(count), rank_);
      auto moved = map<RowsF>(tile_, static_cast<std::size_t>(count), rank_);
      moved.noalias() = basis().middleRows(index(first), count) * vectors;
      residual.noalias() = image().middleRows(index(first), count) * vectors;
      residual -= moved * scale.asDiagonal();
      squares += residual.colwise().squaredNorm().transpose().template cast<double>();
    }
    const double gain = (squares.array() / (theta - 0.9 * values(0)).max(1e-9)).sum();
    return 0.5 * gain / std::max(1.0 - theta.sum(), 1e-6);
  }

  /// Whether the rank reaches eigenvalues that G in float cannot tell from rounding.
  [[nodiscard]] bool blurred() const {
    return solver_.eigenvalues()(index(width_ - rank_)) < blurred_eigenvalue * solver_.eigenvalues()(index(width_ - 1));
  }

  /// image = (G - zero) basis, with G scaled
  void multiply(float zero) {
    image() = -zero * basis();
    if (!gram_.empty()) {
      image().noalias() += gram() * basis();
      return;
    }
    pass([&](const auto& tile, auto& y) {
      y *= scale_;
      image().noalias() += tile.transpose() * y;
    });
  }

  /// Calls take(tile, tile * basis) for every tile.
  template <class Take>
  void pass(Take take) {
    for_each_tile(source_, tile_, [&](const auto& tile) {
      auto y = map<RowsF>(projected_, static_cast<std::size_t>(tile.rows()), width_);
      y.noalias() = tile * basis();
      take(tile, y);
    });
  }

  /// Two steps over the rows themselves, W <- orth(M^T (M W)), whose columns are ordered by now and keep their own precision;
  /// then Rayleigh-Ritz on (M W)^T (M W), added in double.
  void polish() {
    gram_.clear();
    for (int step = 0; step < 2; ++step) {
      multiply(0.0F);
      orthonormalise();
    }
    Eigen::MatrixXd small = Eigen::MatrixXd::Zero(index(width_), index(width_));
    pass([&](const auto&, const auto& y) {
      const Eigen::MatrixXd wide = y.transpose().template cast<double>();
      small.selfadjointView<Eigen::Lower>().rankUpdate(wide);
    });
    solver_.compute(small);
  }

  /// basis = Q of image = Q R. Householder's, because the columns of image may differ by more than float can resolve.
  void orthonormalise() {
    auto z = image();
    const Eigen::HouseholderQR<Eigen::Ref<Eigen::MatrixXf>> qr(z);
    auto q = basis();
    q.setIdentity();
    // By panels from the last: the reflections of a panel leave the columns before it as they are (Eigen would multiply them too).
    for (std::size_t j = (width_ - 1) / panel * panel;; j -= panel) {
      const Index first = index(j);
      const Index size = index(std::min(panel, width_ - j));
      const auto vectors = z.block(first, first, index(columns_) - first, size);
      q.bottomRightCorner(index(columns_) - first, index(width_) - first)
          .applyOnTheLeft(Eigen::householderSequence(vectors, qr.hCoeffs().segment(first, size)));
      if (j == 0) { return; }
    }
  }

  const S& source_;
  std::size_t columns_;
  std::size_t tile_count_;
  std::size_t rank_;
  std::size_t width_;
  Memory memory_;
  Vector<float> tile_;       // (tile rows, columns)
  Vector<float> projected_;  // (tile rows, width)
  Vector<float> basis_;      // W: (columns, width), by columns
  Vector<float> image_;      // G W, or W's successor before it is orthonormal
  Vector<float> gram_;       // G: (columns, columns), or empty
  float scale_ = 0.0F;       // 1 / trace of G, 0 for a zero matrix
  Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver_{};
};

}  // namespace kvcompress::low_rank::detail
