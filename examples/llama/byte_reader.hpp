// examples/llama/byte_reader.hpp - takes numbers and strings from bytes in order, never past their end.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "error.hpp"

namespace llama {

/// A place in the bytes of a file that moves forward. What does not fit is an Error that names the file and
/// the thing.
class ByteReader {
 public:
  ByteReader(std::string file, std::span<const std::byte> bytes) : file_(std::move(file)), bytes_(bytes) {}

  [[nodiscard]] std::size_t at() const noexcept { return at_; }

  const std::byte* take(std::uint64_t count, std::string_view what) {
    if (count > bytes_.size() - at_) {
      fail("{}: is truncated or corrupt: {} at byte {} needs {} bytes, and the file has {}.", file_, what, at_, count, bytes_.size());
    }
    const std::byte* here = bytes_.data() + at_;
    at_ += static_cast<std::size_t>(count);
    return here;
  }

  template <class T>
  T number(std::string_view what) {
    T result;
    std::memcpy(&result, take(sizeof(T), what), sizeof(T));
    return result;
  }

  /// GGUF's string: a 64-bit length, then the bytes.
  std::string_view string(std::string_view what) {
    const auto length = number<std::uint64_t>(what);
    return {reinterpret_cast<const char*>(take(length, what)), static_cast<std::size_t>(length)};
  }

  // The same for places that were taken before.
  template <class T>
  [[nodiscard]] T peek(std::size_t at) const {
    T result;
    std::memcpy(&result, bytes_.data() + at, sizeof(T));
    return result;
  }
  [[nodiscard]] std::string_view peek_string(std::size_t at) const {
    const auto* text = reinterpret_cast<const char*>(bytes_.data() + at + sizeof(std::uint64_t));
    return {text, static_cast<std::size_t>(peek<std::uint64_t>(at))};
  }

 private:
  std::string file_;
  std::span<const std::byte> bytes_;
  std::size_t at_ = 0;
};

}  // namespace llama
