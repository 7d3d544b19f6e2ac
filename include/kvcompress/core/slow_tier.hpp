// include/kvcompress/core/slow_tier.hpp - bytes that are written once and read seldom, in RAM or in a file (Linux, POSIX).
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "kvcompress/core/error.hpp"
#include "kvcompress/core/memory.hpp"
#include "kvcompress/core/shared.hpp"
#include "kvcompress/core/soon_needed.hpp"
#include "kvcompress/core/unnamed_file.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Where a slow tier lives: in RAM from the cache's memory handle, or in unnamed files in `directory`.
struct SlowTier {
  std::string directory{};  ///< empty: RAM

  [[nodiscard]] bool in_file() const noexcept { return !directory.empty(); }
  friend bool operator==(const SlowTier&, const SlowTier&) = default;
};

static_assert(std::semiregular<SlowTier>);

/// Bytes of a slow tier, written once and read many times, also by several threads at once. Copies share them until one writes
/// or unshares. All space is taken by the constructor: later writes to an own region meet neither a full disk nor a refusing handle. Regions
/// made beside each other lie in one file, which their last one closes.
class SlowRegion {
 public:
  /// Holds no bytes.
  explicit SlowRegion(const Memory& memory) : store_(memory, memory) {}
  /// `bytes` zeros in `tier`; in the file of `beside`, if there is one.
  SlowRegion(const SlowTier& tier, std::size_t bytes, const Memory& memory, const SlowRegion* beside = nullptr)
      : store_(memory, tier, bytes, memory, beside == nullptr ? nullptr : &beside->store_.read()) {}

  [[nodiscard]] std::size_t bytes() const noexcept { return store_.read().bytes(); }

  /// Unshares first. After an Error, the bytes in this range are in any state, the others as before.
  void write(std::size_t offset, const void* from, std::size_t bytes) {
    check(offset, bytes);
    if (bytes == 0) { return; }
    Store& store = store_.write();
    if (store.ram.empty()) { return store.file.write(store.offset + offset, static_cast<const std::byte*>(from), bytes); }
    std::memcpy(store.ram.data() + offset, from, bytes);
  }
  void read(std::size_t offset, void* to, std::size_t bytes) const {
    check(offset, bytes);
    if (bytes == 0) { return; }
    const Store& store = store_.read();
    if (store.ram.empty()) { return store.file.read(store.offset + offset, static_cast<std::byte*>(to), bytes); }
    std::memcpy(to, store.ram.data() + offset, bytes);
  }

  /// Asks for bytes that will be read soon; a file is not asked.
  void fetch(std::size_t offset, std::size_t bytes) const noexcept {
    const Store& store = store_.read();
    if (offset + bytes <= store.ram.size()) { fetch_soon(store.ram.data() + offset, bytes); }
  }

  [[nodiscard]] bool shared() const noexcept { return store_.shared(); }
  /// Copies the bytes if a copy of this region holds them too, into a file of their own or that of `beside`; after an Error they are still
  /// shared.
  void unshare(const SlowRegion* beside = nullptr) {
    if (!shared()) { return; }
    const Memory& memory = store_.read().memory();
    store_ = Shared<Store>(memory, store_.read(), beside == nullptr ? nullptr : &beside->store_.read());
  }

  /// Copies of one region are written once. Loaded into `tier`, wherever it was before, and into the file of `beside`, if there is one.
  static void persist(auto& self, auto& archive, const SlowTier& tier, const SlowRegion* beside = nullptr) {
    std::size_t count = self.bytes();
    archive.number(count);
    if constexpr (std::remove_reference_t<decltype(archive)>::reads) {
      if (const SlowRegion* known = archive.template known<SlowRegion>(count); known != nullptr) {
        self = *known;
        return;
      }
      archive.expect(count, 1);
      self = SlowRegion(tier, count, archive.memory(), beside);
      archive.pieces(count, [&self](std::size_t offset, const std::byte* from, std::size_t size) { self.write(offset, from, size); });
      archive.remember(&self, count);
    } else if (archive.first(&self.store_.read(), count)) {
      archive.pieces(count, [&self](std::size_t offset, std::byte* to, std::size_t size) { self.read(offset, to, size); });
    }
  }

  /// A file that copies share is reported by each of them. `own` of the copies belong to the owner of the report.
  void account(MemoryReport& report, std::size_t own = 1) const noexcept {
    const std::size_t before = report.total();
    const Store& store = store_.read();
    report.slow_tier += store.ram.size();
    report.indices += Shared<Store>::box_bytes();
    report.slow_file += store.in_file;
    if (store.offset == 0) { store.file.account(report); }  // the first of the regions in a file
    if (store_.holders() > own) { report.shared += report.total() - before; }
  }

 private:
  struct Store {  // in RAM or in a file
    Vector<std::byte> ram;
    UnnamedFile file;
    std::size_t offset = 0;   // in the file
    std::size_t in_file = 0;  // bytes there

    explicit Store(const Memory& memory) noexcept : ram(Allocator<std::byte>(memory)), file(memory) {}
    Store(const SlowTier& tier, std::size_t bytes, const Memory& memory, const Store* beside)
        : ram(checked(tier.in_file() ? 0 : bytes), Allocator<std::byte>(memory)),
          file(file_for(tier.directory, tier.in_file() ? bytes : 0, memory, beside)) {
      take(tier.in_file() ? bytes : 0, beside);
    }
    Store(const Store& other) : Store(other, nullptr) {}
    Store(const Store& other, const Store* beside)
        : ram(other.ram), file(file_for(other.file.directory(), other.in_file, other.memory(), beside)) {
      take(other.in_file, beside);
      std::byte part[16384];
      for (std::size_t done = 0; done < in_file; done += sizeof part) {
        const std::size_t count = std::min(sizeof part, in_file - done);
        other.file.read(other.offset + done, part, count);
        file.write(offset + done, part, count);
      }
    }
    Store& operator=(const Store&) = delete;
    ~Store() {
      if (in_file > 0 && file.shared()) { file.give_back(offset, in_file); }
    }

    [[nodiscard]] const Memory& memory() const noexcept { return file.memory(); }
    [[nodiscard]] std::size_t bytes() const noexcept { return ram.size() + in_file; }
    static UnnamedFile file_for(std::string_view directory, std::size_t bytes, const Memory& memory, const Store* beside) {
      return bytes > 0 && beside != nullptr && beside->in_file > 0 ? beside->file : UnnamedFile(directory, bytes, memory);
    }
    void take(std::size_t bytes, const Store* beside) {
      if (bytes > 0 && beside != nullptr && beside->in_file > 0) { offset = file.grow(bytes); }
      in_file = bytes;
    }
    /// What no vector can hold would be the standard library's own exception.
    static std::size_t checked(std::size_t bytes) {
      require(bytes <= PTRDIFF_MAX, ErrorCode::memory, "a slow tier in RAM cannot have ", bytes, " bytes");
      return bytes;
    }
  };

  void check(std::size_t offset, std::size_t bytes) const {
    require(offset <= this->bytes() && bytes <= this->bytes() - offset, ErrorCode::input, "bytes [", offset, ", ", offset, " + ", bytes,
            ") are not in a slow tier of ", this->bytes(), " bytes");
  }

  Shared<Store> store_;
};

}  // namespace kvcompress
