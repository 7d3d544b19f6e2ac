// include/kvcompress/core/no_state.hpp - the State of parts that remember nothing about rows.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

#include "kvcompress/core/memory.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Remembers nothing about rows.
struct NoState {
  static void reserve(std::size_t) noexcept {}
  static void resize(std::size_t) noexcept {}
  static void move(std::size_t, std::size_t) noexcept {}
  static void erase(std::size_t, std::size_t) noexcept {}
  static void compact(std::size_t) noexcept {}
  static void account(MemoryReport&) noexcept {}
  static void persist(auto&, auto&, std::size_t) noexcept {}
};

}  // namespace kvcompress
