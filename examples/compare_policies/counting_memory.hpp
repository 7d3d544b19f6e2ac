// examples/compare_policies/counting_memory.hpp - a memory handle that remembers the most it had given out at once.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>

#include "kvcompress/core/memory.hpp"

namespace comparison {

/// Counts what one thread takes from its handle; must outlive whoever holds the handle.
class CountingMemory {
 public:
  CountingMemory() = default;
  CountingMemory(const CountingMemory&) = delete;
  CountingMemory& operator=(const CountingMemory&) = delete;

  [[nodiscard]] kvcompress::Memory handle() noexcept {
    kvcompress::Memory memory;
    memory.allocate = [](void* self, std::size_t bytes, std::size_t alignment) {
      return static_cast<CountingMemory*>(self)->allocate(bytes, alignment);
    };
    memory.release = [](void* self, void* address, std::size_t bytes, std::size_t alignment) {
      static_cast<CountingMemory*>(self)->release(address, bytes, alignment);
    };
    memory.context = this;
    return memory;
  }
  /// Bytes given out now, and the most there ever were.
  [[nodiscard]] std::size_t now() const noexcept { return now_; }
  [[nodiscard]] std::size_t peak() const noexcept { return peak_; }

 private:
  void* allocate(std::size_t bytes, std::size_t alignment) {
    void* address = heap_.allocate(heap_.context, bytes, alignment);
    if (address != nullptr) {
      now_ += bytes;
      peak_ = std::max(peak_, now_);
    }
    return address;
  }
  void release(void* address, std::size_t bytes, std::size_t alignment) {
    now_ -= bytes;
    heap_.release(heap_.context, address, bytes, alignment);
  }

  kvcompress::Memory heap_;
  std::size_t now_ = 0;
  std::size_t peak_ = 0;
};

}  // namespace comparison
