// include/kvcompress/core/shared.hpp - a value that copies share until one of them writes.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <new>
#include <utility>

#include "kvcompress/core/memory.hpp"
#include "kvcompress/core/reference_count.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// A value on a Memory handle. Copies of the Shared refer to the same value; write() first clones it if others refer to it.
template <class T>
class Shared {
 public:
  template <class... Arguments>
  explicit Shared(const Memory& memory, Arguments&&... arguments)
      : memory_(memory), box_(make(memory, std::forward<Arguments>(arguments)...)) {}
  Shared(const Shared& other) noexcept : memory_(other.memory_), box_(other.box_) { box_->count.add(); }
  Shared(Shared&& other) noexcept : memory_(other.memory_), box_(std::exchange(other.box_, nullptr)) {}
  Shared& operator=(Shared other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(box_, other.box_);
    return *this;
  }
  ~Shared() {
    if (box_ != nullptr && box_->count.drop()) {
      box_->~Box();
      Allocator<Box>(memory_).deallocate(box_, 1);
    }
  }

  [[nodiscard]] const T& read() const noexcept { return box_->value; }
  [[nodiscard]] T& write() {
    if (shared()) { *this = Shared(memory_, std::as_const(box_->value)); }
    return box_->value;
  }
  /// The value for changes that no other holder may be reading: callers make sure of that (see KVCache::fork).
  [[nodiscard]] T& write_in_place() noexcept { return box_->value; }
  [[nodiscard]] std::size_t holders() const noexcept { return box_->count.holders(); }
  [[nodiscard]] bool shared() const noexcept { return box_->count.shared(); }
  static constexpr std::size_t box_bytes() noexcept { return sizeof(Box); }

 private:
  struct Box {
    T value;
    ReferenceCount count{};
    template <class... Arguments>
    explicit Box(Arguments&&... arguments) : value(std::forward<Arguments>(arguments)...) {}
  };

  template <class... Arguments>
  static Box* make(const Memory& memory, Arguments&&... arguments) {
    struct Guard {  // gives the memory back if the constructor throws
      Allocator<Box> allocator;
      Box* box;
      ~Guard() {
        if (box != nullptr) { allocator.deallocate(box, 1); }
      }
    } guard{Allocator<Box>(memory), nullptr};
    guard.box = guard.allocator.allocate(1);
    ::new (static_cast<void*>(guard.box)) Box(std::forward<Arguments>(arguments)...);
    return std::exchange(guard.box, nullptr);
  }

  Memory memory_;
  Box* box_;
};

}  // namespace kvcompress
