// include/kvcompress/low_rank/factored_rows.hpp - a lane's rows as a factor and exact newer rows, factorised together with other lanes.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

#include "kvcompress/attention/rope.hpp"
#include "kvcompress/concepts.hpp"
#include "kvcompress/low_rank/factor.hpp"
#include "kvcompress/low_rank/row_space.hpp"
#include "kvcompress/quantization/exact.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Rows [0, settled()) as a Factor of F, newer ones exact in T: what stores of low rank have in common.
template <class T, class F = T>
class FactoredRows {
 public:
  using exact_type = T;

  FactoredRows(std::size_t dim, const Memory& memory) : dim_(dim), factor_(dim, memory), tail_(dim, memory) {}

  [[nodiscard]] std::size_t dim() const noexcept { return dim_; }
  [[nodiscard]] std::size_t rows() const noexcept { return factor_.rows() + tail_.rows(); }
  [[nodiscard]] std::size_t settled() const noexcept { return factor_.rows(); }
  [[nodiscard]] const Factor<F>& factor() const noexcept { return factor_; }
  [[nodiscard]] const Exact<T>& tail() const noexcept { return tail_; }

  void make_room(std::size_t more) { tail_.make_room(more); }
  void append(const float* row) { tail_.append(row); }
  void move(std::size_t from, std::size_t to) { tail_.move(from - settled(), to - settled()); }
  void resize(std::size_t rows) noexcept { tail_.resize(rows - settled()); }
  void make_writable(std::size_t first, std::size_t last) { tail_.make_writable(first - settled(), last - settled()); }
  void take_room(FactoredRows& from) noexcept { tail_.take_room(from.tail_); }
  void hold() noexcept { tail_.hold(); }
  void release() noexcept { tail_.release(); }
  [[nodiscard]] static constexpr RowRange block_at(std::size_t row) noexcept {
    const std::size_t first = row / Factor<F>::block_rows * Factor<F>::block_rows;
    return {first, first + Factor<F>::block_rows};
  }
  void erase_block(std::size_t first) noexcept { factor_.erase_block(first); }
  /// Decodes one row as it is held. Stores of keys that rotate them say so themselves.
  void read(std::size_t row, float* out) const noexcept { row < settled() ? factor_.read(row, out) : tail_.read(row - settled(), out); }
  /// out[q] += sum over r of weights[q][r - range.first] * row r; `scratch`: queries * padded(rank) floats.
  void accumulate(RowRange range, const float* weights, std::size_t weight_stride, std::size_t query_count, float* out,
                  std::size_t out_stride, float* scratch) const noexcept {
    const std::size_t border = settled();
    if (range.first < border) {
      factor_.accumulate({range.first, std::min(range.last, border)}, weights, weight_stride, query_count, out, out_stride, scratch);
    }
    if (range.last > border) {
      const std::size_t first = std::max(range.first, border);
      tail_.accumulate({first - border, range.last - border}, weights + (first - range.first), weight_stride, query_count, out, out_stride,
                       scratch);
    }
  }
  /// Room for decoded rows; the exact rows of a prompt stay only until it ends.
  void reserve(std::size_t rows) {
    if (settled() > 0) { tail_.reserve(rows - std::min(rows, settled())); }
  }

  /// What a lane that shares with nobody would hold.
  void account(MemoryReport& report) const noexcept {
    account(
        1, [this](std::size_t) -> const FactoredRows& { return *this; }, [](std::size_t) { return false; }, report);
  }
  static void account(std::size_t members, auto&& member, auto&& shared, MemoryReport& report) noexcept {
    Factor<F>::account(
        members, [&](std::size_t m) -> const Factor<F>& { return member(m).factor_; }, shared, report);
    for (std::size_t m = 0; m < members; ++m) {
      report.add_held(shared(m), [&](MemoryReport& all) { member(m).tail_.account(all); });
    }
  }
  void unshare() {
    unshare(1, [this](std::size_t) -> FactoredRows& { return *this; });
  }
  static void unshare(std::size_t members, auto&& member) {
    Factor<F>::unshare(members, [&](std::size_t m) -> Factor<F>& { return member(m).factor_; });
    for (std::size_t m = 0; m < members; ++m) { member(m).tail_.unshare(); }
  }
  void own_recent() { tail_.own_recent(); }

  static void describe(auto&& fact) {
    fact("form", "low rank");
    fact("numbers", number_name<T>);
    fact("factors", number_name<F>);
  }
  static void persist(auto& self, auto& archive, std::size_t rows) {
    std::size_t encoded = self.settled();
    archive.number(encoded);
    archive.check(encoded <= rows, "there are more encoded rows than rows");
    Factor<F>::persist(self.factor_, archive, encoded);
    Exact<T>::persist(self.tail_, archive, rows - encoded);
  }
  /// Whether another lane is encoded as far and with the same rank, as those that are encoded together are.
  [[nodiscard]] bool alike(const FactoredRows& other) const noexcept {
    return settled() == other.settled() && factor_.rank() == other.factor_.rank();
  }

  /// Bytes of `rows` factorised rows: a lane's share of the basis, and its coefficients.
  [[nodiscard]] static std::size_t bytes_for(std::size_t rows, std::size_t dim, std::size_t rank, std::size_t members) noexcept {
    const std::size_t blocks = (rows + Factor<F>::block_rows - 1) / Factor<F>::block_rows;
    return (blocks * BlockList::bytes_per_block(Factor<F>::basis_block_bytes(rank)) + members - 1) / members +
           BlockList::bytes_per_block(rank * dim * sizeof(F));
  }

  /// Upper bound of a lane's share while so many rows are factorised and exact, spare memory included.
  [[nodiscard]] static std::size_t most_bytes(std::size_t encoded, std::size_t exact, std::size_t dim, std::size_t rank,
                                              std::size_t members) noexcept {
    const std::size_t blocks = (encoded + Factor<F>::block_rows - 1) / Factor<F>::block_rows + 1;
    return (blocks * BlockList::bytes_per_block(Factor<F>::basis_block_bytes(rank)) + members - 1) / members +
           BlockList::most_bytes(blocks, 0) + BlockList::most_bytes(1, rank * dim * sizeof(F)) +
           Exact<T>::most_bytes_of_recent(exact, dim, 1);
  }

  /// The exact rows of several lanes side by side, as one matrix: keys without their rotary embedding.
  class Together {
   public:
    /// `rotation` is null for values.
    Together(std::span<FactoredRows* const> lanes, std::size_t rows, const RowTable& table, Rotation* rotation) noexcept
        : lanes_(lanes), rows_(rows), table_(table), rotation_(rotation) {}
    [[nodiscard]] std::size_t rows() const noexcept { return rows_; }
    [[nodiscard]] std::size_t columns() const noexcept { return lanes_.size() * lanes_.front()->dim_; }
    void load(std::size_t first, std::size_t count, float* out) const noexcept {
      for (std::size_t r = first; r < first + count; ++r) {
        const std::size_t row = lanes_.front()->settled() + r;
        if (rotation_ != nullptr && table_.alive(row)) { rotation_->turn_by(-static_cast<std::int64_t>(table_.turned(row))); }
        for (const FactoredRows* lane : lanes_) {
          lane->tail_.read(r, out);
          if (rotation_ != nullptr && table_.alive(row)) { rotation_->apply(out); }
          out += lane->dim_;
        }
      }
    }

   private:
    std::span<FactoredRows* const> lanes_;
    std::size_t rows_;
    const RowTable& table_;
    Rotation* rotation_;
  };

  /// New factors for all lanes, made beside the old ones; `take` puts them in place.
  class Encoded {
   public:
    /// Factorises the exact rows of `source` and encodes the first `count` of them; lanes that have a factor keep its coefficients, and
    /// rows are projected on the space that these span. Cost: see find_row_space; then 2 * count * columns * rank operations.
    Encoded(std::span<FactoredRows* const> lanes, const Together& source, std::size_t count, std::size_t rank, low_rank::Factorisation mode,
            const Settling& settling)
        : lanes_(lanes), count_(count), bases_(Allocator<BlockList>(settling.memory)),
          coefficients_(Allocator<BlockList>(settling.memory)) {
      const bool first = lanes.front()->settled() == 0;
      const low_rank::RowSpace space = first ? low_rank::find_row_space(source, rank, mode, settling.memory) : known_space(settling.memory);
      rank_ = space.rank;
      bases_.reserve(lanes.size());
      coefficients_.reserve(lanes.size());
      bases_.push_back(first ? BlockList(Factor<F>::basis_block_bytes(rank_), settling.memory) : lanes.front()->factor_.basis());
      fill_basis(bases_.front(), source, space, settling.scratch);
      while (bases_.size() < lanes.size()) { bases_.push_back(bases_.front()); }
      for (std::size_t m = 0; first && m < lanes.size(); ++m) {
        coefficients_.emplace_back(rank_ * lanes[m]->dim_ * sizeof(F), settling.memory);
        fill_coefficients(space, m);
      }
    }
    void take() noexcept {
      for (std::size_t m = 0; m < lanes_.size(); ++m) {
        FactoredRows& lane = *lanes_[m];
        const std::size_t rows = lane.settled() + count_;
        if (coefficients_.empty()) {
          lane.factor_.adopt_basis(rows, std::move(bases_[m]));
        } else {
          lane.factor_.adopt(rows, rank_, std::move(bases_[m]), std::move(coefficients_[m]));
        }
        lane.tail_.pop_front(count_);
      }
    }

   private:
    /// A power of two near the length of a row of ones: basis rows divided by it stay in F's range, coefficients times it do too.
    [[nodiscard]] float scale() const noexcept {
      float scale = 1.0F;
      while (scale * scale < static_cast<float>(lanes_.size() * lanes_.front()->dim_)) { scale *= 2.0F; }
      return scale;
    }
    void fill_basis(BlockList& basis, const Together& source, const low_rank::RowSpace& space, Vector<float>& scratch) {
      constexpr std::size_t block_rows = Factor<F>::block_rows;
      scratch.resize(std::max(scratch.size(), block_rows * (source.columns() + rank_)));
      float* projected = scratch.data() + block_rows * source.columns();
      const float down = 1.0F / scale();
      std::size_t row = lanes_.front()->settled();
      for (std::size_t done = 0; done < count_;) {
        const std::size_t at = row % block_rows;
        const std::size_t rows = std::min(count_ - done, block_rows - at);
        if (at == 0) { basis.grow(); }
        auto* to = reinterpret_cast<F*>(basis.write(row / block_rows)) + at * rank_;
        if (rank_ > 0) {
          source.load(done, rows, scratch.data());
          space.project(scratch.data(), rows, projected);
          for (std::size_t i = 0; i < rows * rank_; ++i) { projected[i] *= down; }
          kernels::convert(projected, to, rows * rank_);
        }
        row += rows;
        done += rows;
      }
    }
    void fill_coefficients(const low_rank::RowSpace& space, std::size_t member) {
      BlockList& list = coefficients_[member];
      const std::size_t dim = lanes_[member]->dim_;
      auto* to = reinterpret_cast<F*>(list.write(list.grow()));
      for (std::size_t k = 0; k < rank_; ++k) {
        for (std::size_t c = 0; c < dim; ++c) { to[k * dim + c] = F(scale() * space.vectors[(member * dim + c) * rank_ + k]); }
      }
    }
    /// The space that the coefficients of all lanes span, orthonormal up to their rounding.
    [[nodiscard]] low_rank::RowSpace known_space(const Memory& memory) const {
      const std::size_t dim = lanes_.front()->dim_;
      const std::size_t rank = lanes_.front()->factor_.rank();
      low_rank::RowSpace space{lanes_.size() * dim, rank, Vector<float>(lanes_.size() * dim * rank, 0.0F, Allocator<float>(memory))};
      for (std::size_t m = 0; m < lanes_.size() && rank > 0; ++m) {
        const F* from = lanes_[m]->factor_.coefficient_rows();
        for (std::size_t k = 0; k < rank; ++k) {
          for (std::size_t c = 0; c < dim; ++c) {
            space.vectors[(m * dim + c) * rank + k] = static_cast<float>(from[k * dim + c]) / scale();
          }
        }
      }
      return space;
    }

    std::span<FactoredRows* const> lanes_;
    std::size_t count_;
    std::size_t rank_ = 0;
    Vector<BlockList> bases_;         // one list per lane, all of the same blocks
    Vector<BlockList> coefficients_;  // one per lane, or none if the lanes keep theirs
  };

 protected:
  std::size_t dim_;
  Factor<F> factor_;
  Exact<T> tail_;
};

}  // namespace kvcompress
