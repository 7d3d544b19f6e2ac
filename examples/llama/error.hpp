// examples/llama/error.hpp - the one kind of error of this engine: a sentence.
// SPDX-License-Identifier: MIT
#pragma once

#include <fmt/format.h>

#include <cstddef>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace llama {

/// Everything that can go wrong (a file, an argument) arrives as this, with the name, the value and the bound
/// in `what()`.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Throws an Error with a formatted sentence.
template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> sentence, Args&&... args) {
  throw Error(fmt::format(sentence, std::forward<Args>(args)...));
}

/// Text of a file for a message: in quotes, short, and without bytes that a terminal would act on.
inline std::string in_quotes(std::string_view text) {
  constexpr std::size_t most = 60;
  std::string result = "\"";
  for (const char c : text.substr(0, most)) { result += c >= ' ' && c <= '~' ? c : '?'; }
  return result + (text.size() > most ? "...\"" : "\"");
}

}  // namespace llama
