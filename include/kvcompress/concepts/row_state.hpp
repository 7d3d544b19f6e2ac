// include/kvcompress/concepts/row_state.hpp - what a part remembers about the rows of a lane.
// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstddef>

#include "kvcompress/core/memory.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// What an eviction or a retrieval remembers of one lane, owned by the cache: an entry per row, or per unit of rows, which follows its rows.
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
