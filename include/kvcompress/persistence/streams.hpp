// include/kvcompress/persistence/streams.hpp - the standard library's streams as sinks and sources of saved caches.
// SPDX-License-Identifier: MIT
#pragma once

#include <istream>
#include <ostream>

#include "kvcompress/persistence.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// A binary stream that takes a saved cache; it must outlive the call.
[[nodiscard]] inline ByteSink sink(std::ostream& stream) noexcept {
  return {[](void* context, const void* from, std::size_t bytes) {
    return !static_cast<std::ostream*>(context)->write(static_cast<const char*>(from), static_cast<std::streamsize>(bytes)).fail();
          },
          &stream};
}
/// A binary stream that gives a saved cache. Reads no further than its end.
[[nodiscard]] inline ByteSource source(std::istream& stream) noexcept {
  return {[](void* context, void* to, std::size_t bytes) {
    auto& from = *static_cast<std::istream*>(context);
    from.read(static_cast<char*>(to), static_cast<std::streamsize>(bytes));
    return from.bad() ? ByteSource::failed : static_cast<std::size_t>(from.gcount());
          },
          &stream};
}

}  // namespace kvcompress
