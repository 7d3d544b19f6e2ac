// include/kvcompress/adapters/llama_cpp/pages.hpp - memory that nobody writes to goes back to the system.
// SPDX-License-Identifier: MIT
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>

#include "kvcompress/core/abi.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::llama_cpp {

/// Gives back the whole pages of a buffer; they read as zeros afterwards. The buffer itself stays allocated.
inline void give_back_pages(void* data, std::size_t bytes) noexcept {
  const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  const std::uintptr_t begin = (reinterpret_cast<std::uintptr_t>(data) + page - 1) / page * page;
  const std::uintptr_t end = (reinterpret_cast<std::uintptr_t>(data) + bytes) / page * page;
  if (end > begin) { madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED); }
}

}  // namespace kvcompress::llama_cpp
