// include/kvcompress/core/tokens.hpp - what a caller has said of the tokens of a text: a kind each, and where sentences end.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "kvcompress/core/memory.hpp"
#include "kvcompress/core/shape.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Kinds and boundaries of the tokens at positions 0 to size() - 1, a byte each: see KVCache::describe. Of later ones nothing is known: they are of
/// kind 0 and end nothing.
class Tokens {
 public:
  static constexpr std::uint8_t most_kind = 127;

  explicit Tokens(const Memory& memory) : marks_(Allocator<unsigned char>(memory)) {}

  [[nodiscard]] std::size_t size() const noexcept { return marks_.size(); }
  [[nodiscard]] std::uint8_t kind(Position position) const noexcept { return position < size() ? marks_[position] & most_kind : 0; }
  /// Whether the token is the last one of a sentence, or of whatever else the caller keeps together.
  [[nodiscard]] bool ends(Position position) const noexcept { return position < size() && (marks_[position] & boundary) != 0; }

  /// Of tokens from `first` <= size() on; arguments are checked.
  void describe(Position first, std::span<const std::uint8_t> kinds, std::span<const Position> boundaries) {
    marks_.resize(std::max(marks_.size(), first + kinds.size()));
    std::copy(kinds.begin(), kinds.end(), marks_.begin() + static_cast<std::ptrdiff_t>(first));
    for (const Position position : boundaries) { marks_[position] |= boundary; }
  }
  void truncate(Position position) noexcept { marks_.resize(std::min<std::size_t>(marks_.size(), position)); }
  /// What was said of the tokens [first, last) holds of those `delta` further on; if the last one moves, the text ends behind it.
  void shift(Position first, Position last, std::int64_t delta) {
    const std::size_t end = std::min<std::size_t>(last, size());
    if (first >= end || delta == 0) { return; }
    const auto to = static_cast<std::size_t>(std::int64_t{first} + delta);
    const std::size_t count = end - first;
    const std::size_t moved = end == size() ? to + count : size();
    marks_.resize(std::max(size(), to + count));
    std::memmove(marks_.data() + to, marks_.data() + first, count);
    const std::size_t left = delta > 0 ? first : std::max<std::size_t>(first, to + count);  // nothing lies there any more
    std::fill(marks_.data() + left, marks_.data() + (delta > 0 ? std::min(to, end) : end), static_cast<unsigned char>(0));
    marks_.resize(moved);
  }
  void account(MemoryReport& report) const noexcept { report.add(&MemoryReport::positions, marks_); }
  static void persist(auto& self, auto& archive) { archive.vector(self.marks_); }

 private:
  static constexpr unsigned char boundary = 128;
  Vector<unsigned char> marks_;  // (tokens): the kind, and `boundary`
};

/// A selector, or a scorer, that wants to know of the tokens, which RowSet::tokens says: a prompt of a cache that was not told does not end.
template <class Part>
concept NeedsTokens = requires {
  requires Part::needs_tokens;
};

}  // namespace kvcompress
