// include/kvcompress/cache/past_window.hpp - rows that lie so far behind that no later query of their layer's readers sees them.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <span>

#include "kvcompress/cache/layer.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

/// By in-cache positions where the table has them.
template <class P>
[[nodiscard]] bool is_past_window(const Layer<P>& layer, const RowTable& table, std::size_t row) noexcept {
  const std::size_t next = table.renumbers() ? table.live() : layer.next;
  return table.alive(row) && next - table.slot(row) >= layer.window;
}
/// Whether some row is.
template <class P>
[[nodiscard]] bool any_past_window(const Layer<P>& layer) noexcept {
  if (layer.window == 0 || layer.next < layer.window) { return false; }
  for (const RowTable& table : layer.tables) {
    for (std::size_t row = 0; row < table.rows(); ++row) {
      if (is_past_window(layer, table, row)) { return true; }
    }
  }
  return false;
}
/// Marks them in flags that are 0.
template <class P>
void mark_past_window(const Layer<P>& layer, CommitScratch<P>& scratch) noexcept {
  if (layer.window == 0 || layer.next < layer.window) { return; }
  for (std::size_t unit = 0; unit < layer.tables.size(); ++unit) {
    const std::span<unsigned char> drop = layer.drops(unit, scratch);
    for (std::size_t row = 0; row < drop.size(); ++row) { drop[row] = is_past_window(layer, layer.tables[unit], row) ? 1 : 0; }
  }
}

}  // namespace kvcompress::inline KVCOMPRESS_ABI::detail
