// include/kvcompress/core/bounds.hpp - checks that options share: whole numbers and enumerations within their bounds.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

#include "kvcompress/core/error.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// The most rows that a lane can hold, hence the largest number of rows, tokens, pages or chunks that an option may name.
inline constexpr std::size_t most_rows = 0xFFFF'FFFE;

/// Raises an Error unless least <= value <= most; `name` reads like "h2o: recent".
inline void check_bounds(const char* name, std::size_t value, std::size_t least = 0, std::size_t most = most_rows) {
  require(value >= least && value <= most, ErrorCode::option, name, " is ", value, ", must be ", least, " to ", most);
}

/// Raises an Error unless `value` is one of those that names_of knows.
template <class Enum>
void check_named(const char* name, Enum value) {
  constexpr std::size_t count = names_of(Enum{}).size();
  require(static_cast<std::size_t>(value) < count, ErrorCode::option, name, " is ", static_cast<std::size_t>(value),
          ", must be a value of its enumeration, 0 to ", count - 1);
}

}  // namespace kvcompress
