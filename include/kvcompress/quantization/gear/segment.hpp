// include/kvcompress/quantization/gear/segment.hpp - rows that were encoded together: codes, low-rank factors, outliers; never changed again.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>

#include "kvcompress/core/memory.hpp"
#include "kvcompress/core/reference_count.hpp"
#include "kvcompress/core/views.hpp"
#include "kvcompress/kernels/exact.hpp"
#include "kvcompress/kernels/quads.hpp"
#include "kvcompress/quantization/gear/codes.hpp"
#include "kvcompress/quantization/gear/outliers.hpp"
#include "kvcompress/quantization/gear/token_scales.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::gear {

/// How a segment came to be: from the rows of a prompt, from a full buffer, or from segments of full buffers.
enum class Origin : std::uint8_t { prompt, buffer, merged };

/// Sizes that settle the bytes of a segment.
struct SegmentSizes {
  std::size_t rows;
  std::size_t dim;
  std::size_t rank;
  std::size_t outliers;
  bool scales_outside = false;  ///< the lanes of a layer share them
};

/// One segment of one lane: x is about codes + a b^T + outliers. It begins an allocation that holds, behind it, [codes][scales][minima]
/// [a: (rank, rows)][b: (rank, dim)][ends of outlier tiles][deltas][rows][channels]. Columns of a have length sqrt(rows), so that neither
/// factor is larger than the rows' errors and both fit 16 bits. Scales and minima may lie outside, in a TokenScales.
template <class Codes>
class alignas(64) Segment {
  using Scale = typename Codes::Scale;
  using List = Outliers<Scale>;
  using Parts = typename Codes::Parts;

 public:
  using Common = TokenScales<Scale>;

  /// A segment of that size with nothing in it yet. It reads the scales of `common`, if there are any; their bytes count as those of the
  /// lane that is `first`.
  static Segment* create(const SegmentSizes& sizes, Origin origin, const Memory& memory, Common* common = nullptr, bool first = false) {
    std::byte* place = Allocator<std::byte>(memory).allocate(bytes_for(sizes));
    return ::new (static_cast<void*>(place)) Segment(sizes, origin, common, first);
  }
  /// A copy with scales of its own.
  [[nodiscard]] Segment* clone(const Memory& memory) const {
    SegmentSizes own = sizes();
    own.scales_outside = false;
    Segment* copy = create(own, origin_, memory);
    const Parts from = codes();
    const Parts to = copy->codes();
    std::copy_n(from.codes, Codes::code_bytes(rows_, dim_), to.codes);
    std::copy_n(from.scales, Codes::groups(rows_, dim_), to.scales);
    std::copy_n(from.minima, Codes::groups(rows_, dim_), to.minima);
    std::copy_n(a(), rank_ * (std::size_t{rows_} + dim_), copy->a());
    std::copy_n(at<std::byte>(layout().ends), bytes() - layout().ends, copy->template at<std::byte>(copy->layout().ends));
    return copy;
  }
  void share() noexcept { count_.add(); }
  [[nodiscard]] bool shared() const noexcept { return count_.shared(); }
  void release(const Memory& memory) noexcept {
    if (!count_.drop()) { return; }
    if (common_ != nullptr) { common_->release(memory); }
    Allocator<std::byte>(memory).deallocate(reinterpret_cast<std::byte*>(this), bytes());
  }

  [[nodiscard]] std::size_t rows() const noexcept { return rows_; }
  [[nodiscard]] std::size_t rank() const noexcept { return rank_; }
  [[nodiscard]] std::size_t outlier_count() const noexcept { return outliers_; }
  [[nodiscard]] Origin origin() const noexcept { return origin_; }
  [[nodiscard]] SegmentSizes sizes() const noexcept { return {rows_, dim_, rank_, outliers_, common_ != nullptr}; }
  [[nodiscard]] std::size_t bytes() const noexcept { return bytes_for(sizes()); }

  // The parts; only who builds the segment writes to them.
  [[nodiscard]] Parts codes() const noexcept {
    if (common_ != nullptr) { return {at<std::uint8_t>(sizeof(Segment)), common_->scales(), common_->minima()}; }
    Scale* scales = at<Scale>(layout().scales);
    return {at<std::uint8_t>(sizeof(Segment)), scales, scales + Codes::groups(rows_, dim_)};
  }
  [[nodiscard]] Scale* a() const noexcept { return at<Scale>(layout().a); }
  [[nodiscard]] Scale* b() const noexcept { return a() + std::size_t{rank_} * rows_; }
  [[nodiscard]] std::uint32_t* tile_ends() const noexcept { return at<std::uint32_t>(layout().ends); }
  [[nodiscard]] Scale* deltas() const noexcept { return at<Scale>(layout().deltas); }
  [[nodiscard]] std::uint8_t* outlier_rows() const noexcept { return at<std::uint8_t>(layout().rows); }
  [[nodiscard]] std::uint8_t* outlier_channels() const noexcept { return at<std::uint8_t>(layout().channels); }
  [[nodiscard]] List outliers() const noexcept {
    std::uint8_t* channels = outlier_channels();
    const bool bytes = List::channel_bytes(dim_) == 1;
    return {tile_ends(), deltas(), outlier_rows(), bytes ? channels : nullptr,
            bytes ? nullptr : reinterpret_cast<std::uint16_t*>(channels)};
  }

  /// Row `row` without the low-rank part, and that part added.
  void read_sparse(std::size_t row, float* out) const noexcept {
    const Parts parts = codes();
    for (std::size_t c = 0; c < dim_; ++c) { out[c] = Codes::decode(row, c, rows_, dim_, parts); }
    if (outliers_ > 0) {
      outliers().for_tiles(row, row + 1,
                           [&](std::size_t, const Scale* deltas, const std::uint8_t*, const auto* channels, std::size_t count) {
        for (std::size_t i = 0; i < count; ++i) { out[channels[i]] += static_cast<float>(deltas[i]); }
      });
    }
  }
  void add_low_rank(std::size_t row, float* out) const noexcept {
    for (std::size_t j = 0; j < rank_; ++j) {
      const float weight = static_cast<float>(a()[j * rows_ + row]);
      for (std::size_t c = 0; c < dim_; ++c) { out[c] += weight * static_cast<float>(b()[j * dim_ + c]); }
    }
  }

  /// logits[q][r - range.first] = queries[q] . row r.
  void scores(Accumulation accumulation, RowRange range, const float* queries, std::size_t query_stride, std::size_t query_count,
              float* logits, std::size_t logit_stride, float* scratch) const noexcept {
    Codes::scores(accumulation, range, rows_, dim_, codes(), queries, query_stride, query_count, logits, logit_stride, scratch);
    if (rank_ > 0) {
      float* parts = scratch;  // (queries, rank), u = b^T q
      kernels::dot_rows(b(), rank_, dim_, queries, query_stride, query_count, parts, rank_);
      add_columns(range, parts, query_count, logits, logit_stride);
    }
    if (outliers_ > 0) { score_outliers(range, queries, query_stride, query_count, logits, logit_stride, scratch); }
  }
  /// out[q] += sum over r of weights[q][r - range.first] * row r.
  void accumulate(Accumulation accumulation, RowRange range, const float* weights, std::size_t weight_stride, std::size_t query_count,
                  float* out, std::size_t out_stride, float* scratch) const noexcept {
    Codes::accumulate(accumulation, range, rows_, dim_, codes(), weights, weight_stride, query_count, out, out_stride, scratch);
    if (rank_ > 0) {
      float* parts = scratch;  // (queries, rank), p^T a
      kernels::dot_rows_apart(a() + range.first, rows_, rank_, range.size(), weights, weight_stride, query_count, parts, rank_);
      kernels::mix_rows(b(), rank_, dim_, parts, rank_, query_count, out, out_stride);
    }
    if (outliers_ > 0) { mix_outliers(range, weights, weight_stride, query_count, out, out_stride, scratch); }
  }
  /// The low-rank part and the outliers follow the codes' part, whose scratch they may have.
  static constexpr std::size_t scratch_floats(std::size_t dim, std::size_t queries) noexcept {
    return std::max({Codes::scratch_floats(dim, queries), queries * dim, (dim + List::tile_rows) * 4});
  }

  static void save(const Segment& self, auto& archive) {
    archive.number(self.rows_);
    archive.number(self.outliers_);
    archive.number(self.rank_);
    archive.number(self.origin_);
    archive.number(self.common_ != nullptr);
    if (self.common_ != nullptr && archive.first(self.common_, Common::bytes_for(self.rows_))) {
      archive.bytes(self.common_->scales(), 2 * self.rows_ * sizeof(Scale));
    }
    persist_parts(self, archive);
  }
  /// A segment of at most `most` rows.
  [[nodiscard]] static Segment* load(auto& archive, std::size_t most, std::size_t dim, std::size_t row_multiple) {
    std::uint32_t rows = 0;
    std::uint32_t outliers = 0;
    std::uint16_t rank = 0;
    Origin origin{};
    bool shares = false;
    archive.number(rows);
    archive.number(outliers);
    archive.number(rank);
    archive.number(origin);
    archive.number(shares);
    archive.check(rows > 0 && rows <= most && rows % row_multiple == 0, "a segment has more rows than there are");
    archive.check(origin <= Origin::merged && rank <= dim, "a segment is of no known form");
    struct Guard {  // holds what was made until the list does
      const Memory& memory;
      Common* common = nullptr;
      Segment* segment = nullptr;
      ~Guard() {
        if (common != nullptr) { common->release(memory); }
        if (segment != nullptr) { segment->release(memory); }
      }
    } made{archive.memory()};
    bool first = false;
    if (shares) {
      made.common = archive.template known<Common>(Common::bytes_for(rows));
      first = made.common == nullptr;
      if (first) {
        archive.expect(rows, 2 * sizeof(Scale));
        made.common = Common::create(rows, archive.memory());
        archive.bytes(made.common->scales(), 2 * std::size_t{rows} * sizeof(Scale));
        archive.remember(made.common, Common::bytes_for(rows));
      } else {
        made.common->share();
      }
    }
    const SegmentSizes sizes{rows, dim, rank, outliers, shares};
    archive.expect(outliers, 2 + sizeof(Scale));
    archive.expect(rank, (rows + dim) * sizeof(Scale));
    archive.expect(1, Codes::code_bytes(rows, dim));
    made.segment = create(sizes, origin, archive.memory(), made.common, first);
    persist_parts(*made.segment, archive);
    archive.check(outliers == 0 || made.segment->outliers().lie_in(rows, dim, outliers), "an outlier lies outside of its segment");
    return std::exchange(made.segment, nullptr);
  }

  [[nodiscard]] static constexpr std::size_t bytes_for(const SegmentSizes& sizes) noexcept { return Layout(sizes).bytes; }
  void account(MemoryReport& report) const noexcept {
    const Layout where = layout();
    const std::size_t codes = Codes::code_bytes(rows_, dim_);
    const std::size_t scales = where.a - where.scales;
    const std::size_t common = first_ ? Common::bytes_for(rows_) : 0;
    const std::size_t factors = rank_ * (std::size_t{rows_} + dim_) * sizeof(Scale);
    const std::size_t entries = outliers_ == 0 ? 0 : where.bytes - where.ends;
    report.indices += sizeof(Segment) + (first_ ? sizeof(Common) : 0);
    report.codes += codes;
    report.scales += scales + (first_ ? common - sizeof(Common) : 0);
    report.factors += factors;
    report.outliers += entries;
    report.spare += where.bytes - sizeof(Segment) - codes - scales - factors - entries;
    report.shared += shared() ? where.bytes + common : 0;
  }

 private:
  /// Offsets of the parts from the segment's own address.
  struct Layout {
    std::size_t scales;
    std::size_t a;
    std::size_t ends;
    std::size_t deltas;
    std::size_t rows;
    std::size_t channels;
    std::size_t bytes;

    constexpr explicit Layout(const SegmentSizes& s) noexcept {
      const auto whole = [](std::size_t offset) { return (offset + 3) / 4 * 4; };
      scales = whole(sizeof(Segment) + Codes::code_bytes(s.rows, s.dim));
      a = scales + (s.scales_outside ? 0 : 2 * Codes::groups(s.rows, s.dim) * sizeof(Scale));
      ends = whole(a + s.rank * (s.rows + s.dim) * sizeof(Scale));
      deltas = ends + (s.outliers == 0 ? 0 : List::tiles(s.rows) * sizeof(std::uint32_t));
      channels = deltas + s.outliers * sizeof(Scale);  // before the rows: they may have two bytes each
      rows = channels + s.outliers * List::channel_bytes(s.dim);
      bytes = rows + s.outliers;
    }
  };

  Segment(const SegmentSizes& s, Origin origin, Common* common, bool first) noexcept
      : common_(common), rows_(static_cast<std::uint32_t>(s.rows)), dim_(static_cast<std::uint32_t>(s.dim)),
        outliers_(static_cast<std::uint32_t>(s.outliers)), rank_(static_cast<std::uint16_t>(s.rank)), origin_(origin), first_(first) {
    if (common_ != nullptr) { common_->share(); }
  }

  [[nodiscard]] Layout layout() const noexcept { return Layout(sizes()); }
  template <class T>
  [[nodiscard]] T* at(std::size_t offset) const noexcept {
    return reinterpret_cast<T*>(reinterpret_cast<std::byte*>(const_cast<Segment*>(this)) + offset);
  }

  static void persist_parts(auto& self, auto& archive) {
    const Parts parts = self.codes();
    archive.bytes(parts.codes, Codes::code_bytes(self.rows_, self.dim_));
    if (self.common_ == nullptr) { archive.bytes(parts.scales, 2 * Codes::groups(self.rows_, self.dim_) * sizeof(Scale)); }
    archive.bytes(self.a(), self.rank_ * (std::size_t{self.rows_} + self.dim_) * sizeof(Scale));
    archive.bytes(self.template at<std::byte>(self.layout().ends), self.outliers_ == 0 ? 0 : self.bytes() - self.layout().ends);
  }

  /// out[q][t - range.first] += sum over j of parts[q][j] * a[j][t].
  void add_columns(RowRange range, const float* parts, std::size_t query_count, float* out, std::size_t out_stride) const noexcept {
    namespace vec = simd::native;
    constexpr std::size_t at_once = 4;  // columns whose numbers stay in registers
    for (std::size_t first = 0; first < rank_; first += at_once) {
      const std::size_t columns = std::min(at_once, rank_ - first);
      const auto column = [&](std::size_t j) { return a() + (first + j) * rows_; };
      std::size_t t = range.first;
      for (; t + vec::lanes <= range.last; t += vec::lanes) {
        vec::f32 numbers[at_once] = {vec::set(0.0F), vec::set(0.0F), vec::set(0.0F), vec::set(0.0F)};
        for (std::size_t j = 0; j < columns; ++j) { numbers[j] = vec::load(column(j) + t); }
        for (std::size_t q = 0; q < query_count; ++q) {
          float* to = out + q * out_stride + (t - range.first);
          vec::f32 sum = vec::load(to);
          for (std::size_t j = 0; j < columns; ++j) { sum = vec::fma(vec::set(parts[q * rank_ + first + j]), numbers[j], sum); }
          vec::store(to, sum);
        }
      }
      for (; t < range.last; ++t) {
        for (std::size_t q = 0; q < query_count; ++q) {
          for (std::size_t j = 0; j < columns; ++j) {
            out[q * out_stride + t - range.first] += parts[q * rank_ + first + j] * static_cast<float>(column(j)[t]);
          }
        }
      }
    }
  }
  void score_outliers(RowRange range, const float* queries, std::size_t query_stride, std::size_t query_count, float* logits,
                      std::size_t logit_stride, float* scratch) const noexcept {
    float* sums = scratch + 4 * dim_;  // (rows of a tile, 4)
    for (std::size_t q = 0; q < query_count; q += 4) {
      const std::size_t count = std::min<std::size_t>(query_count - q, 4);
      kernels::to_quads(queries + q * query_stride, query_stride, count, dim_, scratch);
      outliers().for_tiles(range.first, range.last,
                           [&](std::size_t tile, const Scale* deltas, const std::uint8_t* rows, const auto* channels, std::size_t entries) {
        const std::size_t first = std::max(tile, range.first);
        const std::size_t last = std::min(tile + List::tile_rows, range.last);
        std::fill(sums + 4 * (first - tile), sums + 4 * (last - tile), 0.0F);
        kernels::add_entries(deltas, channels, rows, entries, scratch, sums);
        kernels::add_quads(sums + 4 * (first - tile), count, last - first, logits + q * logit_stride + (first - range.first), logit_stride);
      });
    }
  }
  void mix_outliers(RowRange range, const float* weights, std::size_t weight_stride, std::size_t query_count, float* out,
                    std::size_t out_stride, float* scratch) const noexcept {
    float* turned = scratch + 4 * dim_;  // (rows of a tile, 4)
    for (std::size_t q = 0; q < query_count; q += 4) {
      const std::size_t count = std::min<std::size_t>(query_count - q, 4);
      std::fill_n(scratch, 4 * dim_, 0.0F);
      outliers().for_tiles(range.first, range.last,
                           [&](std::size_t tile, const Scale* deltas, const std::uint8_t* rows, const auto* channels, std::size_t entries) {
        const std::size_t first = std::max(tile, range.first);
        const std::size_t last = std::min(tile + List::tile_rows, range.last);
        kernels::to_quads(weights + q * weight_stride + (first - range.first), weight_stride, count, last - first,
                          turned + 4 * (first - tile));
        kernels::add_entries(deltas, rows, channels, entries, turned, scratch);
      });
      kernels::add_quads(scratch, count, dim_, out + q * out_stride, out_stride);
    }
  }

  Common* common_;
  ReferenceCount count_;
  std::uint32_t rows_;
  std::uint32_t dim_;
  std::uint32_t outliers_;
  std::uint16_t rank_;
  Origin origin_;
  bool first_;  // whether the bytes of common_ count as those of this lane
};

}  // namespace kvcompress::gear
