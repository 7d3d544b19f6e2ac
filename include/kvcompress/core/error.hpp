// include/kvcompress/core/error.hpp - the one error type: a code and a sentence with argument, value and bound.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstdlib>
#include <exception>
#include <string>
#include <utility>

namespace kvcompress {

enum class ErrorCode {
  shape,     ///< a size, head count or dimension that does not fit the cache
  option,    ///< an option outside its range, or an unknown policy or option name
  input,     ///< NaN, infinity or a value that the storage cannot hold
  phase,     ///< a verb in the wrong phase (attend before append, commit before end_prompt, ...)
  position,  ///< a position that is not newer than the rows before it, or out of range
  memory,    ///< the memory handle returned no memory
};

/// What every public function of the library raises; the object it was called on is unchanged afterwards.
class Error : public std::exception {
 public:
  Error(ErrorCode code, std::string sentence) : code_(code), sentence_(std::move(sentence)) {}
  [[nodiscard]] ErrorCode code() const noexcept { return code_; }
  [[nodiscard]] const char* what() const noexcept override { return sentence_.c_str(); }

 private:
  ErrorCode code_;
  std::string sentence_;
};

/// Receives errors in programs compiled with -fno-exceptions; it must not return (the library aborts if it does).
using ErrorHandler = void (*)(const Error&);

/// The handler in force, to read or to set. Used only where exceptions are off.
inline ErrorHandler& error_handler() noexcept {
  static ErrorHandler handler = nullptr;
  return handler;
}

/// Raises an Error: throws it, or hands it to error_handler() where exceptions are off.
[[noreturn]] inline void fail(ErrorCode code, std::string sentence) {
#if defined(__cpp_exceptions)
  throw Error(code, std::move(sentence));
#else
  const Error error(code, std::move(sentence));
  if (error_handler() != nullptr) { error_handler()(error); }
  std::abort();
#endif
}

namespace detail {

inline std::string text(std::string part) { return part; }
inline std::string text(const char* part) { return part; }
template <class Number>
std::string text(Number number) {
  return std::to_string(number);
}

}  // namespace detail

/// Raises an Error whose sentence is the parts written one after the other; the parts are formed only on failure.
template <class... Parts>
void require(bool condition, ErrorCode code, const Parts&... parts) {
  if (!condition) [[unlikely]] { fail(code, (std::string("kvcompress: ") + ... + detail::text(parts))); }
}

}  // namespace kvcompress
