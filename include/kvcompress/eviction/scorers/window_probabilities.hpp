// include/kvcompress/eviction/scorers/window_probabilities.hpp - what the last queries of a prompt give each row, query by query, until it is scored.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <type_traits>

#include "kvcompress/core/memory.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// A State of up to `most` probabilities per row, which takes memory only between the first and forget().
class WindowProbabilities {
 public:
  WindowProbabilities(std::size_t most, const Memory& memory) : most_(most), probabilities_(Allocator<float>(memory)) {}

  [[nodiscard]] std::size_t queries() const noexcept { return queries_; }
  [[nodiscard]] float get(std::size_t row, std::size_t query) const noexcept { return probabilities_[row * most_ + query]; }
  /// Those of one more query, at most `most`, over the first rows; others get 0.
  void add(std::span<const float> probabilities) {
    if (queries_ == 0) { probabilities_.assign(rows_ * most_, 0.0F); }
    for (std::size_t r = 0; r < probabilities.size(); ++r) { probabilities_[r * most_ + queries_] = probabilities[r]; }
    ++queries_;
  }
  void forget() noexcept {
    queries_ = 0;
    Vector<float>(probabilities_.get_allocator()).swap(probabilities_);
  }

  static void reserve(std::size_t) noexcept {}
  static void compact(std::size_t) noexcept {}
  void resize(std::size_t rows) {
    rows_ = rows;
    if (queries_ > 0) { probabilities_.resize(rows * most_); }
  }
  void move(std::size_t from, std::size_t to) noexcept {
    if (queries_ > 0) { std::copy_n(probabilities_.begin() + at(from), most_, probabilities_.begin() + at(to)); }
  }
  void erase(std::size_t first, std::size_t count) noexcept {
    rows_ -= count;
    if (queries_ > 0) { probabilities_.erase(probabilities_.begin() + at(first), probabilities_.begin() + at(first + count)); }
  }
  void account(MemoryReport& report) const noexcept { report.add(&MemoryReport::policy_state, probabilities_); }
  static void persist(auto& self, auto& archive, std::size_t rows) {
    archive.number(self.queries_);
    archive.vector(self.probabilities_);
    archive.check(self.queries_ <= self.most_ && self.probabilities_.size() == (self.queries_ > 0 ? rows * self.most_ : 0),
                  "the probabilities are not those of its rows");
    if constexpr (std::remove_reference_t<decltype(archive)>::reads) { self.rows_ = rows; }
  }

 private:
  [[nodiscard]] std::ptrdiff_t at(std::size_t row) const noexcept { return static_cast<std::ptrdiff_t>(row * most_); }

  std::size_t most_;
  std::size_t rows_ = 0;
  std::size_t queries_ = 0;
  Vector<float> probabilities_;  // (rows, most)
};

}  // namespace kvcompress
