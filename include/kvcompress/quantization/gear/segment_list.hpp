// include/kvcompress/quantization/gear/segment_list.hpp - the segments of a lane, one behind the other; copies share them.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <utility>

#include "kvcompress/core/memory.hpp"
#include "kvcompress/core/views.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::gear {

/// Segments and the rows they end at. Segments never change, so sharing them is all that copying takes.
template <class Segment>
class SegmentList {
  struct Entry {
    Segment* segment;
    std::size_t end;
  };

 public:
  static constexpr std::size_t entry_bytes = sizeof(Entry);

  explicit SegmentList(const Memory& memory) : entries_(Allocator<Entry>(memory)) {}
  SegmentList(const SegmentList& other) : entries_(other.entries_) {
    for (const Entry& entry : entries_) { entry.segment->share(); }
  }
  SegmentList(SegmentList&& other) noexcept : entries_(std::move(other.entries_)) { other.entries_.clear(); }
  SegmentList& operator=(SegmentList other) noexcept {
    entries_.swap(other.entries_);
    return *this;
  }
  ~SegmentList() { clear(); }

  [[nodiscard]] std::size_t size() const noexcept { return entries_.size(); }
  [[nodiscard]] std::size_t rows() const noexcept { return rows_before(size()); }
  [[nodiscard]] const Segment& operator[](std::size_t index) const noexcept { return *entries_[index].segment; }
  /// Rows of the first `index` segments.
  [[nodiscard]] std::size_t rows_before(std::size_t index) const noexcept { return index == 0 ? 0 : entries_[index - 1].end; }
  [[nodiscard]] RowRange range(std::size_t index) const noexcept { return {rows_before(index), entries_[index].end}; }
  /// The segment that holds row `row`.
  [[nodiscard]] std::size_t index_of(std::size_t row) const noexcept {
    const auto holds =
        std::upper_bound(entries_.begin(), entries_.end(), row, [](std::size_t r, const Entry& entry) { return r < entry.end; });
    return static_cast<std::size_t>(holds - entries_.begin());
  }
  [[nodiscard]] Memory memory() const noexcept { return entries_.get_allocator().memory; }

  /// Afterwards, `more` segments can be added without failing.
  void make_room(std::size_t more) {
    if (entries_.capacity() < size() + more) { entries_.reserve(std::max(size() + more, 2 * entries_.capacity())); }
  }
  /// Takes over a new segment; there must be room.
  void add(Segment* segment) noexcept { entries_.push_back({segment, rows() + segment->rows()}); }
  void add_shared(const SegmentList& from, std::size_t index) noexcept {
    from.entries_[index].segment->share();
    add(from.entries_[index].segment);
  }
  /// Drops the segments from `index` on and takes over those of `other`; there must be room.
  void replace_from(std::size_t index, SegmentList& other) noexcept {
    drop(index, size() - index);
    for (const Entry& entry : other.entries_) { add(entry.segment); }
    other.entries_.clear();
  }
  /// Drops the segments [index, index + count).
  void drop(std::size_t index, std::size_t count) noexcept {
    const std::size_t gone = rows_before(index + count) - rows_before(index);
    const auto first = entries_.begin() + static_cast<std::ptrdiff_t>(index);
    for (std::size_t i = index; i < index + count; ++i) { entries_[i].segment->release(memory()); }
    entries_.erase(first, first + static_cast<std::ptrdiff_t>(count));
    for (std::size_t i = index; i < size(); ++i) { entries_[i].end -= gone; }
  }
  void clear() noexcept { drop(0, size()); }
  /// Clones every segment that a copy holds too.
  void unshare() {
    for (Entry& entry : entries_) {
      if (entry.segment->shared()) { std::exchange(entry.segment, entry.segment->clone(memory()))->release(memory()); }
    }
  }
  [[nodiscard]] bool same_rows(const SegmentList& other) const noexcept {
    return std::equal(entries_.begin(), entries_.end(), other.entries_.begin(), other.entries_.end(),
                      [](const Entry& a, const Entry& b) { return a.end == b.end; });
  }
  /// Saves or loads (into an empty list) segments of at most `rows` rows in all.
  static void persist(auto& self, auto& archive, std::size_t rows, std::size_t dim, std::size_t row_multiple) {
    std::size_t count = self.size();
    archive.count(count, 1);
    if constexpr (std::remove_reference_t<decltype(archive)>::reads) {
      self.entries_.reserve(count);
      for (std::size_t i = 0; i < count; ++i) { self.add(Segment::load(archive, rows - self.rows(), dim, row_multiple)); }
    } else {
      for (const Entry& entry : self.entries_) { Segment::save(*entry.segment, archive); }
    }
  }
  void account(MemoryReport& report) const noexcept {
    report.add(&MemoryReport::indices, entries_);
    for (const Entry& entry : entries_) { entry.segment->account(report); }
  }

 private:
  Vector<Entry> entries_;
};

}  // namespace kvcompress::gear
