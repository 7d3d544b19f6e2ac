// include/kvcompress/adapters/llama_cpp/held.hpp - which positions of a sequence have a row in llama.cpp's book.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "kvcompress/core/shape.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::llama_cpp {

/// Positions as runs [begin, end), ascending and apart: one, unless rows were removed from the middle.
class Held {
 public:
  using Run = std::pair<Position, Position>;

  [[nodiscard]] const std::vector<Run>& runs() const noexcept { return runs_; }
  /// Adds [begin, end), behind all that are there.
  void add(Position begin, Position end) {
    if (!runs_.empty() && runs_.back().second == begin) {
      runs_.back().second = end;
    } else if (begin < end) {
      runs_.emplace_back(begin, end);
    }
  }
  void remove(Position begin, Position end) {
    std::vector<Run> left;
    for (const auto& [first, last] : runs_) {
      if (first < std::min(last, begin)) { left.emplace_back(first, std::min(last, begin)); }
      if (std::max(first, end) < last) { left.emplace_back(std::max(first, end), last); }
    }
    runs_ = std::move(left);
  }
  /// Moves those in [begin, end), past no other one.
  void shift(Position begin, Position end, std::int64_t delta) {
    std::vector<Run> moved;
    for (const auto& [first, last] : runs_) {
      if (std::max(first, begin) >= std::min(last, end)) { continue; }
      const auto place = [delta](Position position) { return static_cast<Position>(std::int64_t{position} + delta); };
      moved.emplace_back(place(std::max(first, begin)), place(std::min(last, end)));
    }
    remove(begin, end);
    moved.insert(moved.end(), runs_.begin(), runs_.end());
    std::sort(moved.begin(), moved.end(), [](const Run& a, const Run& b) { return a.first < b.first; });
    runs_.clear();
    for (const auto& [first, last] : moved) { add(first, last); }
  }
  /// How many are at `begin` and later.
  [[nodiscard]] std::size_t count_from(Position begin) const noexcept {
    std::size_t count = 0;
    for (const auto& [first, last] : runs_) { count += last - std::min(last, std::max(first, begin)); }
    return count;
  }
  /// The position of the oldest of the newest `count`; 0 if there are not so many.
  [[nodiscard]] Position newest(std::size_t count) const noexcept {
    for (auto run = runs_.rbegin(); run != runs_.rend(); ++run) {
      if (count <= run->second - run->first) { return run->second - static_cast<Position>(count); }
      count -= run->second - run->first;
    }
    return 0;
  }

 private:
  std::vector<Run> runs_;
};

}  // namespace kvcompress::llama_cpp
