// include/kvcompress/eviction/budget.hpp - how much a lane may keep: rows, a fraction of the prompt, or bytes of the whole cache.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>

#include "kvcompress/core/error.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// A budget of rows per lane. Made from a number of rows, `Budget::fraction(0.2)` of the prompt's tokens, or
/// `Budget::bytes(n)` for the rows of the whole cache (all layers and heads, as the storage holds them).
struct Budget {
  std::size_t rows_of = 0;   ///< rows, if the others are 0
  double fraction_of = 0.0;  ///< of the prompt's tokens that are no padding (see KVCache::end_prompt), in (0, 1]
  std::size_t bytes_of = 0;  ///< bytes over all lanes

  constexpr Budget() noexcept = default;
  template <std::integral Count>
  constexpr explicit(false) Budget(Count rows) noexcept : rows_of(static_cast<std::size_t>(rows)) {}

  [[nodiscard]] static constexpr Budget fraction(double of_prompt) noexcept {
    Budget budget;
    budget.fraction_of = of_prompt;
    return budget;
  }
  [[nodiscard]] static constexpr Budget bytes(std::size_t of_cache) noexcept {
    Budget budget;
    budget.bytes_of = of_cache;
    return budget;
  }
  static void fields(auto& budget, auto&& field) {
    field("rows", budget.rows_of);
    field("fraction", budget.fraction_of);
    field("bytes", budget.bytes_of);
  }

  /// Rows per lane for a prompt of `tokens`; `rows_in(bytes)` says how many rows of one lane fit.
  [[nodiscard]] std::size_t resolve(std::size_t tokens, std::size_t lanes, auto&& rows_in) const {
    if (fraction_of > 0.0) { return std::max<std::size_t>(1, static_cast<std::size_t>(fraction_of * static_cast<double>(tokens))); }
    if (bytes_of > 0) { return std::max<std::size_t>(1, rows_in(bytes_of / lanes)); }
    return rows_of;
  }
  void validate(const char* name) const {
    const int named = (rows_of > 0 ? 1 : 0) + (fraction_of != 0.0 ? 1 : 0) + (bytes_of > 0 ? 1 : 0);
    require(named == 1, ErrorCode::option, name, " is empty or given in two ways, must be rows, a fraction or bytes");
    require(fraction_of >= 0.0 && fraction_of <= 1.0, ErrorCode::option, name, " is a fraction of ", fraction_of, ", must be in (0, 1]");
  }
};

/// How the query heads of a KV head become one score.
enum class Reduction { mean, max, sum };
/// What its values are called, in their order, in names of policies and in saved caches.
constexpr auto names_of(Reduction) noexcept { return std::array{"mean", "max", "sum"}; }

}  // namespace kvcompress
