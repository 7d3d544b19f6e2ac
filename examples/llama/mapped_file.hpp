// examples/llama/mapped_file.hpp - a file as read-only bytes: mapped where possible, else read.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>
#include <utility>

#include "error.hpp"

#if defined(__unix__) || defined(__APPLE__)
#define LLAMA_HAS_MMAP 1
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#else
#include <fstream>
#include <memory>
#endif

namespace llama {

/// The bytes of a file for as long as the object lives. Move-only; the bytes keep their address when it is
/// moved.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);
  MappedFile(MappedFile&& other) noexcept { swap(other); }
  MappedFile& operator=(MappedFile&& other) noexcept {
    swap(other);
    return *this;
  }
  ~MappedFile();

  [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return {data_, size_}; }

 private:
  void swap(MappedFile& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
#if !defined(LLAMA_HAS_MMAP)
    std::swap(copy_, other.copy_);
#endif
  }

  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
#if !defined(LLAMA_HAS_MMAP)
  std::unique_ptr<std::byte[]> copy_;
#endif
};

#if defined(LLAMA_HAS_MMAP)

inline MappedFile::MappedFile(const std::filesystem::path& path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) { fail("{}: cannot be opened: {}.", path.string(), std::strerror(errno)); }
  struct ::stat status {};
  const bool regular = ::fstat(file, &status) == 0 && S_ISREG(status.st_mode);
  if (!regular || status.st_size <= 0) {
    ::close(file);
    fail("{}: is {}.", path.string(), regular ? "empty" : "not a regular file");
  }
  size_ = static_cast<std::size_t>(status.st_size);
  void* mapped = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0);
  const int error = errno;
  ::close(file);  // the mapping keeps the file alive
  if (mapped == MAP_FAILED) { fail("{}: {} bytes cannot be mapped: {}.", path.string(), size_, std::strerror(error)); }
  data_ = static_cast<const std::byte*>(mapped);
}

inline MappedFile::~MappedFile() {
  if (data_ != nullptr) { ::munmap(const_cast<std::byte*>(data_), size_); }
}

#else

inline MappedFile::MappedFile(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  const std::streamoff end = file ? static_cast<std::streamoff>(file.tellg()) : -1;
  if (end < 0) { fail("{}: cannot be opened.", path.string()); }
  if (end == 0) { fail("{}: is empty.", path.string()); }
  size_ = static_cast<std::size_t>(end);
  copy_ = std::make_unique<std::byte[]>(size_);
  file.seekg(0);
  if (!file.read(reinterpret_cast<char*>(copy_.get()), end)) { fail("{}: {} bytes cannot be read.", path.string(), size_); }
  data_ = copy_.get();
}

inline MappedFile::~MappedFile() = default;

#endif

}  // namespace llama
