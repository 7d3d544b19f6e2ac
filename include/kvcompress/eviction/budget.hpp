// include/kvcompress/eviction/budget.hpp - how much a lane may keep: rows, a fraction of the prompt, or bytes of the whole cache.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>

#include "kvcompress/core/bounds.hpp"
#include "kvcompress/core/error.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// A budget of rows per lane. Made from a number of rows, `Budget::fraction(0.2)` of the prompt's tokens, or `Budget::bytes(n)` for the whole
/// cache, all layers and heads: then after the end of a prompt, and after every commit since, memory().total() without scratch is at most n
/// (whoever reserves more rows than fit, or commits more than 32 at once, adds their memory). Too few bytes for one row are an Error.
struct Budget {
  std::size_t rows_of = 0;   ///< rows, if the others are 0
  double fraction_of = 0.0;  ///< of the prompt's tokens that are no padding (see KVCache::end_prompt), in (0, 1]
  std::size_t bytes_of = 0;  ///< of the whole cache

  constexpr Budget() noexcept = default;
  /// 1 to most_rows rows; a negative number is an Error at once, what else is wrong when a cache is made.
  template <std::integral Count>
  constexpr explicit(false) Budget(Count rows) : rows_of(not_negative("rows", rows)) {}

  [[nodiscard]] static constexpr Budget fraction(double of_prompt) noexcept {
    Budget budget;
    budget.fraction_of = of_prompt;
    return budget;
  }
  template <std::integral Count>
  [[nodiscard]] static constexpr Budget bytes(Count of_cache) {
    Budget budget;
    budget.bytes_of = not_negative("bytes", of_cache);
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
    require(named != 0, ErrorCode::option, name, " is 0, must be at least 1 row or byte, or a fraction in (0, 1]");
    require(named == 1, ErrorCode::option, name, " is given in two ways: ", rows_of, " rows, a fraction of ", fraction_of, ", ", bytes_of,
            " bytes, must be one of them");
    require(rows_of <= most_rows, ErrorCode::option, name, " is ", rows_of, " rows, must be at most ", most_rows);
    require(fraction_of >= 0.0 && fraction_of <= 1.0, ErrorCode::option, name, " is a fraction of ", fraction_of, ", must be in (0, 1]");
  }

 private:
  template <std::integral Count>
  static constexpr std::size_t not_negative(const char* what, Count count) {
    if constexpr (std::signed_integral<Count>) {
      require(count >= 0, ErrorCode::option, "budget is ", count, " ", what, ", must be at least 1");
    }
    return static_cast<std::size_t>(count);
  }
};

/// How the query heads of a KV head become one score.
enum class Reduction { mean, max, sum };
/// What its values are called, in their order, in names of policies and in saved caches.
constexpr auto names_of(Reduction) noexcept { return std::array{"mean", "max", "sum"}; }

}  // namespace kvcompress
