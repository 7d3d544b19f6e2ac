// include/kvcompress/core/memo.hpp - what the queries of a lane leave behind for later ones: the one thing that choosing rows may change.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>

#include "kvcompress/core/memory.hpp"
#include "kvcompress/core/row_table.hpp"
#include "kvcompress/core/views.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// What one token's queries leave behind in a lane; what it means is the retrieval's own. Small: one is kept for every token that may be taken back.
/// Rows in it are good until rows move, when all memos are forgotten.
struct Memo {
  explicit Memo(const Memory& memory) : ranges(Allocator<RowRange>(memory)), numbers(Allocator<float>(memory)) {}

  Position at = no_position;  ///< the token's position; no_position: nothing is remembered yet
  std::size_t rows = 0;
  Vector<RowRange> ranges;
  Vector<float> numbers;

  /// Of a lane with `count` rows.
  static void persist(auto& self, auto& archive, std::size_t count) {
    archive.number(self.at);
    archive.number(self.rows);
    archive.vector(self.ranges);
    archive.vector(self.numbers);
    std::size_t end = 0;
    bool inside = self.rows <= count;
    for (const RowRange& range : self.ranges) {
      inside = inside && range.first >= end && range.first <= range.last;
      end = range.last;
    }
    archive.check(inside && end <= self.rows, "the rows that it remembers are not its own");
  }
};

namespace detail {

/// The memos of one lane: of the last commit, and of the tokens since that may be taken back.
class Memos {
 public:
  explicit Memos(const Memory& memory) : memory_(memory), entries_(Allocator<Memo>(memory)) {}

  /// That of the newest token before `position`, or null.
  [[nodiscard]] const Memo* before(Position position) const noexcept {
    std::size_t count = count_;
    while (count > 0 && entries_[count - 1].at >= position) { --count; }
    return count > 0 ? &entries_[count - 1] : nullptr;
  }
  /// Room for another one, behind those of tokens before `position`.
  [[nodiscard]] Memo& next(Position position) {
    truncate(position);
    if (count_ == entries_.size()) { entries_.emplace_back(memory_); }
    return entries_[count_];
  }
  /// What was written to next() is remembered; the newest `most` are kept, at least 1.
  void add(Position position, std::size_t most) noexcept {
    entries_[count_].at = position;
    ++count_;
    while (count_ > most) {
      drop_oldest();
      forgotten_ = true;
    }
  }
  void truncate(Position position) noexcept {
    while (count_ > 0 && entries_[count_ - 1].at >= position) { --count_; }
  }
  [[nodiscard]] bool any() const noexcept { return count_ > 0; }
  /// Tokens from here on can be taken back, and what was remembered before them is known.
  [[nodiscard]] Position revocable_from() const noexcept { return forgotten_ ? entries_[0].at + 1 : 0; }
  /// Ends the open step.
  void close() noexcept {
    while (count_ > 1) { drop_oldest(); }
    forgotten_ = false;
  }
  void forget() noexcept {
    count_ = 0;
    forgotten_ = false;
  }
  static void persist(auto& self, auto& archive, std::size_t rows) {
    std::size_t count = self.count_;
    archive.count(count, sizeof(Memo::at) + sizeof(Memo::rows));
    archive.number(self.forgotten_);
    if constexpr (std::remove_reference_t<decltype(archive)>::reads) {
      while (self.entries_.size() < count) { self.entries_.emplace_back(self.memory_); }
      self.count_ = count;
    }
    archive.check(count > 0 || !self.forgotten_, "it has forgotten what it never remembered");
    for (std::size_t i = 0; i < count; ++i) {
      Memo::persist(self.entries_[i], archive, rows);
      archive.check(self.entries_[i].at != no_position && (i == 0 || self.entries_[i].at > self.entries_[i - 1].at),
                    "what it remembers is not in order");
    }
  }
  void account(MemoryReport& report) const noexcept {
    report.add(&MemoryReport::policy_state, entries_);
    for (const Memo& memo : entries_) {
      report.add(&MemoryReport::policy_state, memo.ranges);
      report.add(&MemoryReport::policy_state, memo.numbers);
    }
  }

 private:
  void drop_oldest() noexcept {
    std::rotate(entries_.begin(), entries_.begin() + 1, entries_.begin() + static_cast<std::ptrdiff_t>(count_));
    --count_;
  }

  Memory memory_;
  Vector<Memo> entries_;   // the first count_ of them; the others are room
  std::size_t count_ = 0;  // ascending positions
  bool forgotten_ = false;
};
/// Of a policy whose retrieval remembers nothing.
struct NoMemos {
  explicit NoMemos(const Memory&) noexcept {}
};

}  // namespace detail
}  // namespace kvcompress
