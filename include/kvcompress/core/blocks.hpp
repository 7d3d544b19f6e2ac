// include/kvcompress/core/blocks.hpp - a list of equal blocks that copies share until one of them writes.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <new>
#include <utility>

#include "kvcompress/core/memory.hpp"
#include "kvcompress/core/reference_count.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Blocks [0, used()) hold data, the rest are spare. Copying shares the used blocks (a reference count lies behind each block's
/// payload); `write` clones a block that somebody else holds too. Only spare blocks beyond `keep` are given back to the handle.
class BlockList {
 public:
  BlockList(std::size_t payload_bytes, const Memory& memory)
      : payload_(bytes_per_block(payload_bytes) - sizeof(Count)), blocks_(Allocator<std::byte*>(memory)) {}

  BlockList(const BlockList& other)
      : payload_(other.payload_), used_(other.used_), keep_(other.keep_), blocks_(other.blocks_.get_allocator()) {
    blocks_.reserve(other.blocks_.size());
    blocks_.assign(other.blocks_.begin(), other.blocks_.begin() + static_cast<std::ptrdiff_t>(used_));
    for (std::byte* block : blocks_) { count(block).add(); }
  }
  BlockList(BlockList&& other) noexcept
      : payload_(other.payload_), used_(std::exchange(other.used_, 0)), keep_(other.keep_), blocks_(std::move(other.blocks_)) {
    other.blocks_.clear();
  }
  BlockList& operator=(BlockList other) noexcept {
    std::swap(payload_, other.payload_);
    std::swap(used_, other.used_);
    std::swap(keep_, other.keep_);
    blocks_.swap(other.blocks_);
    return *this;
  }
  ~BlockList() {
    for (std::byte* block : blocks_) { drop(block); }
  }

  [[nodiscard]] std::size_t used() const noexcept { return used_; }
  [[nodiscard]] const std::byte* read(std::size_t index) const noexcept { return blocks_[index]; }

  /// The block for writing: cloned first if a copy of this list still reads it.
  [[nodiscard]] std::byte* write(std::size_t index) {
    if (shared(blocks_[index])) {
      std::byte* clone = allocate();
      std::memcpy(clone, blocks_[index], payload_);
      drop(std::exchange(blocks_[index], clone));
    }
    return blocks_[index];
  }

  /// How many lists hold a block, this one included.
  [[nodiscard]] std::size_t holders(std::size_t index) const noexcept { return count(blocks_[index]).holders(); }
  /// Whether this list uses that block; likely at `index`.
  [[nodiscard]] bool uses(const std::byte* block, std::size_t index) const noexcept {
    const auto end = blocks_.begin() + static_cast<std::ptrdiff_t>(used_);
    return (index < used_ && blocks_[index] == block) || std::find(blocks_.begin(), end, block) != end;
  }

  /// Makes sure that `used() + more` blocks exist, so that the next `more` calls of grow() allocate nothing.
  void make_room(std::size_t more) {
    if (blocks_.capacity() < used_ + more) { blocks_.reserve(std::max(used_ + more, 2 * blocks_.capacity())); }
    while (blocks_.size() < used_ + more) { blocks_.push_back(allocate()); }
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
  /// Gives up the used blocks [first, first + count): they become spare.
  void erase(std::size_t first, std::size_t count) noexcept {
    const auto begin = blocks_.begin() + static_cast<std::ptrdiff_t>(first);
    std::rotate(begin, begin + static_cast<std::ptrdiff_t>(count), blocks_.begin() + static_cast<std::ptrdiff_t>(used_));
    used_ -= count;
    if (!held_) { return trim(blocks_.size(), std::max(keep_, used_ + 1)); }
    trim(used_ + count, blocks_.size());
    trim_due_ = trim_due_ || count > 0;
  }
  void shrink(std::size_t used) noexcept { erase(used, used_ - used); }

  /// Allocates up to `blocks` blocks in all now and keeps them when they fall out of use.
  void reserve(std::size_t blocks) {
    make_room(blocks > used_ ? blocks - used_ : 0);
    keep(blocks);
  }
  /// Until release(), room that was made stays, whatever falls out of use: what follows make_room cannot fail then.
  void hold() noexcept { held_ = true; }
  void release() noexcept {
    held_ = false;
    if (std::exchange(trim_due_, false)) { trim(blocks_.size(), std::max(keep_, used_ + 1)); }
  }
  /// Takes over blocks that the list which this one was copied from holds alone, as many as it keeps. The other one is done for.
  void take_room(BlockList& from) noexcept {
    const std::size_t limit = std::min(std::max(keep_, used_ + 1), blocks_.capacity());
    from.used_ = 0;
    std::erase_if(from.blocks_, [&](std::byte* block) {
      const bool free = blocks_.size() < limit && !shared(block);
      if (free) { blocks_.push_back(block); }
      return free;
    });
  }
  /// From now on, up to `blocks` blocks in all stay when they fall out of use.
  void keep(std::size_t blocks) noexcept { keep_ = std::max(keep_, blocks); }
  /// Clones every block that a copy holds too.
  void unshare() {
    for (std::size_t index = 0; index < used_; ++index) { static_cast<void>(write(index)); }
  }

  /// Saves or loads (into a new list) `count` blocks; content(block, index) names what one holds to the archive. `between_lanes`: several
  /// lists of a cache may hold the same blocks, which are written once.
  static void persist(auto& self, auto& archive, std::size_t count, bool between_lanes, auto&& content) {
    if constexpr (std::remove_reference_t<decltype(archive)>::reads) {
      archive.expect(count, 1);
      self.blocks_.reserve(std::min<std::size_t>(count, 1U << 16U));
      for (std::size_t index = 0; index < count; ++index) {
        std::byte* held = between_lanes ? archive.template known<std::byte>(self.block_bytes()) : nullptr;
        if (held != nullptr) {
          self.count(held).add();
          self.blocks_.push_back(held);
          ++self.used_;
          continue;
        }
        std::byte* fresh = self.blocks_[self.grow()];
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
  [[nodiscard]] std::size_t block_bytes() const noexcept { return payload_ + sizeof(Count); }

  /// Adds the list's table and spare blocks only: for blocks that several lists of one owner hold.
  void account_table(MemoryReport& report) const noexcept {
    report.indices += used_ * sizeof(std::byte*);
    report.spare += (blocks_.capacity() - used_) * sizeof(std::byte*) + (blocks_.size() - used_) * block_bytes();
  }
  /// Adds the list's table, reference counts, spare blocks and shared bytes; the caller adds what the payloads hold.
  void account(MemoryReport& report) const noexcept {
    account_table(report);
    report.indices += used_ * sizeof(Count);
    for (std::size_t index = 0; index < used_; ++index) { report.shared += shared(blocks_[index]) ? block_bytes() : 0; }
  }

 private:
  using Count = ReferenceCount;

  [[nodiscard]] Count& count(std::byte* block) const noexcept { return *std::launder(reinterpret_cast<Count*>(block + payload_)); }
  [[nodiscard]] bool shared(std::byte* block) const noexcept { return count(block).shared(); }

  std::byte* allocate() {
    std::byte* block = Allocator<std::byte>(blocks_.get_allocator()).allocate(block_bytes());
    ::new (static_cast<void*>(block + payload_)) Count();
    return block;
  }
  void drop(std::byte* block) noexcept {
    if (count(block).drop()) { Allocator<std::byte>(blocks_.get_allocator()).deallocate(block, block_bytes()); }
  }
  /// Drops the spare blocks before `end` that are beyond `limit`. One stays, so that a list that breathes around a block's edge never
  /// allocates; shared spares always go.
  void trim(std::size_t end, std::size_t limit) noexcept {
    for (std::size_t index = end; index > used_; --index) {
      if (index > limit || shared(blocks_[index - 1])) {
        drop(blocks_[index - 1]);
        blocks_.erase(blocks_.begin() + static_cast<std::ptrdiff_t>(index - 1));
      }
    }
  }

  std::size_t payload_ = 0;
  std::size_t used_ = 0;
  std::size_t keep_ = 0;
  bool held_ = false;
  bool trim_due_ = false;  // blocks have fallen out of use while held
  Vector<std::byte*> blocks_;
};

}  // namespace kvcompress
