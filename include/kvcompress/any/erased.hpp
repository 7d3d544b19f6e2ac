// include/kvcompress/any/erased.hpp - values whose type is known at run time only, and what is chosen for each lane.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>
#include <vector>

#include "kvcompress/core/memory.hpp"
#include "kvcompress/core/site.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

/// How a value is copied and given up; part of every table of functions whose values Erased holds, as `holding`.
struct Holding {
  std::size_t bytes;
  void (*copy)(void* room, const void* from);
  void (*destroy)(void* value) noexcept;
};
template <class T>
inline constexpr Holding holding_of = {sizeof(T), [](void* room, const void* from) { ::new (room) T(*static_cast<const T*>(from)); },
                                       [](void* value) noexcept { static_cast<T*>(value)->~T(); }};

/// A value on a Memory handle with the table of functions that know its type.
template <class Ops>
class Erased {
 public:
  /// make(room) constructs the value that `ops` knows at `room`.
  template <class Make>
  Erased(const Ops& ops, const Memory& memory, Make&& make) : ops_(&ops), memory_(memory) {
    Room room{*this, allocate()};
    make(room.address);
    value_ = std::exchange(room.address, nullptr);
  }
  Erased(const Erased& other) : Erased(*other.ops_, other.memory_, [&](void* room) { other.ops_->holding.copy(room, other.value_); }) {}
  Erased(Erased&& other) noexcept : ops_(other.ops_), memory_(other.memory_), value_(std::exchange(other.value_, nullptr)) {}
  Erased& operator=(Erased other) noexcept {
    std::swap(ops_, other.ops_);
    std::swap(memory_, other.memory_);
    std::swap(value_, other.value_);
    return *this;
  }
  ~Erased() {
    if (value_ == nullptr) { return; }
    ops_->holding.destroy(value_);
    release(value_);
  }

  [[nodiscard]] const Ops& ops() const noexcept { return *ops_; }
  [[nodiscard]] void* get() noexcept { return value_; }
  [[nodiscard]] const void* get() const noexcept { return value_; }
  /// The value, if it is known to be a T.
  template <class T>
  [[nodiscard]] T& as() noexcept {
    return *static_cast<T*>(value_);
  }
  template <class T>
  [[nodiscard]] const T& as() const noexcept {
    return *static_cast<const T*>(value_);
  }
  void account(MemoryReport& report) const noexcept { report.indices += ops_->holding.bytes; }

 private:
  struct Room {  // given back if the constructor throws
    Erased& owner;
    void* address;
    ~Room() {
      if (address != nullptr) { owner.release(address); }
    }
  };
  void* allocate() const { return Allocator<unsigned char>(memory_).allocate(ops_->holding.bytes); }
  void release(void* value) const noexcept {
    Allocator<unsigned char>(memory_).deallocate(static_cast<unsigned char*>(value), ops_->holding.bytes);
  }

  const Ops* ops_;
  Memory memory_;
  void* value_ = nullptr;
};

/// A part that is chosen at run time: its functions, and its options, which copies share.
template <class Ops>
struct Choice {
  const Ops* ops = nullptr;
  std::shared_ptr<const void> options{};
};

/// What is chosen for every lane of a cache.
template <class Ops>
struct Choices {
  std::vector<Choice<Ops>> entries{};
  std::vector<std::uint16_t> of_lane{};  ///< (layers, KV heads) which entry; empty: every lane has the first

  [[nodiscard]] std::size_t entry_of(const Site& site) const noexcept { return of_lane.empty() ? 0 : of_lane[site.lane()]; }
  [[nodiscard]] const Choice<Ops>& at(const Site& site) const noexcept { return entries[entry_of(site)]; }

  /// Raises an Error unless every lane of the shape has an entry, and entries come in the order of their first lanes, as saved caches need.
  void validate(const char* axis, const Shape& shape) const {
    const std::size_t lanes = shape.lanes();
    require(!entries.empty(), ErrorCode::option, axis, ": entries is empty, must name a part");
    require(of_lane.empty() || of_lane.size() == lanes, ErrorCode::option, axis, ": of_lane has ", of_lane.size(),
            " entries, must have one for each of the ", lanes, " lanes");
    std::size_t used = of_lane.empty() ? 1 : 0;
    for (const std::size_t entry : of_lane) {
      require(entry <= used, ErrorCode::option, axis, ": of_lane names entry ", entry, " before entry ", used,
              ", must name entries in the order of their first lanes");
      used = std::max(used, entry + 1);
    }
    require(used == entries.size(), ErrorCode::option, axis, ": there are ", entries.size(), " entries, must be the ", used,
            " that lanes have");
    for (const Choice<Ops>& entry : entries) {
      require(entry.ops != nullptr && entry.options != nullptr, ErrorCode::option, axis, ": an entry is empty, must name a part");
    }
  }
};

}  // namespace kvcompress::detail
