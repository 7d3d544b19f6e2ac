// include/kvcompress/low_rank/latents.hpp - xKV's store for MLA: a group's latents in one token basis, each row key and value at once.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

#include "kvcompress/low_rank/shared_basis.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Options of LatentRows: those of a group (rank_keys is the rank; the ones for values say nothing) and the width of a latent.
struct LatentOptions : SharedBasisOptions {
  std::size_t latent = 512;  ///< leading channels of a key that are the latent, and the value
  static void fields(auto& options, auto&& field) {
    SharedBasisOptions::fields(options, field);
    field("latent", options.latent);
  }
};

/// Rows of multi-head latent attention: `latent` channels, which are the value too and are factorised over a group of layers, and behind
/// them the decoupled rotary key, which stays exact. Nothing is multiplied out: logits are (q B^T) A^T and outputs (p A) B.
template <class T>
class LatentRows : public FactoredRows<T> {
 public:
  static constexpr Scope scope = Scope::group;

  LatentRows(const LatentOptions& options, const Site& /*site*/, std::size_t dim, const Memory& memory)
      : FactoredRows<T>(std::min(options.latent, dim), memory), options_(options), rope_dim_(dim - std::min(options.latent, dim)),
        rope_(rope_dim_, memory) {}

  void make_room(std::size_t more) {
    FactoredRows<T>::make_room(more);
    rope_.make_room(more);
  }
  void append(const float* row) {
    FactoredRows<T>::append(row);
    rope_.append(row + this->dim_);
  }
  void move(std::size_t from, std::size_t to) {
    rope_.move(from, to);
    FactoredRows<T>::move(from, to);
  }
  void resize(std::size_t rows) noexcept {
    FactoredRows<T>::resize(rows);
    rope_.resize(rows);
  }
  void make_writable(std::size_t first, std::size_t last) {
    FactoredRows<T>::make_writable(first, last);
    rope_.make_writable(first, last);
  }
  void take_room(LatentRows& from) noexcept {
    FactoredRows<T>::take_room(from);
    rope_.take_room(from.rope_);
  }
  void hold() noexcept {
    FactoredRows<T>::hold();
    rope_.hold();
  }
  void release() noexcept {
    FactoredRows<T>::release();
    rope_.release();
  }
  [[nodiscard]] bool encodes_at(std::size_t rows) const noexcept { return detail::folds_at(options_, this->settled(), rows); }
  void erase_block(std::size_t first) noexcept {
    FactoredRows<T>::erase_block(first);
    rope_.erase(first, this->block_at(first).size());
  }
  void reserve(std::size_t rows) {
    FactoredRows<T>::reserve(rows);
    rope_.reserve(rows);
  }
  static void settle(std::span<LatentRows* const> members, const Settling& settling) {
    const LatentRows& one = *members.front();
    if (!one.options_.merges(settling.layer)) { return; }
    const std::size_t rank = SharedBasisKeys<T>::rank_for(one.options_, members.size() * one.dim_);
    detail::settle_group<FactoredRows<T>>(members, one.options_, rank, nullptr, settling);
  }
  [[nodiscard]] static std::size_t bytes_for(std::size_t rows, std::size_t dim, const LatentOptions& options, const Shape& shape) noexcept {
    const std::size_t latent = std::min(options.latent, dim);
    return SharedBasisKeys<T>::bytes_for(rows, latent, options, shape) + Exact<T>::bytes_for(rows, dim - latent, options);
  }
  [[nodiscard]] static std::size_t most_bytes(const MostRows& rows, std::size_t dim, const LatentOptions& options, const Shape& shape,
                                              std::size_t at_hand) noexcept {
    const std::size_t latent = std::min(options.latent, dim);
    return SharedBasisKeys<T>::most_bytes(rows, latent, options, shape, at_hand) +
           Exact<T>::most_bytes_of_recent(rows.live, dim - latent, 1);
  }

  void scores(RowRange range, const float* queries, std::size_t query_stride, std::size_t query_count, float* logits,
              std::size_t logit_stride, float* scratch) const noexcept {
    float* folded = scratch + query_count * piece_rows;  // (queries, padded(rank)): q B^T
    const std::size_t rank = this->factor_.rank();
    const std::size_t stride = kernels::padded(rank);
    if (rank > 0) {
      std::fill_n(folded, query_count * stride, 0.0F);
      kernels::dot_rows(this->factor_.coefficient_rows(), rank, this->dim_, queries, query_stride, query_count, folded, stride);
    }
    for (std::size_t first = range.first; first < range.last;) {
      const std::size_t end = first < this->settled() ? std::min(this->settled(), this->block_at(first).last) : range.last;
      const std::size_t count = std::min({end, range.last, first + piece_rows}) - first;
      float* out = logits + (first - range.first);
      if (first >= this->settled()) {
        this->tail_.scores({first - this->settled(), first - this->settled() + count}, queries, query_stride, query_count, out,
                           logit_stride, scratch);
      } else if (rank > 0) {
        kernels::dot_rows(this->factor_.basis_row(first), count, rank, folded, stride, query_count, out, logit_stride);
      } else {
        for (std::size_t q = 0; q < query_count; ++q) { std::fill_n(out + q * logit_stride, count, 0.0F); }
      }
      add_rope({first, first + count}, queries, query_stride, query_count, out, logit_stride, scratch);
      first += count;
    }
  }
  [[nodiscard]] std::size_t scratch_floats(std::size_t /*dim*/, std::size_t queries) const noexcept {
    return queries * (piece_rows + kernels::padded(this->factor_.rank()));
  }
  /// The whole row: latent and rotary key.
  void read(std::size_t row, float* out) const noexcept {
    FactoredRows<T>::read(row, out);
    rope_.read(row, out + this->dim_);
  }

  static void account(std::size_t members, auto&& member, auto&& shared, MemoryReport& report) noexcept {
    FactoredRows<T>::account(members, member, shared, report);
    for (std::size_t m = 0; m < members; ++m) {
      report.add_held(shared(m), [&](MemoryReport& all) { member(m).rope_.account(all); });
    }
  }
  void account(MemoryReport& report) const noexcept {
    account(
        1, [this](std::size_t) -> const LatentRows& { return *this; }, [](std::size_t) { return false; }, report);
  }
  static void unshare(std::size_t members, auto&& member) {
    FactoredRows<T>::unshare(members, member);
    for (std::size_t m = 0; m < members; ++m) { member(m).rope_.unshare(); }
  }
  void unshare() {
    unshare(1, [this](std::size_t) -> LatentRows& { return *this; });
  }
  void own_recent() {
    FactoredRows<T>::own_recent();
    rope_.own_recent();
  }
  static void describe(auto&& fact) {
    FactoredRows<T>::describe(fact);
    fact("rotary_keys", "exact");
  }
  static void persist(auto& self, auto& archive, std::size_t rows) {
    FactoredRows<T>::persist(self, archive, rows);
    Exact<T>::persist(self.rope_, archive, rows);
  }

 private:
  static constexpr std::size_t piece_rows = 256;

  void add_rope(RowRange range, const float* queries, std::size_t query_stride, std::size_t query_count, float* logits,
                std::size_t logit_stride, float* scratch) const noexcept {
    if (rope_dim_ == 0) { return; }
    rope_.scores(range, queries + this->dim_, query_stride, query_count, scratch, piece_rows, scratch);
    for (std::size_t q = 0; q < query_count; ++q) {
      for (std::size_t r = 0; r < range.size(); ++r) { logits[q * logit_stride + r] += scratch[q * piece_rows + r]; }
    }
  }

  LatentOptions options_;
  std::size_t rope_dim_;
  Exact<T> rope_;  // all rows
};

/// The values of LatentRows, which are there already: counts rows and holds nothing.
template <class T>
class LatentValues {
 public:
  using exact_type = T;
  static constexpr bool in_keys = true;

  LatentValues(const LatentOptions& /*options*/, const Site& /*site*/, std::size_t /*dim*/, const Memory& /*memory*/) noexcept {}

  [[nodiscard]] std::size_t rows() const noexcept { return rows_; }
  [[nodiscard]] static constexpr std::size_t settled() noexcept { return 0; }
  static void make_room(std::size_t) noexcept {}
  void append(const float* /*row*/) noexcept { ++rows_; }
  static void move(std::size_t, std::size_t) noexcept {}
  void resize(std::size_t rows) noexcept { rows_ = rows; }
  void erase_block(std::size_t first) noexcept { rows_ -= FactoredRows<T>::block_at(first).size(); }
  static void make_writable(std::size_t, std::size_t) noexcept {}
  static void reserve(std::size_t) noexcept {}
  static void unshare() noexcept {}
  static void describe(auto&& fact) { fact("form", "in keys"); }
  static void persist(auto& self, auto& archive, std::size_t rows) noexcept {
    if constexpr (std::remove_reference_t<decltype(archive)>::reads) { self.rows_ = rows; }
  }
  static void account(MemoryReport&) noexcept {}
  static constexpr std::size_t scratch_floats(std::size_t, std::size_t) noexcept { return 0; }
  static constexpr std::size_t bytes_for(std::size_t, std::size_t, const LatentOptions&) noexcept { return 0; }
  static void accumulate(RowRange, const float*, std::size_t, std::size_t, float*, std::size_t, float*) noexcept {}
  static void read(std::size_t, float*) noexcept {}

 private:
  std::size_t rows_ = 0;
};

static_assert(ValuesInKeys<LatentValues<half>> && ValueStore<LatentRows<half>>);

}  // namespace kvcompress
