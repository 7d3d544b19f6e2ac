// include/kvcompress/kernels/quads.hpp - scattered numbers meet four queries at a time: the queries' numbers lie side by side.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kvcompress/kernels/exact.hpp"

/// Measured on Zen 4 with GCC 12, GEAR at 4 bits with 2 % outliers, 4 queries, head size 128, cold, in ns per token and KV head; 24 as it is:
/// - sums of a row in a register, stored where the row changes, which is mispredicted at every row: 38.
/// - add_entries inlined: 26. Dot products of the four columns of a, one after the other: 25.
namespace kvcompress::inline KVCOMPRESS_ABI::kernels {

/// quads[4 * i + q] = from[q * stride + i] for `queries` (up to 4) rows of `count` numbers; 0 where there is no query.
inline void to_quads(const float* from, std::size_t stride, std::size_t queries, std::size_t count, float* quads) noexcept {
  namespace vec = simd::native;
  std::size_t i = 0;
  for (; queries == 4 && i + 4 <= count; i += 4) {
    vec::quad a = vec::load_quad(from + i);
    vec::quad b = vec::load_quad(from + stride + i);
    vec::quad c = vec::load_quad(from + 2 * stride + i);
    vec::quad d = vec::load_quad(from + 3 * stride + i);
    vec::transpose(a, b, c, d);
    vec::store(quads + 4 * i, a);
    vec::store(quads + 4 * i + 4, b);
    vec::store(quads + 4 * i + 8, c);
    vec::store(quads + 4 * i + 12, d);
  }
  for (; i < count; ++i) {
    for (std::size_t q = 0; q < 4; ++q) { quads[4 * i + q] = q < queries ? from[q * stride + i] : 0.0F; }
  }
}

/// to[q * stride + i] += quads[4 * i + q], likewise.
inline void add_quads(const float* quads, std::size_t queries, std::size_t count, float* to, std::size_t stride) noexcept {
  namespace vec = simd::native;
  std::size_t i = 0;
  for (; queries == 4 && i + 4 <= count; i += 4) {
    vec::quad a = vec::load_quad(quads + 4 * i);
    vec::quad b = vec::load_quad(quads + 4 * i + 4);
    vec::quad c = vec::load_quad(quads + 4 * i + 8);
    vec::quad d = vec::load_quad(quads + 4 * i + 12);
    vec::transpose(a, b, c, d);
    vec::store(to + i, vec::add(vec::load_quad(to + i), a));
    vec::store(to + stride + i, vec::add(vec::load_quad(to + stride + i), b));
    vec::store(to + 2 * stride + i, vec::add(vec::load_quad(to + 2 * stride + i), c));
    vec::store(to + 3 * stride + i, vec::add(vec::load_quad(to + 3 * stride + i), d));
  }
  for (; i < count; ++i) {
    for (std::size_t q = 0; q < queries; ++q) { to[q * stride + i] += quads[4 * i + q]; }
  }
}

/// sums[4 * to[i] + q] += numbers[i] * quads[4 * from[i] + q] for `count` entries, one after the other. Out of line: where it is inlined
/// GCC 12 keeps its pointers on the stack.
template <class Number, class From, class To>
[[gnu::noinline]] inline void add_entries(const Number* numbers, const From* from, const To* to, std::size_t count, const float* quads,
                                          float* sums) noexcept {
  namespace vec = simd::native;
  constexpr std::size_t at_once = 64;
  float wide[at_once];
  for (std::size_t first = 0; first < count; first += at_once) {
    const std::size_t now = std::min(at_once, count - first);
    widen(numbers + first, wide, now);
    for (std::size_t i = 0; i < now; ++i) {
      float* sum = sums + 4 * std::size_t{to[first + i]};
      vec::store(sum, vec::fma(wide[i], vec::load_quad(quads + 4 * std::size_t{from[first + i]}), vec::load_quad(sum)));
    }
  }
}

}  // namespace kvcompress::kernels
