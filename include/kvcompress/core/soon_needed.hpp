// include/kvcompress/core/soon_needed.hpp - asking the processor for memory ahead of its use.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

#include "kvcompress/core/abi.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Asks the processor for bytes that will be read soon.
inline void fetch_soon(const void* from, std::size_t bytes) noexcept {
  for (std::size_t i = 0; i < bytes; i += 64) { __builtin_prefetch(static_cast<const std::byte*>(from) + i, 0, 3); }
}

/// Bytes that will be read and bytes that will be written soon, asked for line by line between other work: a burst of requests would hold up
/// that work's own loads.
class SoonNeeded {
 public:
  SoonNeeded() = default;
  SoonNeeded(const void* read, std::size_t read_bytes, const void* written, std::size_t written_bytes) noexcept
      : read_(static_cast<const std::byte*>(read)), read_end_(read_ + read_bytes), written_(static_cast<const std::byte*>(written)),
        written_end_(written_ + written_bytes) {}

  /// Asks for the next line, if one is left.
  void ask() noexcept {
    if (read_ < read_end_) {
      __builtin_prefetch(read_, 0, 2);
      read_ += line;
    } else if (written_ < written_end_) {
      __builtin_prefetch(written_, 1, 2);
      written_ += line;
    }
  }

 private:
  static constexpr std::size_t line = 64;

  const std::byte* read_ = nullptr;
  const std::byte* read_end_ = nullptr;
  const std::byte* written_ = nullptr;
  const std::byte* written_end_ = nullptr;
};

}  // namespace kvcompress
