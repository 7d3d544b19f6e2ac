// include/kvcompress/core/blocks.hpp - a list of equal blocks that copies share until one of them writes.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstring>
#include <new>
#include <utility>

#include "kvcompress/core/memory.hpp"
#include "kvcompress/core/reference_count.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Blocks [0, used()) hold data, the rest are spare. Copying shares the used blocks (a reference count lies behind each block's
/// payload); `write` clones a block that somebody else holds too. Only spare blocks beyond `keep`, and one, are given back to the handle.
///
/// Cost: blocks leave at either end in constant time, in the middle in that of the shorter side. The table of blocks is a ring of a power of
/// two, at most max(32, 4 * blocks) places.
class BlockList {
 public:
  BlockList(std::size_t payload_bytes, const Memory& memory) : payload_(bytes_per_block(payload_bytes) - sizeof(Count)), memory_(memory) {}

  BlockList(const BlockList& other) : payload_(other.payload_), keep_(other.keep_), spare_(other.spare_), memory_(other.memory_) {
    make_table(other.held_);
    for (; used_ < other.used_; ++used_) {
      place(used_) = other.place(used_);
      count(place(used_)).add();
    }
    held_ = used_;
  }
  BlockList(BlockList&& other) noexcept : BlockList(other.payload_, other.memory_) { swap(other); }
  BlockList& operator=(BlockList other) noexcept {
    swap(other);
    return *this;
  }
  ~BlockList() {
    for (std::size_t index = 0; index < held_; ++index) { drop(place(index)); }
    give_back(table_, places_);
  }

  [[nodiscard]] std::size_t used() const noexcept { return used_; }
  [[nodiscard]] const std::byte* read(std::size_t index) const noexcept { return place(index); }

  /// The block for writing: cloned first if a copy of this list still reads it.
  [[nodiscard]] std::byte* write(std::size_t index) {
    std::byte*& block = place(index);
    if (shared(block)) { clone(block); }
    return block;
  }

  /// How many lists hold a block, this one included.
  [[nodiscard]] std::size_t holders(std::size_t index) const noexcept { return count(place(index)).holders(); }
  /// Whether this list uses that block; likely at `index`.
  [[nodiscard]] bool uses(const std::byte* block, std::size_t index) const noexcept {
    if (index < used_ && place(index) == block) { return true; }
    for (std::size_t i = 0; i < used_; ++i) {
      if (place(i) == block) { return true; }
    }
    return false;
  }

  /// Makes sure that `used() + more` blocks exist, so that the next `more` calls of grow() allocate nothing.
  void make_room(std::size_t more) {
    if (places_ < used_ + more) { make_table(used_ + more); }
    for (; held_ < used_ + more; ++held_) { place(held_) = allocate(); }
  }
  /// Takes one more block into use and returns its index.
  std::size_t grow() {
    make_room(1);
    return used_++;
  }
  /// The same, with zeros in it: what is not written later is saved too.
  void grow_zeroed() {
    const std::size_t index = grow();
    std::memset(write(index), 0, payload_);
  }
  /// Gives up the used blocks [first, first + count): they become spare, or go. One spare block stays, so that a list that breathes around a
  /// block's edge never allocates; shared ones always go.
  void erase(std::size_t first, std::size_t count) noexcept {
    const std::size_t after = used_ - first - count;
    const std::size_t limit = room_stays_ ? held_ : std::max(keep_, used_ - count + spare_);
    used_ -= count;
    trim_due_ = trim_due_ || (room_stays_ && count > 0);
    if (first < after) {
      for (std::size_t i = first; i-- > 0;) { std::swap(place(i), place(i + count)); }
      for (std::size_t i = 0; i < count; ++i) {
        std::byte* block = place(0);
        first_ = (first_ + 1) & (places_ - 1);
        if (held_ > limit || shared(block)) {
          --held_;
          drop(block);
        } else {
          place(held_ - 1) = block;  // behind the other spare ones
        }
      }
    } else {
      for (std::size_t i = first; i < used_; ++i) { std::swap(place(i), place(i + count)); }
      for (std::size_t i = used_ + count; i-- > used_;) {
        if (!shared(place(i))) { continue; }
        drop(std::exchange(place(i), place(held_ - 1)));
        --held_;
      }
    }
    if (!room_stays_) { trim(); }
  }
  void shrink(std::size_t used) noexcept { erase(used, used_ - used); }

  /// Allocates up to `blocks` blocks in all now and keeps them when they fall out of use.
  void reserve(std::size_t blocks) {
    make_room(blocks > used_ ? blocks - used_ : 0);
    keep(blocks);
  }
  /// Until release(), room that was made stays, whatever falls out of use: what follows make_room cannot fail then.
  void hold() noexcept { room_stays_ = true; }
  void release() noexcept {
    room_stays_ = false;
    if (std::exchange(trim_due_, false)) { trim(); }
  }
  /// Takes over blocks that the list which this one was copied from holds alone, as many as it keeps. The other one is done for.
  void take_room(BlockList& from) noexcept {
    const std::size_t limit = std::min(std::max(keep_, used_ + spare_), places_);
    std::size_t left = 0;
    for (std::size_t index = 0; index < from.held_; ++index) {
      std::byte* block = from.place(index);
      (held_ < limit && !shared(block) ? place(held_++) : from.place(left++)) = block;
    }
    from.used_ = 0;
    from.held_ = left;
  }
  /// From now on, up to `blocks` blocks in all stay when they fall out of use.
  void keep(std::size_t blocks) noexcept { keep_ = std::max(keep_, blocks); }
  /// From now on exactly those: no other block stays when it falls out of use.
  void keep_exactly(std::size_t blocks) noexcept {
    keep_ = blocks;
    spare_ = 0;
  }
  /// Clones every block that a copy holds too.
  void unshare() {
    for (std::size_t index = 0; index < used_; ++index) { static_cast<void>(write(index)); }
  }

  /// Saves or loads (into a new list) `count` blocks; content(block, index) names what one holds to the archive. `between_lanes`: several
  /// lists of a cache may hold the same blocks, which are written once.
  static void persist(auto& self, auto& archive, std::size_t count, bool between_lanes, auto&& content) {
    if constexpr (std::remove_reference_t<decltype(archive)>::reads) {
      archive.expect(count, 1);
      if (count > 0) { self.make_table(std::min<std::size_t>(count, 1U << 16U)); }
      for (std::size_t index = 0; index < count; ++index) {
        std::byte* held = between_lanes ? archive.template known<std::byte>(self.block_bytes()) : nullptr;
        if (held != nullptr) {
          self.count(held).add();
          if (self.places_ == self.used_) { self.make_table(2 * self.used_); }
          self.place(self.used_++) = held;
          self.held_ = self.used_;
          continue;
        }
        std::byte* fresh = self.place(self.grow());
        if (index + 1 == count) { std::memset(fresh, 0, self.payload_); }  // it may not be full
        content(fresh, index);
        if (between_lanes) { archive.remember(fresh, self.block_bytes()); }
      }
    } else {
      for (std::size_t index = 0; index < count; ++index) {
        if (!between_lanes || archive.first(self.read(index), self.block_bytes())) { content(self.read(index), index); }
      }
    }
  }

  /// Bytes of one block as the handle sees it: the payload and a reference count.
  [[nodiscard]] static constexpr std::size_t bytes_per_block(std::size_t payload_bytes) noexcept {
    return (payload_bytes + alignof(Count) - 1) / alignof(Count) * alignof(Count) + sizeof(Count);
  }
  /// What a list of at most `blocks` blocks, spare ones included, takes.
  [[nodiscard]] static constexpr std::size_t most_bytes(std::size_t blocks, std::size_t payload_bytes) noexcept {
    return blocks * bytes_per_block(payload_bytes) + std::max<std::size_t>(32, 4 * blocks) * sizeof(std::byte*);
  }
  [[nodiscard]] std::size_t block_bytes() const noexcept { return payload_ + sizeof(Count); }

  /// Adds the list's table and spare blocks only: for blocks that several lists of one owner hold.
  void account_table(MemoryReport& report) const noexcept {
    report.indices += used_ * sizeof(std::byte*);
    report.spare += (places_ - used_) * sizeof(std::byte*) + (held_ - used_) * block_bytes();
  }
  /// Adds the list's table, reference counts, spare blocks and shared bytes; the caller adds what the payloads hold.
  void account(MemoryReport& report) const noexcept {
    account_table(report);
    report.indices += used_ * sizeof(Count);
    for (std::size_t index = 0; index < used_; ++index) { report.shared += shared(place(index)) ? block_bytes() : 0; }
  }

 private:
  using Count = ReferenceCount;

  [[nodiscard]] Count& count(std::byte* block) const noexcept { return *std::launder(reinterpret_cast<Count*>(block + payload_)); }
  [[nodiscard]] bool shared(std::byte* block) const noexcept { return count(block).shared(); }

  [[nodiscard]] std::byte*& place(std::size_t index) noexcept { return table_[(first_ + index) & (places_ - 1)]; }
  [[nodiscard]] std::byte* place(std::size_t index) const noexcept { return table_[(first_ + index) & (places_ - 1)]; }
  void swap(BlockList& other) noexcept {
    std::swap(payload_, other.payload_);
    std::swap(used_, other.used_);
    std::swap(held_, other.held_);
    std::swap(keep_, other.keep_);
    std::swap(spare_, other.spare_);
    std::swap(room_stays_, other.room_stays_);
    std::swap(trim_due_, other.trim_due_);
    std::swap(memory_, other.memory_);
    std::swap(first_, other.first_);
    std::swap(places_, other.places_);
    std::swap(table_, other.table_);
  }

  std::byte* allocate() {
    std::byte* block = Allocator<std::byte>(memory_).allocate(block_bytes());
    ::new (static_cast<void*>(block + payload_)) Count();
    return block;
  }
  /// Apart, so that write is short enough to be part of its callers.
  [[gnu::noinline]] void clone(std::byte*& block) {
    std::byte* own = allocate();
    std::memcpy(own, block, payload_);
    drop(std::exchange(block, own));
  }
  void drop(std::byte* block) noexcept {
    if (count(block).drop()) { Allocator<std::byte>(memory_).deallocate(block, block_bytes()); }
  }
  /// Drops the spare blocks that need not stay.
  void trim() noexcept {
    const std::size_t limit = std::max(keep_, used_ + spare_);
    while (held_ > limit) { drop(place(--held_)); }
    if (places_ > 32 && places_ >= 4 * held_) { shrink_table(); }
  }

  void make_table(std::size_t blocks) {
    if (blocks == 0) { return; }
    const std::size_t places = std::bit_ceil(blocks);
    adopt_table(Allocator<std::byte*>(memory_).allocate(places), places);
  }
  /// If the handle refuses, the table stays as long as it is.
  void shrink_table() noexcept {
    const std::size_t places = std::bit_ceil(std::max<std::size_t>(held_, 15) + 1);
    void* table = memory_.allocate(memory_.context, places * sizeof(std::byte*), memory_alignment);
    if (table != nullptr) { adopt_table(static_cast<std::byte**>(table), places); }
  }
  void adopt_table(std::byte** table, std::size_t places) noexcept {
    for (std::size_t index = 0; index < held_; ++index) { table[index] = place(index); }
    give_back(std::exchange(table_, table), std::exchange(places_, places));
    first_ = 0;
  }
  void give_back(std::byte** table, std::size_t places) noexcept {
    if (table != nullptr) { Allocator<std::byte*>(memory_).deallocate(table, places); }
  }

  std::size_t payload_ = 0;
  std::size_t used_ = 0;
  std::size_t held_ = 0;  // used and spare
  std::size_t keep_ = 0;
  bool room_stays_ = false;  // between hold and release
  bool trim_due_ = false;    // blocks have fallen out of use since hold
  std::size_t spare_ = 1;    // that stay in any case
  Memory memory_;
  std::size_t first_ = 0;   // place of the first block
  std::size_t places_ = 0;  // a power of two, or 0
  std::byte** table_ = nullptr;
};

}  // namespace kvcompress
