// include/kvcompress/concepts/row_state.hpp - what a part remembers about the rows of a lane.
// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstddef>

#include "kvcompress/core/memory.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// What an eviction or a retrieval remembers of one lane, owned by the cache: an entry per row, or per unit of rows, which follows its rows.
///
/// | verb | when, and what is true afterwards |
/// |---|---|
/// | reserve(n) | before rows come: up to n rows nothing below fails, and so buffers of the part's own grow here; may fail itself |
/// | resize(n) | rows were appended (evictions alone: an index grows in refresh) or forgotten: there are n, new ones worth 0 |
/// | move(from, to) | row `to` is what `from` was; move(r, r): row r was written |
/// | erase(first, count) | these rows have left, later ones moved up |
/// | compact(slack) | a prompt has ended: spare capacity goes, but for `slack` rows |
/// | account(report) | counts what it holds |
template <class S>
concept RowState = std::copy_constructible<S> && std::movable<S> && requires(S state, std::size_t n, MemoryReport& report) {
  state.reserve(n);
  state.resize(n);
  state.move(n, n);
  state.erase(n, n);
  state.compact(n);
  state.account(report);
};

}  // namespace kvcompress
