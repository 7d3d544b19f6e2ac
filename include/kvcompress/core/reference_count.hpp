// include/kvcompress/core/reference_count.hpp - how many hold a shared block, counted safely across threads.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

#include "kvcompress/core/abi.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Holders of something that copies share. The compilers' builtins, because `<atomic>` alone costs a tenth of the umbrella's compile time.
class ReferenceCount {
 public:
  void add() noexcept { __atomic_add_fetch(&count_, 1U, __ATOMIC_RELAXED); }
  /// Gives up one; true for the last.
  [[nodiscard]] bool drop() noexcept { return __atomic_sub_fetch(&count_, 1U, __ATOMIC_ACQ_REL) == 0; }
  [[nodiscard]] bool shared() const noexcept { return holders() > 1; }
  [[nodiscard]] std::uint32_t holders() const noexcept { return __atomic_load_n(&count_, __ATOMIC_ACQUIRE); }

 private:
  std::uint32_t count_ = 1;
};

}  // namespace kvcompress
