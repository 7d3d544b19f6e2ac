// include/kvcompress/core/unnamed_file.hpp - a file without a name, whose space is reserved before it is written (Linux, POSIX).
// SPDX-License-Identifier: MIT
#pragma once

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <string_view>
#include <system_error>

#include "kvcompress/core/error.hpp"
#include "kvcompress/core/memory.hpp"
#include "kvcompress/core/reference_count.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// The system calls below UnnamedFile, each repeated until it is done. An `int` they return is 0 or the errno of the failure.
namespace file {

/// The way for file systems without O_TMPFILE (NFS, FUSE, FAT): the file has a name for a moment. A descriptor, or -1 and errno.
[[nodiscard]] inline int open_and_unlink(const char* directory) noexcept {
  char path[PATH_MAX];
  const int length = std::snprintf(path, sizeof path, "%s/kvcompress-XXXXXX", directory);
  if (length < 0 || static_cast<std::size_t>(length) >= sizeof path) {
    errno = ENAMETOOLONG;
    return -1;
  }
  const int descriptor = ::mkostemp(path, O_CLOEXEC);
  if (descriptor >= 0 && ::unlink(path) != 0) {
    const int code = errno;
    ::close(descriptor);
    errno = code;
    return -1;
  }
  return descriptor;
}

/// A new file that only its descriptor reaches: the system frees it even if the process is killed. A descriptor, or -1 and errno.
[[nodiscard]] inline int open_unnamed(const char* directory) noexcept {
  // O_EXCL: nobody can give the file a name later.
  const int descriptor = ::open(directory, O_TMPFILE | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
  // Systems disagree on the errno of a missing O_TMPFILE, so every failure tries the other way, whose errno counts.
  return descriptor >= 0 ? descriptor : open_and_unlink(directory);
}

[[nodiscard]] inline int write_all(int descriptor, std::size_t offset, const std::byte* from, std::size_t bytes) noexcept {
  while (bytes > 0) {
    const ssize_t done = ::pwrite(descriptor, from, bytes, static_cast<off_t>(offset));
    if (done < 0 && errno == EINTR) { continue; }
    if (done <= 0) { return done < 0 ? errno : EIO; }
    from += done;
    offset += static_cast<std::size_t>(done);
    bytes -= static_cast<std::size_t>(done);
  }
  return 0;
}

/// Returns -1 where the file ends before the last byte.
[[nodiscard]] inline int read_all(int descriptor, std::size_t offset, std::byte* to, std::size_t bytes) noexcept {
  while (bytes > 0) {
    const ssize_t done = ::pread(descriptor, to, bytes, static_cast<off_t>(offset));
    if (done < 0 && errno == EINTR) { continue; }
    if (done <= 0) { return done < 0 ? errno : -1; }
    to += done;
    offset += static_cast<std::size_t>(done);
    bytes -= static_cast<std::size_t>(done);
  }
  return 0;
}

[[nodiscard]] inline int write_zeros(int descriptor, std::size_t bytes, std::size_t offset = 0) noexcept {
  static constexpr std::byte zeros[16384] = {};
  int code = 0;
  for (std::size_t done = 0; done < bytes && code == 0; done += sizeof zeros) {
    code = write_all(descriptor, offset + done, zeros, std::min(sizeof zeros, bytes - done));
  }
  return code;
}

/// Gives a file that ends at or before `offset` the disk of `bytes` bytes from there on, so that writing them later cannot meet a full one.
[[nodiscard]] inline int reserve(int descriptor, std::size_t bytes, std::size_t offset = 0) noexcept {
  rlimit limit{};
  // Asked first, because to exceed the limit is to be sent SIGXFSZ, which ends a process that does not expect it.
  if (::getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY && offset + bytes > limit.rlim_cur) { return EFBIG; }
  int code = 0;
  do { code = ::posix_fallocate(descriptor, static_cast<off_t>(offset), static_cast<off_t>(bytes)); } while (code == EINTR);
  return code == EOPNOTSUPP || code == EINVAL ? write_zeros(descriptor, bytes, offset) : code;
}

}  // namespace file

/// An unnamed file in a directory, which grows at its end. Copies share the file; the last one closes it. Several threads may read and grow it.
/// Not mapped into memory: a failing disk is then an Error, not SIGBUS. Memory: one allocation, with the directory's name.
class UnnamedFile {
 public:
  /// No file.
  explicit UnnamedFile(const Memory& memory) noexcept : memory_(memory) {}

  /// A file of `bytes` bytes; none for 0. The other constructor has run before anything here fails, so the destructor closes the file then.
  UnnamedFile(std::string_view directory, std::size_t bytes, const Memory& memory) : UnnamedFile(memory) {
    if (bytes == 0) { return; }
    std::byte* place = Allocator<std::byte>(memory_).allocate(sizeof(Held) + directory.size() + 1);
    held_ = ::new (static_cast<void*>(place)) Held{{}, -1, 0, directory.size()};
    std::copy_n(directory.data(), directory.size(), name());
    name()[directory.size()] = '\0';
    held_->descriptor = file::open_unnamed(name());
    check(held_->descriptor >= 0 ? 0 : errno, "create a file of ", bytes);
    static_cast<void>(grow(bytes));
  }
  UnnamedFile(const UnnamedFile& other) noexcept : memory_(other.memory_), held_(other.held_) {
    if (held_ != nullptr) { held_->holders.add(); }
  }
  UnnamedFile& operator=(const UnnamedFile&) = delete;
  ~UnnamedFile() {
    if (held_ == nullptr || !held_->holders.drop()) { return; }
    if (held_->descriptor >= 0) { ::close(held_->descriptor); }
    Allocator<std::byte>(memory_).deallocate(reinterpret_cast<std::byte*>(held_), bytes_held());
  }

  [[nodiscard]] const Memory& memory() const noexcept { return memory_; }
  [[nodiscard]] bool shared() const noexcept { return held_ != nullptr && held_->holders.shared(); }
  [[nodiscard]] std::string_view directory() const noexcept {
    return held_ == nullptr ? std::string_view() : std::string_view(name(), held_->name_bytes);
  }

  /// Adds `bytes` bytes at the end and returns where they begin.
  [[nodiscard]] std::size_t grow(std::size_t bytes) {
    require(bytes <= PTRDIFF_MAX / 2, ErrorCode::io, "the slow tier could not reserve ", bytes, " bytes: no file is as long");
    const std::size_t offset = __atomic_fetch_add(&held_->end, bytes, __ATOMIC_RELAXED);
    const int code = file::reserve(held_->descriptor, bytes, offset);
    if (code != 0) { give_back(offset, bytes); }
    check(code, "reserve ", bytes);
    return offset;
  }
  /// Nobody needs these bytes any more: the disk has them back, where the file system can do that.
  void give_back(std::size_t offset, std::size_t bytes) noexcept {
    std::size_t end = offset + bytes;
    __atomic_compare_exchange_n(&held_->end, &end, offset, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
#ifdef FALLOC_FL_PUNCH_HOLE
    static_cast<void>(
        ::fallocate(held_->descriptor, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset), static_cast<off_t>(bytes)));
#endif
  }

  /// After an Error, the bytes in this range are in any state, the others as before.
  void write(std::size_t offset, const std::byte* from, std::size_t bytes) {
    check(file::write_all(held_->descriptor, offset, from, bytes), "write ", bytes);
  }
  void read(std::size_t offset, std::byte* to, std::size_t bytes) const {
    check(file::read_all(held_->descriptor, offset, to, bytes), "read ", bytes);
  }

  /// Adds what the handle gave to indices.
  void account(MemoryReport& report) const noexcept { report.indices += held_ == nullptr ? 0 : bytes_held(); }

 private:
  /// The directory's name follows, with its terminating zero.
  struct Held {
    ReferenceCount holders;
    int descriptor;
    std::size_t end;
    std::size_t name_bytes;
  };

  [[nodiscard]] std::size_t bytes_held() const noexcept { return sizeof(Held) + held_->name_bytes + 1; }
  [[nodiscard]] char* name() const noexcept { return reinterpret_cast<char*>(held_ + 1); }
  /// The directory stands last, because it alone can be long enough to be cut.
  void check(int code, std::string_view operation, std::size_t bytes) const {
    if (code == 0) [[likely]] { return; }
    fail(ErrorCode::io, "the slow tier could not ", operation, bytes,
         " bytes: ", code < 0 ? "the file ends early" : std::generic_category().message(code), ", in directory \"", directory(), "\"");
  }

  Memory memory_;
  Held* held_ = nullptr;
};

}  // namespace kvcompress
