// include/kvcompress/kernels/outlier_channels.hpp - the few channels of keys that are far larger than the rest, met in fp32.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kvcompress/kernels/softmax.hpp"
#include "kvcompress/kernels/strip.hpp"
#include "kvcompress/kernels/vectors.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::kernels {

/// Integer weights of a query share one unit, so a channel with a large weight costs all others their precision. Models have such channels in
/// their keys; up to four of them are left out of the integers and multiplied as they are.
///
/// Measured on Zen 4 with GCC 12 at 4 queries, head size 128, 4 bits, near_exact, from the third-level cache: four outliers, four times as large
/// as the rest, cost 1.1 ns of 16.4 per token and KV head, and bring the error that keys' weights cause from 2e-4 to 6e-5 at worst.
template <int Bits>
class OutlierChannels {
 public:
  static constexpr std::size_t most = 4;

  /// `scratch` has floats(queries) numbers.
  OutlierChannels(float* scratch, std::size_t queries) noexcept
      : queries_(queries), row_(padded(queries)), x_(scratch), weights_(x_ + most * row_), offsets_(weights_ + most * row_) {}
  static constexpr std::size_t floats(std::size_t queries) noexcept { return (2 * most + 1) * padded(queries); }

  [[nodiscard]] std::size_t count() const noexcept { return count_; }
  [[nodiscard]] std::size_t channel(std::size_t index) const noexcept { return channels_[index]; }

  /// Chooses, of `channels` channels, those that weigh more than 2.5 times the average: their weight is the largest |x| of all queries x
  /// (queries, x_stride) times scale[c]. `sizes` is scratch for as many numbers, in whole vectors.
  void choose(const float* x, std::size_t x_stride, const float* scale, std::size_t channels, float* sizes) noexcept {
    namespace vec = simd::native;
    vec::f32 sum = vec::set(0.0F);
    vec::f32 top = sum;
    for_vectors(channels, [&](std::size_t c, auto part) {
      vec::f32 largest = vec::set(0.0F);
      for (std::size_t q = 0; q < queries_; ++q) { largest = vec::max(largest, vec::abs(part.load(x + q * x_stride + c))); }
      const vec::f32 size = vec::mul(largest, part.load(scale + c));
      vec::store(sizes + c, size);
      sum = vec::add(sum, size);
      top = vec::max(top, size);
    });

    count_ = 0;
    const float bound = 2.5F * vec::reduce_add(sum) / static_cast<float>(channels);
    if (vec::reduce_max(top) <= bound) { return; }
    for (std::size_t first = 0; first < channels; first += vec::lanes) {
      const std::size_t last = std::min(first + vec::lanes, channels);
      if (largest_of(sizes + first, last - first) <= bound) { continue; }
      for (std::size_t c = first; c < last; ++c) {
        if (sizes[c] > bound) { keep(c, sizes); }
      }
    }
    for (std::size_t i = 0; i < count_; ++i) {
      for (std::size_t q = 0; q < queries_; ++q) { x_[i * row_ + q] = x[q * x_stride + channels_[i]]; }
    }
  }

  /// Scales and minima of a group of keys, one for each channel.
  template <class Scale>
  void fold(const Scale* scale, const Scale* minimum) noexcept {
    namespace vec = simd::native;
    constexpr float zeros[4] = {};
    for (std::size_t q = 0; q < queries_; q += 4) {
      vec::quad offsets = vec::load_quad(zeros);
      for (std::size_t i = 0; i < count_; ++i) {
        const vec::quad numbers = vec::load_quad(x_ + i * row_ + q);
        vec::store(weights_ + i * row_ + q, vec::fma(static_cast<float>(scale[channels_[i]]), numbers, vec::load_quad(zeros)));
        offsets = vec::fma(static_cast<float>(minimum[channels_[i]]), numbers, offsets);
      }
      vec::store(offsets_ + q, offsets);
    }
  }

  /// What they add to the products of 16 keys, a strip of `steps` channels, with the queries [q, q + Queries). Out of line, because GCC 12 keeps
  /// its pointers on the stack where it inlines this.
  template <std::size_t Queries>
  [[gnu::noinline]] void dots(const std::uint8_t* codes, std::size_t steps, std::size_t q, float (&products)[Queries][16]) const noexcept {
    namespace vec = simd::native;
    for (std::size_t lane = 0; lane < 16; lane += vec::lanes) {
      vec::f32 sums[Queries];
#pragma GCC unroll 4
      for (std::size_t i = 0; i < Queries; ++i) { sums[i] = vec::set(offsets_[q + i]); }
      for (std::size_t o = 0; o < count_; ++o) {
        const vec::f32 code = vec::to_float(Strip<Bits>::get_step(codes, steps, channels_[o], lane));
        const float* weights = weights_ + o * row_ + q;
#pragma GCC unroll 4
        for (std::size_t i = 0; i < Queries; ++i) { sums[i] = vec::fma(vec::set(weights[i]), code, sums[i]); }
      }
#pragma GCC unroll 4
      for (std::size_t i = 0; i < Queries; ++i) { vec::store(products[i] + lane, sums[i]); }
    }
  }

 private:
  static constexpr std::size_t padded(std::size_t queries) noexcept { return (queries + 15) / 16 * 16; }

  /// The largest ones stay; of equal ones the first.
  void keep(std::size_t channel, const float* sizes) noexcept {
    if (count_ < most) {
      channels_[count_++] = channel;
      return;
    }
    std::size_t* least = std::min_element(channels_, channels_ + most, [&](std::size_t i, std::size_t j) { return sizes[i] < sizes[j]; });
    if (sizes[channel] > sizes[*least]) { *least = channel; }
  }

  std::size_t queries_;
  std::size_t row_;
  float* x_;        // (most, row)
  float* weights_;  // (most, row), of the current group
  float* offsets_;  // (row), of the current group
  std::size_t count_ = 0;
  std::size_t channels_[most] = {};
};

}  // namespace kvcompress::kernels
