// include/kvcompress/kernels/codes.hpp - products of codes with queries and probabilities, which become weights.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kvcompress/core/accumulation.hpp"
#include "kvcompress/kernels/exact.hpp"
#include "kvcompress/kernels/outlier_channels.hpp"
#include "kvcompress/kernels/softmax.hpp"
#include "kvcompress/kernels/strip_dots.hpp"
#include "kvcompress/kernels/vectors.hpp"

/// A number is code * scale + minimum. So a dot product of such numbers with x is sum of code * weight + offset, with weight = x * scale and
/// offset = sum of x * minimum. Integer weights are in units of a step that the caller chooses, and codes are met centred, as code - centre
/// (half the largest code), which halves what rounding a weight costs; what that leaves out joins the offset.
///
/// Measured on Zen 4 with GCC 12 at 4 queries, head size 128, 4 bits, from the third-level cache, in ns per token and KV head; near_exact 15.3 (16.4
/// where keys have outlier channels), fast 11.7, exact 28, of which the multiply-adds alone are 8.7, 4.4 and 17.5:
/// - near_exact as two 8-bit terms, w = high + low / 254: 21.3, when it took 17.2.
/// - units for every query and group, not for every query and stretch of rows: 2.5 more.
/// - scales and minima widened to fp32 first, folded from there: 1 more.
/// - weights multiplied, converted, packed and added up one step after the other (see store_products): 0.2 more.
/// - the next group's weights made before a group's products, so that these wait for no store: 0.5 more.
/// - products by intrinsics (see simd/avx512.hpp): near_exact 16.8, fast 12.3; at 2 bits 18.5 and 13.5, where it now takes 15.3 and 11.2. For AVX2
///   alone, with sums that GCC may keep in memory: 28 and 20.3, now 24.5 and 18.7.
/// Cold, with huge pages, about 1.5 more; reading alone 5.2.
///
/// On Zen 3, AVX2 alone, 16k rows: near_exact 28.8, fast 21.7, 2 bits 27.8 and 21.4, 8 bits 31.1. Of near_exact's the products take 15.4, folding 4.3,
/// exponentials 1.4, so that what helps where products are fast helps less here:
/// - scales asked for one block ahead of their use, though a call first looks through those of all its rows; sums of half lines copied: 2 more.
/// - the lines ahead asked for once, not with each half of a line; 16-bit weights put in order by one byte shuffle instead of two: no faster.
/// - exponentials in base 2 would take 3 of 15 instructions off them, 0.3, and lose the seventh digit of small probabilities: not done.
/// - largest scales stored with every block: what is left of looking through them, below 0.6; not done for 2 % more memory.
namespace kvcompress::inline KVCOMPRESS_ABI::kernels {

/// Products of strips of codes with a block of queries, or of rows of probabilities: what keys and values of all quantising storages share.
/// First the queries are taken, with the scales of all groups to come, then group by group what shares its scales is folded and multiplied. A
/// number x * scale is counted in units of x_unit * group_unit, so large that no weight exceeds largest_weight. All that is made of a query depends
/// on this query alone: its products have the same bits whatever else is asked in the same call.
///
/// The outlier channels of keys are left out of the integers.
template <int Bits, Accumulation Mode>
class CodeProducts {
  static constexpr bool integers = Mode != Accumulation::exact;

 public:
  /// `scratch` has floats(queries, steps) numbers.
  CodeProducts(float* scratch, std::size_t queries, std::size_t steps) noexcept
      : queries_(queries), stride_(padded_steps(steps)), x_(scratch), largest_(x_ + queries * stride_), group_(largest_ + stride_ + slack),
        units_(group_ + 2 * stride_), outliers_(units_ + (queries + 15) / 16 * 16, queries),
        weights_(units_ + (queries + 15) / 16 * 16 + OutlierChannels<Bits>::floats(queries), queries, steps) {}
  static constexpr std::size_t floats(std::size_t queries, std::size_t steps) noexcept {
    return queries * padded_steps(steps) + 3 * padded_steps(steps) + slack + (queries + 15) / 16 * 16 +
           OutlierChannels<Bits>::floats(queries) + Weights<Mode>::floats(queries, steps);
  }

  /// Queries x (queries, x_stride), of `channels` numbers, and the scales scale_of(g) of `groups` groups of keys, one for each channel.
  void take_keys(const float* x, std::size_t x_stride, std::size_t channels, std::size_t groups, auto&& scale_of) noexcept {
    if constexpr (integers) { see(channels, groups, scale_of, nullptr, largest_); }
    take<true>(x, x_stride, 0, channels);
  }
  /// Probabilities p (queries, p_stride) for the steps [first, first + count), and the scales scale_of(g) of `groups` groups of values, one for
  /// each of these steps. factors[g] becomes what brings the scales of group g to 1, which fold_values wants. Probabilities spread over orders
  /// of magnitude: the product of the largest one with the largest scale would be twice the largest product.
  void take_values(const float* p, std::size_t p_stride, std::size_t first, std::size_t count, std::size_t groups, auto&& scale_of,
                   float* factors) noexcept {
    if constexpr (integers) {
      for (std::size_t g = 0; g < groups; ++g) {
        const float largest = largest_of(scale_of(g), count);
        factors[g] = largest > 0x1p-80F ? 1.0F / largest : 1.0F;
      }
      see(count, groups, scale_of, factors, largest_ + first);
    }
    take<false>(p, p_stride, first, count);
  }

  /// Scales and minima of a group of keys, one for each step.
  template <class Scale>
  void fold_keys(const Scale* scale, const Scale* minimum, std::size_t steps) noexcept {
    fold<false>(scale, minimum, 0, steps, 1.0F);
    if constexpr (integers) { outliers_.fold(scale, minimum); }
  }
  /// Scales and minima of a group of values, one for each of the steps [first, first + count), and its factor from take_values.
  template <class Scale>
  void fold_values(const Scale* scale, const Scale* minimum, std::size_t first, std::size_t count, float factor) noexcept {
    fold<integers>(scale, minimum, first, count, factor);
  }

  /// Products of the lanes [first_lane, last_lane) of a strip, all queries: out[q * out_stride + lane - first_lane] is set, or added to. The
  /// strip has `steps` steps; those from `first_step` on count, as many as were taken, rounded up.
  template <bool Add>
  void strip(const std::uint8_t* codes, std::size_t steps, std::size_t first_step, std::size_t count, const std::uint8_t* ahead,
             std::size_t first_lane, std::size_t last_lane, float* out, std::size_t out_stride) const noexcept {
    detail::in_query_blocks(queries_, [&]<std::size_t Queries>(std::size_t q) {
      LaneSums<Queries, Mode> sums;
      strip_dots<Bits>(codes, steps, first_step, count, weights_, q, ahead, sums);
      if (integers && !Add && outliers_.any(q)) {  // keys' alone, whose products are set
        float more[Queries][16];
        outliers_.template dots<Queries>(codes, steps, first_step, q, more);
#pragma GCC unroll 4
        for (std::size_t i = 0; i < Queries; ++i) {
          put_lanes<Add>(sums, i, q + i, more[i], first_lane, last_lane, out + (q + i) * out_stride);
        }
      } else {
#pragma GCC unroll 4
        for (std::size_t i = 0; i < Queries; ++i) {
          put_lanes<Add>(sums, i, q + i, nullptr, first_lane, last_lane, out + (q + i) * out_stride);
        }
      }
    });
  }

 private:
  static constexpr std::size_t slack = 16;

  /// The unit of a query with that largest number, and product with the scales that were seen: not so small that its numbers, or their products
  /// with minima, leave the range of a float; what is then rounded to 0 is less than 2^-44 of what the largest number weighs.
  float unit_for(float number, float product) const noexcept {
    return std::max({product / largest_weight<Mode, Bits>(stride_), number * 0x1p-60F, 0x1p-120F});
  }

  /// to[i] = the largest scale_of(g)[i] * factors[g] (null: 1) of all groups.
  void see(std::size_t count, std::size_t groups, auto&& scale_of, const float* factors, float* to) noexcept {
    namespace vec = simd::native;
    constexpr std::size_t at_once = 8;
    for (std::size_t first = 0; first < groups; first += at_once) {
      const std::size_t now = std::min(at_once, groups - first);
      decltype(scale_of(first)) scales[at_once];
      for (std::size_t g = 0; g < now; ++g) { scales[g] = scale_of(first + g); }
      for_vectors(count, [&](std::size_t i, auto part) {
        vec::f32 top = first == 0 ? vec::set(0.0F) : vec::load(to + i);
        for (std::size_t g = 0; g < now; ++g) {
          const vec::f32 scale = part.load(scales[g] + i);
          top = vec::max(top, factors == nullptr ? scale : vec::mul(scale, vec::set(factors[first + g])));
        }
        vec::store(to + i, top);
      });
    }
  }
  /// x of all queries for the steps [first, first + count), in units: a query's largest product with the scales that were seen.
  template <bool Keys>
  void take(const float* x, std::size_t x_stride, std::size_t first, std::size_t count) noexcept {
    detail::in_query_blocks(
        queries_, [&]<std::size_t Queries>(std::size_t q) { take_block<Keys, Queries>(q, x + q * x_stride, x_stride, first, count); });
  }
  template <bool Keys, std::size_t Queries>
  void take_block(std::size_t q, const float* x, std::size_t x_stride, std::size_t first, std::size_t count) noexcept {
    namespace vec = simd::native;
    constexpr bool choose = integers && Keys;
    if constexpr (integers) {
      vec::f32 numbers[Queries];
      vec::f32 products[Queries];
      vec::f32 sums[Queries];
#pragma GCC unroll 4
      for (std::size_t i = 0; i < Queries; ++i) { numbers[i] = products[i] = sums[i] = vec::set(0.0F); }
      for_vectors(count, [&](std::size_t at, auto part) {
        const vec::f32 scale = part.load(largest_ + first + at);
#pragma GCC unroll 4
        for (std::size_t i = 0; i < Queries; ++i) {
          const vec::f32 number = vec::abs(part.load(x + i * x_stride + at));
          const vec::f32 product = vec::mul(number, scale);
          numbers[i] = vec::max(numbers[i], number);
          products[i] = vec::max(products[i], product);
          if constexpr (choose) { sums[i] = vec::add(sums[i], product); }
        }
      });
#pragma GCC unroll 4
      for (std::size_t i = 0; i < Queries; ++i) {
        float product = vec::reduce_max(products[i]);
        if constexpr (choose) {
          const float mean = vec::reduce_add(sums[i]) / static_cast<float>(count);
          if (product > OutlierChannels<Bits>::suspicious * mean) {
            product = outliers_.choose(q + i, x + i * x_stride, largest_, count, product, mean, group_);
          }
        }
        units_[q + i] = unit_for(vec::reduce_max(numbers[i]), product);
      }
    } else {
      std::fill_n(units_ + q, Queries, 1.0F);
    }
#pragma GCC unroll 4
    for (std::size_t i = 0; i < Queries; ++i) {
      float* row = x_ + (q + i) * stride_;
      const vec::f32 factor = vec::set(1.0F / units_[q + i]);
      std::fill_n(row, first, 0.0F);
      for_vectors(count,
                  [&](std::size_t at, auto part) { part.store(row + first + at, vec::mul(part.load(x + i * x_stride + at), factor)); });
      std::fill(row + first + count, row + stride_, 0.0F);
      if constexpr (choose) { outliers_.leave_out(q + i, row); }
    }
  }
  template <bool Scaled, class Scale>
  void fold(const Scale* scale, const Scale* minimum, std::size_t first, std::size_t count, float factor) noexcept {
    group_unit_ = Scaled ? 1.0F / factor : 1.0F;
    if (count != stride_) {  // whole lines of numbers, with zeros around them
      auto* padded = reinterpret_cast<Scale*>(group_);
      std::fill_n(padded, 2 * stride_, Scale{});
      std::copy_n(scale, count, padded + first);
      std::copy_n(minimum, count, padded + stride_ + first);
      scale = padded;
      minimum = padded + stride_;
    }
    constexpr float centre = integers ? centre_of<Bits> : 0.0F;
    detail::in_query_blocks(queries_, [&]<std::size_t Queries>(std::size_t q) {
      weights_.template fold<Scaled, Queries>(q, x_, scale, minimum, factor, centre);
    });
  }
  /// `more` (null: nothing) is added to the products of all lanes.
  template <bool Add, std::size_t Queries>
  void put_lanes(const LaneSums<Queries, Mode>& sums, std::size_t i, std::size_t q, const float* more, std::size_t first, std::size_t last,
                 float* out) const noexcept {
    namespace vec = simd::native;
    const vec::f32 unit = vec::set(units_[q] * group_unit_);
    const vec::f32 offset = vec::set(weights_.offsets[q]);
    const auto product = [&](std::size_t lane) {
      const vec::f32 sum = vec::add(sums.at(i, lane), offset);
      return more == nullptr ? vec::mul(unit, sum) : vec::fma(unit, sum, vec::load(more + lane));
    };
    if (last - first == 16) {
#pragma GCC unroll 4
      for (std::size_t lane = 0; lane < 16; lane += vec::lanes) {
        vec::store(out + lane, Add ? vec::add(vec::load(out + lane), product(lane)) : product(lane));
      }
      return;
    }
    float products[16];
    for (std::size_t lane = 0; lane < 16; lane += vec::lanes) { vec::store(products + lane, product(lane)); }
    for (std::size_t lane = first; lane < last; ++lane) { out[lane - first] = Add ? out[lane - first] + products[lane] : products[lane]; }
  }

  std::size_t queries_;
  std::size_t stride_;
  float* x_;        // (queries, stride), in units
  float* largest_;  // (stride) scales that were seen
  float* group_;    // (2, stride) scales and minima of a group that fills no whole lines
  float* units_;    // (queries)
  OutlierChannels<Bits> outliers_;
  Weights<Mode> weights_;
  float group_unit_ = 1.0F;
};

/// Asks for the scales and minima of a group that will be read soon.
template <class Scale>
inline void prefetch(const Scale* scales, const Scale* minima, std::size_t count) noexcept {
  for (std::size_t i = 0; i < count; i += 64 / sizeof(Scale)) {
    __builtin_prefetch(scales + i, 0, 2);
    __builtin_prefetch(minima + i, 0, 2);
  }
}

/// Calls `f.operator()<Mode>()` for a mode known at run time that codes of `Bits` bits offer.
template <int Bits>
inline void with_accumulation(Accumulation mode, auto&& f) noexcept {
  if (mode == Accumulation::exact) { return f.template operator()<Accumulation::exact>(); }
  if constexpr (offers_fast<Bits>) {
    if (mode == Accumulation::fast) { return f.template operator()<Accumulation::fast>(); }
  }
  f.template operator()<Accumulation::near_exact>();
}

}  // namespace kvcompress::kernels
