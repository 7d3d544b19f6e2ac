// include/kvcompress/persistence/buffers.hpp - memory as sink and source of saved caches.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstring>
#include <span>
#include <vector>

#include "kvcompress/persistence.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Adds a saved cache to the end of a vector, which must outlive the call.
[[nodiscard]] inline ByteSink sink(std::vector<std::byte>& buffer) noexcept {
  return {[](void* context, const void* from, std::size_t bytes) {
    const auto* first = static_cast<const std::byte*>(from);
    auto& to = *static_cast<std::vector<std::byte>*>(context);
    to.insert(to.end(), first, first + bytes);
    return true;
          },
          &buffer};
}
/// Gives the bytes at the front of a span, which then begins behind them; both must outlive the call.
[[nodiscard]] inline ByteSource source(std::span<const std::byte>& buffer) noexcept {
  return {[](void* context, void* to, std::size_t bytes) {
    auto& from = *static_cast<std::span<const std::byte>*>(context);
    const std::size_t count = std::min(bytes, from.size());
    if (count > 0) { std::memcpy(to, from.data(), count); }
    from = from.subspan(count);
    return count;
          },
          &buffer};
}

}  // namespace kvcompress
