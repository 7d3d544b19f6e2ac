// include/kvcompress/retrieval/reuse.hpp - rows that one token's queries chose, read again by those of the next ones.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/concepts/retrieval.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// A choice that serves `tokens` tokens: choose() appends to `ranges` what a retrieval chooses anew, which is noted in `after`; what `before` has
/// noted is read again, with all rows that were indexed since. Returns whether it chose anew.
///
/// Source: "LServe: Efficient Long-sequence LLM Serving with Unified Sparse Attention"; mit-han-lab/omniserve@02b2925:
/// omniserve/modeling/layers/decoding_attention.py, which chooses pages again every 4 steps. Here steps are counted from the token that chose.
bool reuse(std::size_t tokens, std::size_t indexed, const Retrieving& in, const Memo& before, Memo& after, Vector<RowRange>& ranges,
           auto&& choose) {
  if (before.at != no_position && in.visible.at - before.at < tokens) {
    ranges.insert(ranges.end(), before.ranges.begin(), before.ranges.end());
    if (before.rows < indexed) { ranges.push_back({before.rows, indexed}); }
    return false;
  }
  const auto first = static_cast<std::ptrdiff_t>(ranges.size());
  choose();
  after.rows = indexed;
  after.ranges.assign(ranges.begin() + first, ranges.end());
  return true;
}

}  // namespace kvcompress
