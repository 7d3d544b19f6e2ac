// examples/llama/merge.hpp - greedy pair merging, the common core of SentencePiece BPE and byte-level BPE.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <optional>
#include <queue>
#include <string_view>
#include <vector>

namespace llama {

/// Bytes of the UTF-8 character that starts `text`; 1 for a byte that starts none, never more than the text
/// has.
inline std::size_t character_bytes(std::string_view text) noexcept {
  const auto lead = static_cast<unsigned char>(text.front());
  const std::size_t bytes = lead < 0xC0 ? 1U : lead < 0xE0 ? 2U : lead < 0xF0 ? 3U : 4U;
  return bytes < text.size() ? bytes : text.size();
}

/// Starts from the characters of `text` and merges neighbours, best priority first and leftmost among equals,
/// until no pair has a priority. `priority(left, right)` gives std::optional<double>. Returns the pieces,
/// which are parts of `text`, in order.
///
/// Cost: O(n log n) calls of priority for n characters.
template <class Priority>
std::vector<std::string_view> merge_pairs(std::string_view text, const Priority& priority) {
  constexpr std::size_t none = static_cast<std::size_t>(-1);
  struct Symbol {
    std::size_t start, bytes;  // bytes is 0 once the symbol was merged into its left neighbour
    std::size_t left, right;
  };
  struct Pair {
    double priority;
    std::size_t left, right, bytes;
    bool operator<(const Pair& other) const { return priority != other.priority ? priority < other.priority : left > other.left; }
  };
  std::vector<Symbol> symbols;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t bytes = character_bytes(text.substr(at));
    const std::size_t index = symbols.size();
    symbols.push_back({at, bytes, index == 0 ? none : index - 1, index + 1});
    at += bytes;
  }
  if (symbols.empty()) { return {}; }
  symbols.back().right = none;

  std::priority_queue<Pair> pairs;
  const auto consider = [&](std::size_t left, std::size_t right) {
    if (left == none || right == none) { return; }
    const Symbol& a = symbols[left];
    const Symbol& b = symbols[right];
    const std::optional<double> found = priority(text.substr(a.start, a.bytes), text.substr(b.start, b.bytes));
    if (found) { pairs.push({*found, left, right, a.bytes + b.bytes}); }
  };
  for (std::size_t i = 1; i < symbols.size(); ++i) { consider(i - 1, i); }
  while (!pairs.empty()) {
    const Pair best = pairs.top();
    pairs.pop();
    Symbol& left = symbols[best.left];
    Symbol& right = symbols[best.right];
    // A pair is stale when one of its symbols has been merged away or has grown since.
    if (left.bytes == 0 || right.bytes == 0 || left.bytes + right.bytes != best.bytes) { continue; }
    left.bytes += right.bytes;
    left.right = right.right;
    right.bytes = 0;
    if (left.right != none) { symbols[left.right].left = best.left; }
    consider(left.left, best.left);
    consider(best.left, left.right);
  }
  std::vector<std::string_view> pieces;
  for (std::size_t i = 0; i != none; i = symbols[i].right) { pieces.push_back(text.substr(symbols[i].start, symbols[i].bytes)); }
  return pieces;
}

}  // namespace llama
