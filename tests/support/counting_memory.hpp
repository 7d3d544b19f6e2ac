// tests/support/counting_memory.hpp - a Memory handle that counts what it gives, and can refuse.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdlib>

#include "kvcompress/core/memory.hpp"

namespace kvcompress::test {

/// Counts calls and bytes; after refuse_after(n), only n more calls get memory. Must outlive every cache that uses it. One thread only.
class CountingMemory {
 public:
  CountingMemory() = default;
  CountingMemory(const CountingMemory&) = delete;
  CountingMemory& operator=(const CountingMemory&) = delete;

  [[nodiscard]] Memory handle() {
    return {
        [](void* self, std::size_t size, std::size_t alignment) { return static_cast<CountingMemory*>(self)->allocate(size, alignment); },
        [](void* self, void* address, std::size_t size, std::size_t) { static_cast<CountingMemory*>(self)->release(address, size); }, this};
  }
  /// The next `count` allocations succeed, all later ones fail.
  void refuse_after(std::size_t count) { left_ = count; }
  void allow() { left_ = static_cast<std::size_t>(-1); }
  /// Forgets the calls and the peak so far.
  void restart() {
    calls = 0;
    peak = bytes;
  }

  std::size_t calls = 0;  // allocations
  std::size_t live = 0;   // allocations not yet released
  std::size_t bytes = 0;  // held now
  std::size_t peak = 0;   // largest `bytes`

 private:
  void* allocate(std::size_t size, std::size_t alignment) {
    if (left_ == 0) { return nullptr; }
    if (left_ != static_cast<std::size_t>(-1)) { --left_; }
    ++calls;
    ++live;
    bytes += size;
    peak = std::max(peak, bytes);
    return std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
  }
  void release(void* address, std::size_t size) {
    --live;
    bytes -= size;
    std::free(address);
  }

  std::size_t left_ = static_cast<std::size_t>(-1);
};

}  // namespace kvcompress::test
