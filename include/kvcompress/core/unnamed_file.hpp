// include/kvcompress/core/unnamed_file.hpp - a file without a name, whose whole space is reserved when it is made (Linux, POSIX).
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
#include <string_view>
#include <system_error>

#include "kvcompress/core/error.hpp"
#include "kvcompress/core/memory.hpp"

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

[[nodiscard]] inline int write_zeros(int descriptor, std::size_t bytes) noexcept {
  static constexpr std::byte zeros[16384] = {};
  int code = 0;
  for (std::size_t offset = 0; offset < bytes && code == 0; offset += sizeof zeros) {
    code = write_all(descriptor, offset, zeros, std::min(sizeof zeros, bytes - offset));
  }
  return code;
}

/// Gives an empty file `bytes` bytes of disk, so that writing them later cannot meet a full one.
[[nodiscard]] inline int reserve(int descriptor, std::size_t bytes) noexcept {
  rlimit limit{};
  // Asked first, because to exceed the limit is to be sent SIGXFSZ, which ends a process that does not expect it.
  if (::getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY && bytes > limit.rlim_cur) { return EFBIG; }
  int code = 0;
  do { code = ::posix_fallocate(descriptor, 0, static_cast<off_t>(bytes)); } while (code == EINTR);
  return code == EOPNOTSUPP || code == EINVAL ? write_zeros(descriptor, bytes) : code;
}

}  // namespace file

/// `bytes` bytes in an unnamed file in `directory`. Reads from several threads are safe. Not mapped into memory: a failing disk
/// is then an Error, not SIGBUS. Copying copies the contents into a file of its own.
class UnnamedFile {
 public:
  /// No file.
  explicit UnnamedFile(const Memory& memory) noexcept : directory_(Allocator<char>(memory)) {}

  /// The other constructor has run before anything here fails, so the destructor closes the file then.
  UnnamedFile(std::string_view directory, std::size_t bytes, const Memory& memory) : UnnamedFile(memory) {
    if (bytes == 0) { return; }
    directory_.reserve(directory.size() + 1);
    directory_.assign(directory.begin(), directory.end());
    directory_.push_back('\0');
    descriptor_ = file::open_unnamed(directory_.data());
    check(descriptor_ >= 0 ? 0 : errno, "create a file of ", bytes);
    check(bytes <= PTRDIFF_MAX ? file::reserve(descriptor_, bytes) : EFBIG, "reserve ", bytes);
    bytes_ = bytes;
  }
  UnnamedFile(const UnnamedFile& other) : UnnamedFile(other.directory(), other.bytes_, other.directory_.get_allocator().memory) {
    std::byte part[16384];
    for (std::size_t offset = 0; offset < bytes_; offset += sizeof part) {
      const std::size_t count = std::min(sizeof part, bytes_ - offset);
      other.read(offset, part, count);
      write(offset, part, count);
    }
  }
  UnnamedFile& operator=(const UnnamedFile&) = delete;
  ~UnnamedFile() {
    if (descriptor_ >= 0) { ::close(descriptor_); }
  }

  [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }

  /// After an Error, the bytes in this range are in any state, the others as before.
  void write(std::size_t offset, const std::byte* from, std::size_t bytes) {
    check(file::write_all(descriptor_, offset, from, bytes), "write ", bytes);
  }
  void read(std::size_t offset, std::byte* to, std::size_t bytes) const {
    check(file::read_all(descriptor_, offset, to, bytes), "read ", bytes);
  }

  /// Adds what the handle gave, the directory's name, to indices.
  void account(MemoryReport& report) const noexcept {
    report.slow_file += bytes_;
    report.add(&MemoryReport::indices, directory_);
  }

 private:
  [[nodiscard]] std::string_view directory() const noexcept {
    return directory_.empty() ? std::string_view() : std::string_view(directory_.data(), directory_.size() - 1);
  }
  /// The directory stands last, because it alone can be long enough to be cut.
  void check(int code, std::string_view operation, std::size_t bytes) const {
    if (code == 0) [[likely]] { return; }
    fail(ErrorCode::io, "the slow tier could not ", operation, bytes,
         " bytes: ", code < 0 ? "the file ends early" : std::generic_category().message(code), ", in directory \"", directory(), "\"");
  }

  Vector<char> directory_;  // with its terminating zero; empty: no file
  std::size_t bytes_ = 0;
  int descriptor_ = -1;
};

}  // namespace kvcompress
