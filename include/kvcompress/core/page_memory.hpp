// include/kvcompress/core/page_memory.hpp - the memory behind the default handle: what is released goes back to the system.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <new>

#include "kvcompress/core/abi.hpp"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define KVCOMPRESS_CHECKED_HEAP
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define KVCOMPRESS_CHECKED_HEAP  // a sanitizer sees only what comes from the heap
#endif

#if defined(__linux__) && !defined(KVCOMPRESS_CHECKED_HEAP)
#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#define KVCOMPRESS_PAGE_MEMORY
#endif
#undef KVCOMPRESS_CHECKED_HEAP

namespace kvcompress::inline KVCOMPRESS_ABI {

#ifdef KVCOMPRESS_PAGE_MEMORY

/// Memory by pages of the system. A heap keeps what a prompt needed: the blocks that stay lie among those that go. Here requests of 256 bytes to
/// 512 KiB come from regions of 4 MiB, each with slots of one size (at most a 64th larger than asked for above 4 KiB, at most 63 bytes below),
/// lowest first, so that blocks asked for one after another lie side by side. Free pages go back to the system when more than 1 MiB and a 16th
/// of what is held is free. Larger requests are mappings of their own. Any thread may call; the address space of other allocators is not
/// touched.
///
/// Huge pages are asked for by larger requests and when a size fills its fifth region: below, half a huge page too many would count.
class PageMemory {
 public:
  static constexpr std::size_t smallest = 256;
  static constexpr std::size_t largest = std::size_t{512} << 10U;  ///< of a slot

  /// Null if the system refuses. Aligned to 64 bytes.
  [[nodiscard]] void* allocate(std::size_t bytes) noexcept {
    if (bytes > largest) { return map(bytes, bytes >= region_bytes); }
    const Lock lock(mutex_);
    const std::size_t size = class_of(bytes);
    Region* region = open_[size];
    if (region == nullptr) {
      region = open_region(size, slot_bytes(bytes));
      if (region == nullptr) { return nullptr; }
    }
    const std::size_t clean = std::min(region->dirty, region->slot);
    region->dirty -= clean;
    dirty_ -= clean;
    held_ += region->slot;
    const std::size_t slot = region->take();
    if (region->used == region->slots) { unlink(open_[size], *region, &Region::open); }
    return region->at(slot);
  }
  /// `bytes`: as asked for.
  void release(void* address, std::size_t bytes) noexcept {
    if (bytes > largest) {
      ::munmap(address, rounded(bytes));
      return;
    }
    const Lock lock(mutex_);
    auto* region = reinterpret_cast<Region*>(reinterpret_cast<std::uintptr_t>(address) & ~(std::uintptr_t{region_bytes} - 1));
    if (region->used == region->slots) { link(open_[region->size], *region, &Region::open); }
    if (!region->listed) { link(dirty_regions_, *region, &Region::dirty_list); }
    region->listed = true;
    region->give(address);
    region->dirty += region->slot;
    dirty_ += region->slot;
    held_ -= region->slot;
    if (dirty_ > std::max(std::size_t{1} << 20U, held_ / 16)) { purge(); }
  }

 private:
  static constexpr std::size_t page_bytes = 4096;  // a multiple of it is a multiple of larger pages' parts; madvise refuses others
  static constexpr std::size_t region_bytes = std::size_t{4} << 20U;
  static constexpr std::size_t classes = 64 + 7 * 64 + 1;

  struct Region;
  struct Links {
    Region* next = nullptr;
    Region* before = nullptr;
  };
  /// The first page of its memory; the slots begin behind it.
  struct Region {
    std::size_t size;   // its class
    std::size_t slot;   // bytes
    std::size_t slots;  // of the region
    std::size_t used;
    std::size_t dirty;                                  // bytes released since the last purge, at most
    std::size_t first;                                  // no word of `taken` before it has a free bit
    bool huge;                                          // it has asked for huge pages
    Links open;                                         // regions of a class that have free slots
    bool listed;                                        // in the list of those
    Links dirty_list;                                   // regions with dirty bytes
    std::uint64_t taken[region_bytes / smallest / 64];  // a bit per slot

    [[nodiscard]] std::byte* at(std::size_t index) noexcept { return reinterpret_cast<std::byte*>(this) + page_bytes + index * slot; }
    [[nodiscard]] bool holds(std::size_t index) const noexcept { return (taken[index / 64] >> (index % 64) & 1U) != 0; }
    [[nodiscard]] std::size_t take() noexcept {
      while (taken[first] == ~std::uint64_t{0}) { ++first; }
      const auto bit = static_cast<std::size_t>(std::countr_one(taken[first]));
      taken[first] |= std::uint64_t{1} << bit;
      ++used;
      return first * 64 + bit;
    }
    void give(void* address) noexcept {
      const std::size_t index = static_cast<std::size_t>(static_cast<std::byte*>(address) - at(0)) / slot;
      taken[index / 64] &= ~(std::uint64_t{1} << (index % 64));
      first = std::min(first, index / 64);
      --used;
    }
  };
  static_assert(sizeof(Region) <= page_bytes);

  struct Lock {
    explicit Lock(pthread_mutex_t& mutex) noexcept : held(mutex) { ::pthread_mutex_lock(&held); }
    Lock(const Lock&) = delete;
    Lock& operator=(const Lock&) = delete;
    ~Lock() { ::pthread_mutex_unlock(&held); }
    pthread_mutex_t& held;
  };

  static constexpr std::size_t rounded(std::size_t bytes) noexcept { return (bytes + page_bytes - 1) / page_bytes * page_bytes; }
  /// 64 sizes below 4 KiB, and 64 in every doubling above.
  static constexpr std::size_t slot_bytes(std::size_t bytes) noexcept {
    const std::size_t step = std::max<std::size_t>(64, std::bit_floor(bytes) / 64);
    return std::max((bytes + step - 1) / step * step, smallest);
  }
  static constexpr std::size_t class_of(std::size_t bytes) noexcept {
    const std::size_t slot = slot_bytes(bytes);
    if (slot <= 4096) { return slot / 64; }
    const auto doubling = static_cast<std::size_t>(std::bit_width(slot - 1)) - 13;  // 0 for 4 KiB up to 8
    return 64 + doubling * 64 + (slot - (std::size_t{4096} << doubling)) / (std::size_t{64} << doubling);
  }
  static void* map(std::size_t bytes, bool huge) noexcept {
    if (bytes > PTRDIFF_MAX - page_bytes) { return nullptr; }
    void* address = ::mmap(nullptr, rounded(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (address == MAP_FAILED) { return nullptr; }
    if (huge) { static_cast<void>(::madvise(address, rounded(bytes), MADV_HUGEPAGE)); }
    return address;
  }

  Region* open_region(std::size_t size, std::size_t slot) noexcept {
    auto* place = static_cast<std::byte*>(map(2 * region_bytes, false));
    if (place == nullptr) { return nullptr; }
    const std::size_t before = (region_bytes - reinterpret_cast<std::uintptr_t>(place) % region_bytes) % region_bytes;
    if (before > 0) { ::munmap(place, before); }
    place += before;
    ::munmap(place + region_bytes, region_bytes - before);
    const bool huge = regions_[size] >= 4;
    if (huge) { static_cast<void>(::madvise(place, region_bytes, MADV_HUGEPAGE)); }
    const std::size_t slots = (region_bytes - page_bytes) / slot;
    auto* region = ::new (static_cast<void*>(place)) Region{size, slot, slots, 0, 0, 0, huge, {}, false, {}, {}};
    if (slots % 64 != 0) { region->taken[slots / 64] = ~std::uint64_t{0} << (slots % 64); }  // slots that are not there
    ++regions_[size];
    link(open_[size], *region, &Region::open);
    return region;
  }
  /// Gives free pages back. A region without slots in use goes.
  void purge() noexcept {
    while (dirty_regions_ != nullptr) {
      Region& region = *dirty_regions_;
      unlink(dirty_regions_, region, &Region::dirty_list);
      region.dirty = 0;
      region.listed = false;
      if (region.used == 0) {
        unlink(open_[region.size], region, &Region::open);
        --regions_[region.size];
        ::munmap(&region, region_bytes);
      } else {
        purge(region);
      }
    }
    dirty_ = 0;
  }
  static void purge(Region& region) noexcept {
    if (region.huge) { static_cast<void>(::madvise(&region, region_bytes, MADV_NOHUGEPAGE)); }  // or the system joins its pages again
    region.huge = false;
    for (std::size_t index = 0; index < region.slots;) {
      std::size_t end = index;
      while (end < region.slots && !region.holds(end)) { ++end; }
      const std::uintptr_t first = rounded(reinterpret_cast<std::uintptr_t>(region.at(index)));
      const std::uintptr_t last = reinterpret_cast<std::uintptr_t>(region.at(end)) / page_bytes * page_bytes;
      if (first < last) { static_cast<void>(::madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED)); }
      index = end + 1;
    }
  }

  static void link(Region*& head, Region& region, Links Region::*list) noexcept {
    (region.*list) = {head, nullptr};
    if (head != nullptr) { (head->*list).before = &region; }
    head = &region;
  }
  static void unlink(Region*& head, Region& region, Links Region::*list) noexcept {
    const Links links = region.*list;
    (links.before != nullptr ? (links.before->*list).next : head) = links.next;
    if (links.next != nullptr) { (links.next->*list).before = links.before; }
  }

  pthread_mutex_t mutex_ = PTHREAD_MUTEX_INITIALIZER;
  std::size_t held_ = 0;   // bytes of slots in use
  std::size_t dirty_ = 0;  // of all regions
  Region* dirty_regions_ = nullptr;
  Region* open_[classes] = {};
  std::uint32_t regions_[classes] = {};
};

namespace detail {
/// One for the process: no constructor runs, and no destructor, so that caches of any lifetime may use it.
inline constinit PageMemory pages{};
}  // namespace detail

#endif

namespace detail {

/// What the default handle gives and takes.
inline void* allocate(std::size_t bytes, std::size_t alignment) noexcept {
#ifdef KVCOMPRESS_PAGE_MEMORY
  if (bytes >= PageMemory::smallest && alignment <= 64) { return pages.allocate(bytes); }
#endif
  return ::operator new(bytes, std::align_val_t(alignment), std::nothrow);
}
inline void release(void* address, std::size_t bytes, std::size_t alignment) noexcept {
#ifdef KVCOMPRESS_PAGE_MEMORY
  if (bytes >= PageMemory::smallest && alignment <= 64) { return pages.release(address, bytes); }
#endif
  static_cast<void>(bytes);
  ::operator delete(address, std::align_val_t(alignment));
}

}  // namespace detail

}  // namespace kvcompress
