// include/kvcompress/core/shared_numbers.hpp - a cache's own copy of numbers that its caller handed in by pointer.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstring>
#include <new>
#include <type_traits>
#include <utility>

#include "kvcompress/core/memory.hpp"
#include "kvcompress/core/reference_count.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Numbers that never change, on a Memory handle. Copies share them; the last one gives them back. Memory: the numbers and 64 bytes.
template <class T>
class SharedNumbers {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  /// Copies `count` numbers; none if `from` is null.
  SharedNumbers(const T* from, std::size_t count, const Memory& memory) : memory_(memory), count_(from == nullptr ? 0 : count) {
    if (count_ == 0) { return; }
    place_ = Allocator<std::byte>(memory_).allocate(bytes());
    ::new (static_cast<void*>(place_)) ReferenceCount();
    std::memcpy(place_ + header, from, count_ * sizeof(T));
  }
  SharedNumbers(const SharedNumbers& other) noexcept : memory_(other.memory_), count_(other.count_), place_(other.place_) {
    if (place_ != nullptr) { holders().add(); }
  }
  SharedNumbers(SharedNumbers&& other) noexcept
      : memory_(other.memory_), count_(std::exchange(other.count_, 0)), place_(std::exchange(other.place_, nullptr)) {}
  SharedNumbers& operator=(SharedNumbers other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(count_, other.count_);
    std::swap(place_, other.place_);
    return *this;
  }
  ~SharedNumbers() {
    if (place_ != nullptr && holders().drop()) { Allocator<std::byte>(memory_).deallocate(place_, bytes()); }
  }

  /// The first number, or null.
  [[nodiscard]] const T* data() const noexcept {
    return place_ == nullptr ? nullptr : std::launder(reinterpret_cast<const T*>(place_ + header));
  }
  [[nodiscard]] std::size_t bytes() const noexcept { return bytes_for(count_); }
  [[nodiscard]] static constexpr std::size_t bytes_for(std::size_t count) noexcept { return count == 0 ? 0 : header + count * sizeof(T); }
  void account(MemoryReport& report) const noexcept {
    report.indices += bytes();
    if (place_ != nullptr && holders().shared()) { report.shared += bytes(); }
  }

 private:
  static constexpr std::size_t header = memory_alignment;

  [[nodiscard]] ReferenceCount& holders() const noexcept { return *std::launder(reinterpret_cast<ReferenceCount*>(place_)); }

  Memory memory_;
  std::size_t count_;
  std::byte* place_ = nullptr;
};

}  // namespace kvcompress
