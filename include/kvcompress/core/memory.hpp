// include/kvcompress/core/memory.hpp - the one source of memory, and the report of what was taken from it.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <new>
#include <vector>

#include "kvcompress/core/error.hpp"
#include "kvcompress/core/page_memory.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Where a cache gets its memory: two functions and a context, by value. `allocate` may return null: that becomes an Error. The default gives
/// what is released back to the system (Linux; elsewhere it is the heap): see PageMemory.
struct Memory {
  void* (*allocate)(void* context, std::size_t bytes, std::size_t alignment) =
      [](void*, std::size_t bytes, std::size_t alignment) -> void* { return detail::allocate(bytes, alignment); };
  void (*release)(void* context, void* address, std::size_t bytes, std::size_t alignment) =
      [](void*, void* address, std::size_t bytes, std::size_t alignment) { detail::release(address, bytes, alignment); };
  void* context = nullptr;

  /// Raises an Error unless both functions are there.
  void validate() const {
    require(allocate != nullptr && release != nullptr, ErrorCode::input, "memory: ", allocate == nullptr ? "allocate" : "release",
            " is null, must be a function");
  }

  friend bool operator==(const Memory&, const Memory&) noexcept = default;
};

/// Alignment of everything the library allocates: one cache line, and the widest vector register.
inline constexpr std::size_t memory_alignment = 64;

/// The standard-library face of a Memory handle.
template <class T>
struct Allocator {
  using value_type = T;
  using propagate_on_container_move_assignment = std::true_type;
  using propagate_on_container_copy_assignment = std::true_type;
  using propagate_on_container_swap = std::true_type;

  Memory memory{};

  Allocator() = default;
  explicit Allocator(const Memory& source) noexcept : memory(source) {}
  template <class U>
  explicit(false) Allocator(const Allocator<U>& other) noexcept : memory(other.memory) {}

  T* allocate(std::size_t count) {
    void* address = memory.allocate(memory.context, count * sizeof(T), memory_alignment);
    require(address != nullptr, ErrorCode::memory, "the memory handle has no ", count * sizeof(T), " bytes");
    return static_cast<T*>(address);
  }
  void deallocate(T* address, std::size_t count) noexcept { memory.release(memory.context, address, count * sizeof(T), memory_alignment); }
  template <class U>
  friend bool operator==(const Allocator& a, const Allocator<U>& b) noexcept {
    return a.memory == b.memory;
  }
};

/// A std::vector that lives on a Memory handle.
template <class T>
using Vector = std::vector<T, Allocator<T>>;

/// Room for `count` elements in a vector that grows step by step: a quarter more than is needed now, so that growing costs a constant time per
/// element. The first time exactly `count`.
template <class T>
void reserve_growing(Vector<T>& vector, std::size_t count) {
  if (count > vector.capacity()) { vector.reserve(std::max(count, vector.capacity() + vector.capacity() / 4)); }
}

/// Bytes taken from the handle, split by purpose. Every member counts bytes.
struct MemoryReport {
  std::size_t codes = 0;         ///< packed integer codes
  std::size_t scales = 0;        ///< scales and minima of the codes
  std::size_t exact_rows = 0;    ///< rows in 16 or 32 bits
  std::size_t factors = 0;       ///< low-rank factors and bases
  std::size_t outliers = 0;      ///< exact outliers and their indices
  std::size_t positions = 0;     ///< positions and slots of rows, where they are not implied
  std::size_t policy_state = 0;  ///< what a policy remembers: scores, observed queries
  std::size_t indices = 0;       ///< block tables and lane headers
  std::size_t scratch = 0;       ///< buffers that hold nothing between calls
  std::size_t slow_tier = 0;     ///< bytes of the slow tier in RAM
  std::size_t spare = 0;         ///< allocated and not yet used: rest of a block, capacity of a vector
  std::size_t shared = 0;        ///< part of the above that a fork holds too (not added to the total again)
  std::size_t slow_file = 0;     ///< reserved in files of the slow tier; not from the handle, so not in the total

  /// Everything the handle gave to this cache, blocks shared with forks included.
  [[nodiscard]] std::size_t total() const noexcept {
    return codes + scales + exact_rows + factors + outliers + positions + policy_state + indices + scratch + slow_tier + spare;
  }
  /// The total without the slow tier: what attention reads at full speed.
  [[nodiscard]] std::size_t fast() const noexcept { return total() - slow_tier; }

  /// Adds another cache's bytes.
  void add(const MemoryReport& other) noexcept {
    for (const auto purpose :
         {&MemoryReport::codes, &MemoryReport::scales, &MemoryReport::exact_rows, &MemoryReport::factors, &MemoryReport::outliers,
          &MemoryReport::positions, &MemoryReport::policy_state, &MemoryReport::indices, &MemoryReport::scratch, &MemoryReport::slow_tier,
          &MemoryReport::spare, &MemoryReport::shared, &MemoryReport::slow_file}) {
      this->*purpose += other.*purpose;
    }
  }

  /// Calls add(*this); if `all_shared`, everything that it adds is held by a fork too.
  template <class Add>
  void add_held(bool all_shared, Add&& add) noexcept {
    const std::size_t total_before = total();
    const std::size_t shared_before = shared;
    add(*this);
    if (all_shared) { shared = shared_before + total() - total_before; }
  }
  /// Adds a vector's memory: its elements to `purpose`, the unused rest of its capacity to spare; of scratch all to scratch.
  template <class T>
  void add(std::size_t MemoryReport::*purpose, const Vector<T>& vector) noexcept {
    this->*purpose += vector.size() * sizeof(T);
    (purpose == &MemoryReport::scratch ? scratch : spare) += (vector.capacity() - vector.size()) * sizeof(T);
  }
};

}  // namespace kvcompress
