// include/kvcompress/quantization/gear/token_scales.hpp - scales of tokens whose codes lie in several lanes, held once for all of them.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>

#include "kvcompress/core/memory.hpp"
#include "kvcompress/core/reference_count.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::gear {

/// Under Kcvt a value token has one scale and one minimum for all heads of the layer: 32/(heads dim) bits per number instead of 32/dim. This
/// begins an allocation [scales: (rows)][minima: (rows)] that lives as long as one of the segments that read it.
template <class Scale>
class alignas(8) TokenScales {
 public:
  static TokenScales* create(std::size_t rows, const Memory& memory) {
    return ::new (static_cast<void*>(Allocator<std::byte>(memory).allocate(bytes_for(rows)))) TokenScales(rows);
  }
  void share() noexcept { count_.add(); }
  void release(const Memory& memory) noexcept {
    if (count_.drop()) { Allocator<std::byte>(memory).deallocate(reinterpret_cast<std::byte*>(this), bytes_for(rows_)); }
  }
  [[nodiscard]] Scale* scales() noexcept { return reinterpret_cast<Scale*>(reinterpret_cast<std::byte*>(this) + sizeof(TokenScales)); }
  [[nodiscard]] Scale* minima() noexcept { return scales() + rows_; }
  static constexpr std::size_t bytes_for(std::size_t rows) noexcept { return sizeof(TokenScales) + 2 * rows * sizeof(Scale); }

 private:
  explicit TokenScales(std::size_t rows) noexcept : rows_(static_cast<std::uint32_t>(rows)) {}

  ReferenceCount count_;
  std::uint32_t rows_;
};

}  // namespace kvcompress::gear
