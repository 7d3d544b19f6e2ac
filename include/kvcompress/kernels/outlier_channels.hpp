// include/kvcompress/kernels/outlier_channels.hpp - the few channels of keys that are far larger than the rest, met in fp32.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kvcompress/kernels/strip.hpp"
#include "kvcompress/kernels/vectors.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::kernels {

/// Integer weights of a query share one unit, so a channel with a large weight costs all others their precision. Models have such channels in
/// their keys; up to 16 of them are left out of the integers and multiplied as they are. Each query has its own, so that its products do not
/// depend on who is asked beside it; four queries meet the channels of all of them, with weight 0 where a query has it in its integers, which
/// changes no bit.
///
/// Measured with AVX2 and GCC 12 at 4 queries, head size 128, 4 bits, from the third-level cache, in ns per token and KV head: near_exact 28.4, with four
/// channels four times as large as the rest 31.0, with 12 and 16 channels 60 times as large 36.4 and 38.3; fast 21.7, 24.8 and, with 12, 29.2. Chosen for
/// all queries of a block together and at most four, 29.1, 30.5, 31.7 and 31.8, but near_exact 1e-3 off with 12; none in fast, 22.0, 0.5 off.
template <int Bits>
class OutlierChannels {
 public:
  static constexpr std::size_t most = 16;  ///< of a query
  /// A query may have some if its largest weight is more than that many times the average: 16 equal ones of 64 are 3.8 times.
  static constexpr float suspicious = 3.5F;

  /// `scratch` has floats(queries) numbers.
  OutlierChannels(float* scratch, std::size_t queries) noexcept : scratch_(scratch), quads_((queries + 3) / 4) {
    for (std::size_t i = 0; i < quads_; ++i) { quad(i).count() = 0; }
  }
  static constexpr std::size_t floats(std::size_t queries) noexcept { return (queries + 3) / 4 * quad_floats; }

  /// Whether query q, or one that is served beside it, has any.
  [[nodiscard]] bool any(std::size_t q) const noexcept { return quad(q / 4).count() > 0; }

  /// Chooses those of query q, x, of `channels` channels; the weight of a channel is |x[c]| times scale[c]. `top` is the largest weight and `mean`
  /// their average. Returns the largest weight that is left. `sizes` is scratch for as many numbers, in whole vectors.
  ///
  /// An outlier weighs 9 times the average of weights that are cut at their average: 4.8 deviations of normal numbers, which cost a unit less than
  /// it would cost to meet them apart. Cut, because a few outliers raise the plain average as far as they please.
  float choose(std::size_t q, const float* x, const float* scale, std::size_t channels, float top, float mean, float* sizes) noexcept {
    namespace vec = simd::native;
    vec::f32 sum = vec::set(0.0F);
    for_vectors(channels, [&](std::size_t c, auto part) {
      sum = vec::add(sum, vec::min(vec::abs(vec::mul(part.load(x + c), part.load(scale + c))), vec::set(mean)));
    });
    const auto count = static_cast<float>(channels);
    float cut = vec::reduce_add(sum) / count;
    if (top <= 9.0F * cut) { return top; }
    for_vectors(channels,
                [&](std::size_t c, auto part) { vec::store(sizes + c, vec::abs(vec::mul(part.load(x + c), part.load(scale + c)))); });
    Chosen chosen;
    while (top > 9.0F * cut && chosen.count < std::min(most, channels)) {
      const float bound = 7.0F * cut;  // lower, so that one round finds most of them
      for (std::size_t first = 0; first < channels; first += vec::lanes) {
        if (vec::reduce_max(vec::load(sizes + first)) <= bound) { continue; }
        for (std::size_t c = first; c < first + vec::lanes; ++c) {
          if (sizes[c] > bound) { chosen.take(c, sizes); }
        }
      }
      vec::f32 all = vec::set(0.0F);
      vec::f32 largest = all;
      for (std::size_t c = 0; c < channels; c += vec::lanes) {
        all = vec::add(all, vec::load(sizes + c));
        largest = vec::max(largest, vec::load(sizes + c));
      }
      top = vec::reduce_max(largest);
      mean = vec::reduce_add(all) / count;
      sum = vec::set(0.0F);
      for (std::size_t c = 0; c < channels; c += vec::lanes) { sum = vec::add(sum, vec::min(vec::load(sizes + c), vec::set(mean))); }
      cut = vec::reduce_add(sum) / count;
    }
    add(q, x, chosen);
    return top;
  }
  /// Sets the numbers of `row`, query q, that are met here to 0.
  void leave_out(std::size_t q, float* row) const noexcept {
    const Quad at = quad(q / 4);
    for (std::size_t i = 0; i < at.count(); ++i) {
      if (at.x[4 * i + q % 4] != 0.0F) { row[at.channels[i]] = 0.0F; }
    }
  }

  /// Scales and minima of a group of keys, one for each channel.
  template <class Scale>
  void fold(const Scale* scale, const Scale* minimum) noexcept {
    namespace vec = simd::native;
    constexpr float zeros[4] = {};
    for (std::size_t j = 0; j < quads_; ++j) {
      const Quad at = quad(j);
      const std::size_t count = at.count();
      if (count == 0) { continue; }
      Scale few[2][quad_most] = {};
      for (std::size_t i = 0; i < count; ++i) {
        few[0][i] = scale[at.channels[i]];
        few[1][i] = minimum[at.channels[i]];
      }
      float wide[2][quad_most];
      for (std::size_t i = 0; i < count; i += vec::lanes) {
        vec::store(wide[0] + i, vec::load(few[0] + i));
        vec::store(wide[1] + i, vec::load(few[1] + i));
      }
      vec::quad offsets = vec::load_quad(zeros);
      for (std::size_t i = 0; i < count; ++i) {
        const vec::quad numbers = vec::load_quad(at.x + 4 * i);
        vec::store(at.weights + 4 * i, vec::fma(wide[0][i], numbers, vec::load_quad(zeros)));
        offsets = vec::fma(wide[1][i], numbers, offsets);
      }
      vec::store(at.offsets, offsets);
    }
  }

  /// What they add to the products of 16 keys, a strip of `steps` channels of which the queries' first is `first_step`, with the queries [q, q + Queries), which are of one quad. Out of
  /// line, because GCC 12 keeps its pointers on the stack where it inlines this.
  template <std::size_t Queries>
  [[gnu::noinline]] void dots(const std::uint8_t* codes, std::size_t steps, std::size_t first_step, std::size_t q,
                              float (&products)[Queries][16]) const noexcept {
    namespace vec = simd::native;
    const Quad at = quad(q / 4);
    const std::size_t count = at.count();
    for (std::size_t lane = 0; lane < 16; lane += vec::lanes) {
      vec::f32 sums[Queries];
#pragma GCC unroll 4
      for (std::size_t i = 0; i < Queries; ++i) { sums[i] = vec::set(at.offsets[q % 4 + i]); }
      for (std::size_t o = 0; o < count; ++o) {
        const vec::f32 code = vec::to_float(Strip<Bits>::get_step(codes, steps, first_step + at.channels[o], lane));
        const float* weights = at.weights + 4 * o + q % 4;
#pragma GCC unroll 4
        for (std::size_t i = 0; i < Queries; ++i) { sums[i] = vec::fma(vec::set(weights[i]), code, sums[i]); }
      }
#pragma GCC unroll 4
      for (std::size_t i = 0; i < Queries; ++i) { vec::store(products[i] + lane, sums[i]); }
    }
  }

 private:
  static constexpr std::size_t quad_most = 4 * most;
  static constexpr std::size_t quad_floats = 9 * quad_most + 16;

  /// Four queries and the channels of all of them, ascending.
  struct Quad {
    float* x;                 // (channels, 4), 0 where a query has the channel in its integers
    float* weights;           // (channels, 4), of the current group
    float* offsets;           // (4), of the current group
    std::uint32_t* channels;  // and behind quad_most of them their number

    [[nodiscard]] std::uint32_t& count() const noexcept { return channels[quad_most]; }
  };
  /// The channels of one query: the largest ones stay; of equal ones the first.
  struct Chosen {
    std::size_t count = 0;
    std::size_t channels[most];
    float sizes[most];

    /// Takes channel c, whose size becomes 0, if it is large enough.
    void take(std::size_t c, float* all) noexcept {
      std::size_t place = count;
      if (count < most) {
        ++count;
      } else {
        place = static_cast<std::size_t>(std::min_element(sizes, sizes + most) - sizes);
        if (all[c] <= sizes[place]) { return; }
        all[channels[place]] = sizes[place];
      }
      channels[place] = c;
      sizes[place] = all[c];
      all[c] = 0.0F;
    }
  };

  [[nodiscard]] Quad quad(std::size_t index) const noexcept {
    float* at = scratch_ + index * quad_floats;
    return {at, at + 4 * quad_most, at + 8 * quad_most, reinterpret_cast<std::uint32_t*>(at + 8 * quad_most + 4)};
  }
  void add(std::size_t q, const float* x, Chosen& chosen) noexcept {
    std::sort(chosen.channels, chosen.channels + chosen.count);
    const Quad to = quad(q / 4);
    std::size_t at = 0;
    for (std::size_t i = 0; i < chosen.count; ++i, ++at) {
      const auto channel = static_cast<std::uint32_t>(chosen.channels[i]);
      while (at < to.count() && to.channels[at] < channel) { ++at; }
      if (at == to.count() || to.channels[at] != channel) {
        std::copy_backward(to.channels + at, to.channels + to.count(), to.channels + to.count() + 1);
        std::copy_backward(to.x + 4 * at, to.x + 4 * to.count(), to.x + 4 * to.count() + 4);
        std::fill_n(to.x + 4 * at, 4, 0.0F);
        to.channels[at] = channel;
        ++to.count();
      }
      to.x[4 * at + q % 4] = x[channel];
    }
  }

  float* scratch_;
  std::size_t quads_;
};

}  // namespace kvcompress::kernels
