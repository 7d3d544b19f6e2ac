// include/kvcompress/attention/batches.hpp - ranges of rows, cut into batches that the driver meets one after the other.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

#include "kvcompress/core/views.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

/// A walk over ascending, disjoint ranges in batches of at most `batch_rows` rows.
class Batches {
 public:
  Batches(std::span<const RowRange> ranges, std::size_t batch_rows) noexcept : ranges_(ranges), batch_rows_(batch_rows) {
    if (!ranges_.empty()) { row_ = ranges_.front().first; }
    skip_empty();
  }

  [[nodiscard]] bool done() const noexcept { return range_ == ranges_.size(); }
  /// Calls visit(part, offset) for every stretch of rows of the current batch; `offset` counts the batch's rows before it. Returns the
  /// rows of the batch.
  std::size_t parts(auto&& visit) const noexcept {
    Batches walk = *this;
    std::size_t offset = 0;
    while (!walk.done() && offset < batch_rows_) {
      const std::size_t count = std::min(walk.ranges_[walk.range_].last - walk.row_, batch_rows_ - offset);
      visit(RowRange{walk.row_, walk.row_ + count}, offset);
      walk.pass(count);
      offset += count;
    }
    return offset;
  }
  /// Moves on to the next batch.
  void next() noexcept {
    for (std::size_t left = batch_rows_; left > 0 && !done();) {
      const std::size_t count = std::min(ranges_[range_].last - row_, left);
      pass(count);
      left -= count;
    }
  }

 private:
  void pass(std::size_t count) noexcept {
    row_ += count;
    if (row_ < ranges_[range_].last) { return; }
    ++range_;
    if (!done()) { row_ = ranges_[range_].first; }
    skip_empty();
  }
  void skip_empty() noexcept {
    while (!done() && ranges_[range_].size() == 0) {
      ++range_;
      if (!done()) { row_ = ranges_[range_].first; }
    }
  }

  std::span<const RowRange> ranges_;
  std::size_t batch_rows_;
  std::size_t range_ = 0;
  std::size_t row_ = 0;
};

}  // namespace kvcompress::detail
