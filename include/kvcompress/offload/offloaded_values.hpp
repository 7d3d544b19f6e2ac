// include/kvcompress/offload/offloaded_values.hpp - ShadowKV's values: in the slow tier, fetched when they are chosen.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

#include "kvcompress/concepts.hpp"
#include "kvcompress/core/slow_tier.hpp"
#include "kvcompress/offload/row_cache.hpp"
#include "kvcompress/quantization/exact.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Exact values. The rows that the retrieval has indexed move to the slow tier at the end of the prompt, one region for all heads of a
/// layer; of these, rows that every query reads stay at hand too, and so do those that the last query chose. Later rows stay in fast memory.
///
/// Memory: rows * dim * sizeof(T) in the slow tier, 4 bytes per chunk, and the rows at hand. Evicted rows leave the slow tier only with
/// the last of their region.
template <class T>
class OffloadedValues {
 public:
  using exact_type = T;
  static constexpr Scope scope = Scope::layer;

  OffloadedValues(const auto& options, const Site& /*site*/, std::size_t dim, const Memory& memory)
      : dim_(dim), reuse_(options.reuse), tier_(options.slow), regions_(Allocator<Region>(memory)), next_(Allocator<Region>(memory)),
        chunks_(Allocator<Position>(memory)), tail_(dim, memory), at_hand_(dim, memory) {}

  [[nodiscard]] std::size_t rows() const noexcept { return settled() + tail_.rows(); }
  [[nodiscard]] std::size_t settled() const noexcept { return chunks_.size() * at_hand_.chunk(); }

  void make_room(std::size_t more) { tail_.make_room(more); }
  void append(const float* row) { tail_.append(row); }
  void move(std::size_t from, std::size_t to) { tail_.move(from - settled(), to - settled()); }
  void resize(std::size_t rows) noexcept { tail_.resize(rows - settled()); }
  void make_writable(std::size_t first, std::size_t last) { tail_.make_writable(first - settled(), last - settled()); }
  void take_room(OffloadedValues& from) noexcept { tail_.take_room(from.tail_); }
  void hold() noexcept { tail_.hold(); }
  void release() noexcept { tail_.release(); }
  /// Rows move when the retrieval indexes more, and only then.
  [[nodiscard]] static constexpr bool encodes_at(std::size_t /*rows*/) noexcept { return false; }
  /// Room for decoded rows; the exact rows of a prompt stay only until it ends.
  void reserve(std::size_t rows) {
    if (settled() > 0) { tail_.reserve(rows - std::min(rows, settled())); }
  }
  [[nodiscard]] static constexpr RowRange block_at(std::size_t row) noexcept { return {row / 128 * 128, row / 128 * 128 + 128}; }
  void erase_block(std::size_t first) noexcept {
    const auto begin = chunks_.begin() + static_cast<std::ptrdiff_t>(first / at_hand_.chunk());
    chunks_.erase(begin, begin + static_cast<std::ptrdiff_t>(128 / at_hand_.chunk()));
    at_hand_.erase(block_at(first));
    if (chunks_.empty()) { regions_.clear(); }
  }

  /// Writes what settle will take over: afterwards settle cannot fail.
  static void prepare_to_settle(std::span<OffloadedValues* const> members, const Settling& settling) {
    OffloadedValues& one = *members.front();
    one.next_.clear();  // what an attempt that failed may have left
    const std::size_t settled = one.settled();
    const std::size_t indexed = settling.reads.front().indexed;
    if (indexed <= settled) { return; }
    const std::size_t rows = indexed - settled;
    one.next_.reserve(1);
    const SlowRegion* beside = one.regions_.empty() ? nullptr : &one.regions_.front().bytes;  // in a directory one file per layer
    SlowRegion region(one.tier_, members.size() * rows * one.dim_ * sizeof(T), settling.memory, beside);
    Vector<Position> chunks{Allocator<Position>(settling.memory)};
    for (std::size_t m = 0; m < members.size(); ++m) {
      members[m]->write(region, m * rows, rows, settling);
      members[m]->keep_at_hand(settling.reads[m], chunks, settling.scratch);
      reserve_growing(members[m]->regions_, one.regions_.size() + 1);
      reserve_growing(members[m]->chunks_, indexed / settling.reads[m].unit);
    }
    one.next_.push_back({region, settled, rows, 0});
  }
  static void settle(std::span<OffloadedValues* const> members, const Settling&) noexcept {
    OffloadedValues& one = *members.front();
    if (one.next_.empty()) { return; }
    const Region next = one.next_.front();
    one.next_.clear();
    for (std::size_t m = 0; m < members.size(); ++m) { members[m]->take(next.bytes, m * next.rows, next.rows); }
  }
  [[nodiscard]] static std::size_t bytes_for(std::size_t rows, std::size_t dim, const auto& options, const Shape&,
                                             std::size_t at_hand) noexcept {
    return (options.slow.in_file() ? 0 : rows * dim * sizeof(T)) + Exact<T>::bytes_for(at_hand, dim, options);
  }
  [[nodiscard]] static std::size_t most_bytes(const MostRows& rows, std::size_t dim, const auto& options, const Shape&,
                                              std::size_t at_hand) noexcept {
    const std::size_t headers = 1024 + options.slow.directory.size() + 32 * rows.decoded + 2 * rows.live;  // of regions and chunks
    return (options.slow.in_file() ? 0 : rows.live * dim * sizeof(T)) + headers + AtHand<T>::most_bytes(at_hand, dim) +
           Exact<T>::most_bytes_of_recent(rows.decoded + at_hand, dim, 1);
  }

  /// Fetches the encoded rows of `ranges` that are not at hand; returns the bytes.
  std::size_t prepare(std::span<const RowRange> ranges) {
    if (settled() == 0) { return 0; }
    const std::size_t bytes = at_hand_.chunk() * dim_ * sizeof(T);
    return bytes * at_hand_.choose(ranges, settled(), reuse_, [&](auto one, auto next) {
      if (next.to != nullptr) { fetch_chunk(next.chunk); }
      read_chunk(one.chunk, one.to);
    });
  }
  /// Encoded rows must have been prepared.
  void accumulate(RowRange range, const float* weights, std::size_t weight_stride, std::size_t query_count, float* out,
                  std::size_t out_stride, float* scratch) const noexcept {
    const std::size_t border = settled();
    if (range.first < border) {
      at_hand_.for_runs(
          {range.first, std::min(range.last, border)},
          [&](const T* rows, const T* next, std::size_t offset, std::size_t count) {
        kernels::mix_rows(rows, count, dim_, weights + offset, weight_stride, query_count, out, out_stride, next);
          },
          [](std::size_t, std::size_t, std::size_t) { __builtin_abort(); });
    }
    if (range.last > border) {
      const std::size_t first = std::max(range.first, border);
      tail_.accumulate({first - border, range.last - border}, weights + (first - range.first), weight_stride, query_count, out, out_stride,
                       scratch);
    }
  }
  static constexpr std::size_t scratch_floats(std::size_t /*dim*/, std::size_t /*queries*/) noexcept { return 0; }
  /// Reads from the slow tier, which may fail.
  void read(std::size_t row, float* out) const {
    if (row >= settled()) { return tail_.read(row - settled(), out); }
    Vector<T> held(dim_, T{}, Allocator<T>(chunks_.get_allocator()));
    const std::size_t chunk = row / at_hand_.chunk();
    const Region& region = region_of(chunks_[chunk]);
    region.bytes.read((region.base + chunks_[chunk] - region.first + row % at_hand_.chunk()) * dim_ * sizeof(T), held.data(),
                      dim_ * sizeof(T));
    kernels::widen(held.data(), out, dim_);
  }
  static void describe(auto&& fact) {
    fact("form", "offloaded");
    fact("numbers", number_name<T>);
  }
  static void persist(auto& self, auto& archive, std::size_t rows) {
    archive.vector(self.chunks_);
    std::size_t encoded = self.settled();
    archive.number(encoded);
    archive.check(encoded <= rows, "there are more encoded rows than rows");
    AtHand<T>::persist(self.at_hand_, archive, encoded);
    archive.check(encoded == self.settled(), "the chunks are not those of its rows");
    Exact<T>::persist(self.tail_, archive, rows - encoded);
    std::size_t count = self.regions_.size();
    archive.count(count, 1);
    if constexpr (std::remove_reference_t<decltype(archive)>::reads) {
      self.regions_.reserve(count);
      for (std::size_t i = 0, first = 0; i < count; ++i) {
        self.regions_.push_back({SlowRegion(archive.memory()), first, 0, 0});
        first += persist_region(self.regions_.back(), archive, self.tier_, self.dim_, i == 0 ? nullptr : &self.regions_.front().bytes);
      }
      const std::size_t slow = count == 0 ? 0 : self.regions_.back().first + self.regions_.back().rows;
      for (const Position row : self.chunks_) {
        archive.check(row < slow && self.at_hand_.chunk() <= slow - row, "a chunk lies outside of the slow tier");
      }
    } else {
      for (const Region& region : self.regions_) { persist_region(region, archive, self.tier_, self.dim_); }
    }
  }
  /// Whether another store holds the same rows in the slow tier, as those of a layer do.
  [[nodiscard]] bool alike(const OffloadedValues& other) const noexcept {
    return chunks_ == other.chunks_ && at_hand_.chunk() == other.at_hand_.chunk() && regions_.size() == other.regions_.size();
  }

  /// Lanes of a layer share their regions, which the first of them reports.
  static void account(std::size_t members, auto&& member, auto&& shared, MemoryReport& report) noexcept {
    for (std::size_t m = 0; m < members; ++m) {
      const OffloadedValues& lane = member(m);
      report.add_held(shared(m), [&](MemoryReport& all) {
        all.add(&MemoryReport::indices, lane.regions_);
        all.add(&MemoryReport::indices, lane.next_);
        all.add(&MemoryReport::indices, lane.chunks_);
        lane.tail_.account(all);
        lane.at_hand_.account(all);
      });
    }
    for (const Region& region : member(0).regions_) {
      report.add_held(shared(0), [&](MemoryReport& all) { region.bytes.account(all, members); });
    }
    for (const Region& region : member(0).next_) {
      report.add_held(shared(0), [&](MemoryReport& all) { region.bytes.account(all); });
    }
  }
  void account(MemoryReport& report) const noexcept {
    account(
        1, [this](std::size_t) -> const OffloadedValues& { return *this; }, [](std::size_t) { return false; }, report);
  }
  static void unshare(std::size_t members, auto&& member) {
    for (std::size_t m = 0; m < members; ++m) {
      for (std::size_t r = 0; r < member(m).regions_.size(); ++r) {
        SlowRegion& bytes = member(m).regions_[r].bytes;
        if (m == 0) {
          bytes.unshare(r == 0 ? nullptr : &member(0).regions_.front().bytes);
        } else {
          bytes = member(0).regions_[r].bytes;
        }
      }
      member(m).tail_.unshare();
    }
  }
  void unshare() {
    unshare(1, [this](std::size_t) -> OffloadedValues& { return *this; });
  }
  void own_recent() { tail_.own_recent(); }

 private:
  /// What one commit moved: slow rows [first, first + rows) of this lane lie in `bytes` from row `base` on.
  struct Region {
    SlowRegion bytes;
    std::size_t first;
    std::size_t rows;
    std::size_t base;
  };

  /// Returns its rows.
  static std::size_t persist_region(auto& region, auto& archive, const SlowTier& tier, std::size_t dim,
                                    const SlowRegion* beside = nullptr) {
    archive.number(region.rows);
    archive.number(region.base);
    SlowRegion::persist(region.bytes, archive, tier, beside);
    const std::size_t held = region.bytes.bytes() / (dim * sizeof(T));
    archive.check(region.rows <= held && region.base <= held - region.rows, "rows lie outside of their region of the slow tier");
    return region.rows;
  }
  void write(SlowRegion& region, std::size_t base, std::size_t rows, const Settling& settling) {
    constexpr std::size_t at_once = 128;
    Vector<T> piece(at_once * dim_, T{}, Allocator<T>(settling.memory));
    settling.scratch.resize(std::max(settling.scratch.size(), dim_));
    for (std::size_t done = 0; done < rows;) {
      const std::size_t count = std::min(at_once, rows - done);
      for (std::size_t r = 0; r < count; ++r) {
        tail_.read(done + r, settling.scratch.data());
        kernels::convert(settling.scratch.data(), piece.data() + r * dim_, dim_);
      }
      region.write((base + done) * dim_ * sizeof(T), piece.data(), count * dim_ * sizeof(T));
      done += count;
    }
  }
  void keep_at_hand(const Reads& reads, Vector<Position>& chunks, Vector<float>& scratch) {
    const std::size_t border = settled();
    const auto load = [&](auto one, auto /*next*/) {
      scratch.resize(std::max(scratch.size(), dim_));
      for (std::size_t r = 0; r < reads.unit; ++r) {
        tail_.read(one.chunk * reads.unit + r - border, scratch.data());
        kernels::convert(scratch.data(), one.to + r * dim_, dim_);
      }
    };
    if (border == 0) { at_hand_.clear(); }  // what an attempt that failed may have left
    chunks_of(reads.always, reads.unit, chunks);
    at_hand_.always().hold(reads.unit, {chunks.data(), chunks.size()}, load);
    if (border == 0) { at_hand_.choose(reads.first, reads.indexed, false, load); }
  }
  void take(const SlowRegion& region, std::size_t base, std::size_t rows) noexcept {
    const std::size_t first = regions_.empty() ? 0 : regions_.back().first + regions_.back().rows;
    regions_.push_back({region, first, rows, base});
    for (std::size_t row = 0; row < rows; row += at_hand_.chunk()) { chunks_.push_back(static_cast<Position>(first + row)); }
    tail_.pop_front(rows);
  }
  [[nodiscard]] const Region& region_of(std::size_t slow_row) const noexcept {
    const auto after = std::upper_bound(regions_.begin(), regions_.end(), slow_row,
                                        [](std::size_t row, const Region& region) { return row < region.first; });
    return *(after - 1);
  }
  void read_chunk(std::size_t chunk, T* to) const {
    const Region& region = region_of(chunks_[chunk]);
    region.bytes.read((region.base + chunks_[chunk] - region.first) * dim_ * sizeof(T), to, at_hand_.chunk() * dim_ * sizeof(T));
  }
  /// Asks for a chunk that will be read soon.
  void fetch_chunk(std::size_t chunk) const noexcept {
    const Region& region = region_of(chunks_[chunk]);
    region.bytes.fetch((region.base + chunks_[chunk] - region.first) * dim_ * sizeof(T), at_hand_.chunk() * dim_ * sizeof(T));
  }

  std::size_t dim_;
  bool reuse_;
  SlowTier tier_;
  Vector<Region> regions_;   // ascending slow rows
  Vector<Region> next_;      // written, not yet taken over
  Vector<Position> chunks_;  // the slow row that each chunk of encoded rows starts at
  Exact<T> tail_;
  AtHand<T> at_hand_;
};

}  // namespace kvcompress
