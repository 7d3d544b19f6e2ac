// include/kvcompress/core/error.hpp - the one error type: a code and a sentence with argument, value and bound.
// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstddef>
#include <exception>
#include <string_view>

#include "kvcompress/core/abi.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

enum class ErrorCode {
  shape,     ///< a size, head count or dimension that does not fit the cache
  option,    ///< an option outside its range, or an unknown policy or option name
  input,     ///< NaN, infinity or a value that the storage cannot hold
  phase,     ///< a verb in the wrong phase (attend before append, commit before end_prompt, ...)
  position,  ///< a position that is not newer than the rows before it, or out of range
  memory,    ///< the memory handle returned no memory
  io,        ///< the slow tier's file could not be created, reserved, written or read; a sink or source of a saved cache failed
  format,    ///< a saved cache is damaged, cut short, of another format, or of another policy, option or shape than the cache
};

/// Text of at most 1535 characters, formed without allocating; what does not fit is cut.
class Sentence {
 public:
  void add(std::string_view part) noexcept {
    const std::size_t count = part.size() < capacity - length_ ? part.size() : capacity - length_;
    for (std::size_t i = 0; i < count; ++i) { text_[length_ + i] = part[i]; }
    length_ += count;
    text_[length_] = '\0';
  }
  template <std::integral Number>
  void add(Number number) noexcept {
    char digits[24];
    add_formatted(
        digits, __builtin_snprintf(digits, sizeof digits, std::signed_integral<Number> ? "%lld" : "%llu", static_cast<long long>(number)));
  }
  void add(double number) noexcept {
    char digits[24];
    add_formatted(digits, __builtin_snprintf(digits, sizeof digits, "%.9g", number));
  }
  [[nodiscard]] const char* c_str() const noexcept { return text_; }

 private:
  static constexpr std::size_t capacity = 1535;
  void add_formatted(const char* digits, int count) noexcept { add(std::string_view(digits, static_cast<std::size_t>(count))); }

  char text_[capacity + 1] = {};
  std::size_t length_ = 0;
};

/// What every public function of the library raises; the object it was called on is unchanged afterwards.
class Error : public std::exception {
 public:
  Error(ErrorCode code, const Sentence& sentence) noexcept : code_(code), sentence_(sentence) {}
  [[nodiscard]] ErrorCode code() const noexcept { return code_; }
  [[nodiscard]] const char* what() const noexcept override { return sentence_.c_str(); }

 private:
  ErrorCode code_;
  Sentence sentence_;
};

/// Receives errors in programs compiled with -fno-exceptions; it must not return (the library aborts if it does).
using ErrorHandler = void (*)(const Error&);

/// The handler in force, to read or to set. Used only where exceptions are off.
inline ErrorHandler& error_handler() noexcept {
  static ErrorHandler handler = nullptr;
  return handler;
}

/// Raises an Error whose sentence is the parts (texts and numbers) written one after the other: throws it, or hands it to
/// error_handler() where exceptions are off.
template <class... Parts>
[[noreturn]] void fail(ErrorCode code, const Parts&... parts) {
  Sentence sentence;
  sentence.add("kvcompress: ");
  (sentence.add(parts), ...);
#if defined(__cpp_exceptions)
  throw Error(code, sentence);
#else
  const Error error(code, sentence);
  if (error_handler() != nullptr) { error_handler()(error); }
  __builtin_abort();
#endif
}

/// Raises that Error unless `condition` holds; the sentence is formed only then.
template <class... Parts>
void require(bool condition, ErrorCode code, const Parts&... parts) {
  if (!condition) [[unlikely]] { fail(code, parts...); }
}

}  // namespace kvcompress
