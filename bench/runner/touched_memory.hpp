// bench/runner/touched_memory.hpp - memory that has been written before, as an engine's pool has.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <memory_resource>
#include <vector>

#include "kvcompress/core/memory.hpp"

namespace bench {

/// Gives a cache memory without page faults, which else are most of what a growing one is timed for.
class TouchedMemory {
 public:
  TouchedMemory()
      : bytes_(size, std::byte{1}), fresh_(bytes_.data(), bytes_.size()), pool_({.largest_required_pool_block = largest_block}, &fresh_) {}
  TouchedMemory(const TouchedMemory&) = delete;
  TouchedMemory& operator=(const TouchedMemory&) = delete;

  /// Lives as long as this.
  [[nodiscard]] kvcompress::Memory handle() {
    return {.allocate = [](void* pool, std::size_t bytes, std::size_t alignment) { return of(pool).allocate(bytes, alignment); },
            .release = [](void* pool, void* address, std::size_t bytes,
                          std::size_t alignment) { of(pool).deallocate(address, bytes, alignment); },
            .context = &pool_};
  }

 private:
  static constexpr std::size_t size = std::size_t{256} << 20U;
  static constexpr std::size_t largest_block = std::size_t{1} << 20U;

  static std::pmr::unsynchronized_pool_resource& of(void* pool) noexcept {
    return *static_cast<std::pmr::unsynchronized_pool_resource*>(pool);
  }

  std::vector<std::byte> bytes_;
  std::pmr::monotonic_buffer_resource fresh_;
  std::pmr::unsynchronized_pool_resource pool_;
};

}  // namespace bench
