// include/kvcompress/low_rank/rebuilt_keys.hpp - ShadowKV's keys: a joint factorisation of a layer, rows multiplied out when they are chosen.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <type_traits>

#include "kvcompress/low_rank/factored_rows.hpp"
#include "kvcompress/offload/row_cache.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Keys of all heads of a layer, before their rotary embedding, as one basis row per token times coefficients per head. The rows that
/// the retrieval has indexed are encoded at the end of the prompt; later ones stay exact. Of the encoded rows those that every query reads
/// are also kept exact, and those that the last query chose are kept multiplied out, rotated and rounded to T; a row that was chosen before
/// is not multiplied out again, which changes no bit.
///
/// Memory: rows * rank * sizeof(F) per layer, rank * dim * sizeof(F) per lane, and the rows at hand.
template <class T, class F>
class RebuiltKeys : public FactoredRows<T, F> {
 public:
  static constexpr Scope scope = Scope::layer;

  RebuiltKeys(const auto& options, const Site& /*site*/, std::size_t dim, const Memory& memory)
      : FactoredRows<T, F>(dim, memory), rank_(options.rank), reuse_(options.reuse), mode_(options.factorisation), at_hand_(dim, memory) {}

  [[nodiscard]] static std::size_t rank_for(std::size_t rank, std::size_t columns) noexcept {
    return rank != 0 ? std::min(rank, columns) : std::max<std::size_t>(1, columns * 5 / 32);
  }
  static void settle(std::span<RebuiltKeys* const> members, const Settling& settling) {
    RebuiltKeys& one = *members.front();
    const std::size_t settled = one.settled();
    const std::size_t indexed = settling.reads.front().indexed;
    if (indexed <= settled) { return; }
    Vector<FactoredRows<T, F>*> lanes{Allocator<FactoredRows<T, F>*>(settling.memory)};
    lanes.assign(members.begin(), members.end());
    const std::span<FactoredRows<T, F>* const> all(lanes.data(), lanes.size());
    // The space is that of all rows of the prompt, those that stay exact included.
    const typename FactoredRows<T, F>::Together rows(all, (settled == 0 ? settling.rows : indexed) - settled, settling.table,
                                                     &settling.rotation);
    typename FactoredRows<T, F>::Encoded encoded(all, rows, indexed - settled, rank_for(one.rank_, members.size() * one.dim_), one.mode_,
                                                 settling);
    Vector<Position> chunks{Allocator<Position>(settling.memory)};
    for (std::size_t m = 0; m < members.size(); ++m) { members[m]->keep_at_hand(settling.reads[m], chunks, settling.scratch); }
    encoded.take();
  }
  /// Rows are encoded when the retrieval indexes more, and only then.
  [[nodiscard]] static constexpr bool encodes_at(std::size_t /*rows*/) noexcept { return false; }
  [[nodiscard]] static std::size_t bytes_for(std::size_t rows, std::size_t dim, const auto& options, const Shape& shape,
                                             std::size_t at_hand) noexcept {
    return FactoredRows<T, F>::bytes_for(rows, dim, std::min(rows, rank_for(options.rank, shape.kv_heads * dim)), shape.kv_heads) +
           Exact<T>::bytes_for(at_hand, dim, options);
  }
  [[nodiscard]] static std::size_t most_bytes(const MostRows& rows, std::size_t dim, const auto& options, const Shape& shape,
                                              std::size_t at_hand) noexcept {
    const std::size_t rank = std::min(rows.live, rank_for(options.rank, shape.kv_heads * dim));
    return FactoredRows<T, F>::most_bytes(rows.live, rows.decoded + at_hand, dim, rank, shape.kv_heads) +
           AtHand<T>::most_bytes(at_hand, dim);
  }
  void erase_block(std::size_t first) noexcept {
    FactoredRows<T, F>::erase_block(first);
    at_hand_.erase(this->block_at(first));
  }

  /// Multiplies out the encoded rows of `ranges` that are not at hand.
  std::size_t prepare(std::span<const RowRange> ranges, const RowTable& table, Rotation& rotation, Vector<float>& scratch) {
    if (this->settled() == 0) { return 0; }
    scratch.resize(std::max(scratch.size(), scratch_floats(this->dim_, 0)));
    bool ready = false;
    const std::size_t size = at_hand_.chunk();
    at_hand_.choose(ranges, this->settled(), reuse_, [&](auto one, auto next) {
      SoonNeeded soon;
      if (next.to != nullptr) {
        const Factor<F>& factor = this->factor_;
        soon = {factor.basis_row(next.chunk * size), size * factor.rank() * sizeof(F), next.to, size * this->dim_ * sizeof(T)};
      }
      rebuild(one.chunk * size, size, ready, table, rotation, scratch.data(), one.to, this->dim_, soon);
    });
    return 0;
  }
  void scores(RowRange range, const RowTable& table, Rotation& rotation, const float* queries, std::size_t query_stride,
              std::size_t query_count, float* logits, std::size_t logit_stride, float* scratch) const noexcept {
    const std::size_t border = this->settled();
    if (range.first < border) {
      bool ready = false;
      at_hand_.for_runs(
          {range.first, std::min(range.last, border)},
          [&](const T* rows, const T* next, std::size_t offset, std::size_t count) {
        kernels::dot_rows(rows, count, this->dim_, queries, query_stride, query_count, logits + offset, logit_stride, next);
          },
          [&](std::size_t row, std::size_t offset, std::size_t count) {
        float* rows = rebuilt(scratch);
        const std::size_t stride = kernels::padded(this->dim_);
        rebuild(row, count, ready, table, rotation, scratch, rows, stride, {});
        kernels::dot_rows(rows, count, stride, queries, query_stride, query_count, logits + offset, logit_stride);
      });
    }
    if (range.last > border) {
      const std::size_t first = std::max(range.first, border);
      this->tail_.scores({first - border, range.last - border}, queries, query_stride, query_count, logits + (first - range.first),
                         logit_stride, scratch);
    }
  }
  [[nodiscard]] std::size_t scratch_floats(std::size_t dim, std::size_t /*queries*/) const noexcept {
    return this->factor_.rebuild_floats(at_hand_.chunk()) + at_hand_.chunk() * kernels::padded(dim);
  }
  void read(std::size_t row, const RowTable& table, Rotation& rotation, float* out) const noexcept {
    if (row >= this->settled()) { return this->tail_.read(row - this->settled(), out); }
    at_hand_.for_runs(
        {row, row + 1}, [&](const T* held, const T*, std::size_t, std::size_t) { kernels::widen(held, out, this->dim_); },
        [&](std::size_t, std::size_t, std::size_t) {
      this->factor_.read(row, out);
      if (!table.alive(row)) { return; }
      rotation.turn_by(table.turned(row));
      rotation.apply(out);
        });
  }

  static void account(std::size_t members, auto&& member, auto&& shared, MemoryReport& report) noexcept {
    FactoredRows<T, F>::account(members, member, shared, report);
    for (std::size_t m = 0; m < members; ++m) {
      report.add_held(shared(m), [&](MemoryReport& all) { member(m).at_hand_.account(all); });
    }
  }
  void account(MemoryReport& report) const noexcept {
    account(
        1, [this](std::size_t) -> const RebuiltKeys& { return *this; }, [](std::size_t) { return false; }, report);
  }
  static void describe(auto&& fact) {
    FactoredRows<T, F>::describe(fact);
    fact("chosen_rows", "at hand");
  }
  static void persist(auto& self, auto& archive, std::size_t rows) {
    FactoredRows<T, F>::persist(self, archive, rows);
    AtHand<T>::persist(self.at_hand_, archive, self.settled());
  }

 private:
  /// Where rows are multiplied out, padded(dim) apart: behind the factor's part of the scratch.
  float* rebuilt(float* scratch) const noexcept { return scratch + this->factor_.rebuild_floats(at_hand_.chunk()); }
  /// Multiplies rows out, rotates them and rounds them to out[r], `stride` apart; the first call makes the factor's part of `scratch` ready.
  template <class Number>
  void rebuild(std::size_t first, std::size_t count, bool& ready, const RowTable& table, Rotation& rotation, float* scratch, Number* out,
               std::size_t stride, SoonNeeded soon) const noexcept {
    const std::size_t wide = kernels::padded(this->dim_);
    float* row = rebuilt(scratch);
    if (!ready) { this->factor_.prepare_rebuild(scratch); }
    ready = true;
    this->factor_.rebuild(first, count, row, wide, scratch, soon);
    for (std::size_t r = first; r < first + count; ++r, row += wide, out += stride) {
      if constexpr (std::is_same_v<Number, half>) { keep_in_range(row); }
      if (table.alive(r)) {
        rotation.turn_by(table.turned(r));
        rotation.apply(row, this->dim_, out);
      } else {
        kernels::convert(row, out, this->dim_);
      }
    }
  }
  /// A row of low rank may have larger channels than the rows it stands for, and rotating adds to them: a half must hold them all the same.
  void keep_in_range(float* row) const noexcept {
    constexpr float most = largest<half> / 1.5F;
    if (kernels::all_within(row, this->dim_, most)) { return; }
    for (std::size_t c = 0; c < this->dim_; ++c) { row[c] = std::clamp(row[c], -most, most); }
  }
  /// Copies of exact rows that are about to be encoded.
  void keep_at_hand(const Reads& reads, Vector<Position>& chunks, Vector<float>& scratch) {
    const bool first = this->settled() == 0;
    const auto load = [&](auto one, auto /*next*/) {
      scratch.resize(std::max(scratch.size(), this->dim_));
      for (std::size_t r = 0; r < reads.unit; ++r) {
        this->tail_.read(one.chunk * reads.unit + r - this->settled(), scratch.data());
        kernels::convert(scratch.data(), one.to + r * this->dim_, this->dim_);
      }
    };
    if (first) { at_hand_.clear(); }  // what an attempt that failed may have left
    chunks_of(reads.always, reads.unit, chunks);
    at_hand_.always().hold(reads.unit, {chunks.data(), chunks.size()}, load);
    if (first) { at_hand_.choose(reads.first, reads.indexed, false, load); }
  }

  std::size_t rank_;
  bool reuse_;
  low_rank::Factorisation mode_;
  AtHand<T> at_hand_;
};

}  // namespace kvcompress
