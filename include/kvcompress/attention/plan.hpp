// include/kvcompress/attention/plan.hpp - which rows queries read: a value that a retrieval fills or a caller makes, and that attend obeys.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "kvcompress/core/bounds.hpp"
#include "kvcompress/core/row_table.hpp"
#include "kvcompress/core/views.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// What a policy that observes queries makes of those of one call.
enum class Record : unsigned char {
  usual,  ///< it sees them; truncate takes them back with their rows
  kept,   ///< the next end_prompt counts them, though truncate removes their rows: queries that look ahead or repeat the prompt
  none    ///< it does not: drafts, warm-up, a part of a softmax
};

/// The rows of one layer that queries read, of each KV head: those that are named here, and all that come after the plan was made. It is good
/// until rows move (evictions, remove, truncate below its rows); attend refuses it from then on. A row is where KVCache::table has it: while
/// nothing was evicted, row r is at position r. Cost: two numbers a range.
class Plan {
 public:
  Plan() = default;
  /// Of a layer with so many rows in each KV head, as KVCache::plan makes it: names no row yet.
  Plan(std::uint64_t epoch, std::size_t layer, std::vector<std::size_t> rows)
      : epoch_(epoch), layer_(layer), rows_(std::move(rows)), ranges_(rows_.size()) {}

  /// Names the rows [first, last) of a KV head; first is not before those that are named, last at most rows(kv_head).
  void read(std::size_t kv_head, RowRange range) {
    require(kv_head < ranges_.size(), ErrorCode::shape, "plan: kv_head is ", kv_head, ", must be less than ", ranges_.size());
    std::vector<RowRange>& own = ranges_[kv_head];
    const std::size_t behind = own.empty() ? 0 : own.back().last;
    require(range.first >= behind && range.first <= range.last && range.last <= rows_[kv_head], ErrorCode::input, "plan: range is [",
            range.first, ", ", range.last, ") of KV head ", kv_head, ", must lie in [", behind, ", ", rows_[kv_head], ")");
    if (range.size() == 0) { return; }
    if (!own.empty() && own.back().last == range.first) {
      own.back().last = range.last;
    } else {
      own.push_back(range);
    }
  }
  /// The rows that are named, ascending; neighbours are one range.
  [[nodiscard]] std::span<const RowRange> ranges(std::size_t kv_head) const noexcept { return ranges_[kv_head]; }
  /// Rows that the KV head had when the plan was made: later ones are read, too.
  [[nodiscard]] std::size_t rows(std::size_t kv_head) const noexcept { return rows_[kv_head]; }
  [[nodiscard]] std::size_t kv_heads() const noexcept { return ranges_.size(); }
  [[nodiscard]] std::size_t layer() const noexcept { return layer_; }
  /// Of the rows: changes whenever they move, and differs from cache to cache.
  [[nodiscard]] std::uint64_t epoch() const noexcept { return epoch_; }

 private:
  std::uint64_t epoch_ = 0;
  std::size_t layer_ = 0;
  std::vector<std::size_t> rows_{};
  std::vector<std::vector<RowRange>> ranges_{};
};

namespace detail {

/// What a cache remembers of the plans for one layer.
struct PlanMark {
  std::uint64_t number = fresh();  // no other layer or cache has it
  Position end = 0;                // rows at positions before this one are in some plan: truncated, they make it void

  static std::uint64_t fresh() noexcept {
    static std::uint64_t last = 0;
    return __atomic_add_fetch(&last, 1U, __ATOMIC_RELAXED);  // see core/reference_count.hpp
  }
  /// Of rows that have moved so many times.
  [[nodiscard]] std::uint64_t epoch(std::uint64_t moves) const noexcept { return (number << 32U) + moves; }
  void truncate(Position position) noexcept {
    if (position < end) { *this = {}; }
  }
};

}  // namespace detail
}  // namespace kvcompress
