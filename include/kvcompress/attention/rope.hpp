// include/kvcompress/attention/rope.hpp - rotary position embedding: turning a key or query by a number of positions.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "kvcompress/core/math.hpp"
#include "kvcompress/core/memory.hpp"
#include "kvcompress/core/shape.hpp"
#include "kvcompress/kernels/exact.hpp"
#include "kvcompress/simd/native.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Sines and cosines for one rotation, kept until another one is asked for: lanes and heads share them. Angles are reduced in double.
class Rotation {
 public:
  /// Of the first layer, where layers differ.
  Rotation(const Shape& shape, const Memory& memory)
      : rope_((shape.validate(), memory.validate(), shape.of(0).rope)), pairs_(shape.of(0).rotary_pairs()),
        frequencies_(pairs_, rope_.scale, Allocator<double>(memory)),
        digits_(digits * static_cast<std::size_t>(base) * 2 * pairs_, 0.0, Allocator<double>(memory)),
        rest_(2 * pairs_, 0.0, Allocator<double>(memory)),
        low_(static_cast<std::size_t>(base) * 2 * pairs_, 0.0F, Allocator<float>(memory)),
        block_(2 * pairs_, 0.0F, Allocator<float>(memory)), cosines_(pairs_, 1.0F, Allocator<float>(memory)),
        sines_(pairs_, 0.0F, Allocator<float>(memory)) {
    for (std::size_t i = 0; i < pairs_; ++i) {
      frequencies_[i] *= math::pow(rope_.theta, -static_cast<double>(i) / static_cast<double>(pairs_));
      if (rope_.frequency_factors != nullptr) { frequencies_[i] /= rope_.frequency_factors[i]; }
    }
    for (const double frequency : frequencies_) { fingerprint_ = mixed(fingerprint_, std::bit_cast<std::uint64_t>(frequency)); }
    rope_.frequency_factors = nullptr;               // the caller's, or the cache's: not to be kept
    for (std::int64_t value = base; value-- > 0;) {  // ends with no rotation in rest_
      unit_circle(value, rest_.data());
      std::copy(rest_.begin(), rest_.end(), low_.begin() + value * static_cast<std::ptrdiff_t>(rest_.size()));
    }
    std::copy_n(low_.begin(), block_.size(), block_.begin());
    std::int64_t step = base;
    for (std::size_t d = 0; d < digits; ++d, step *= base) {
      for (std::int64_t value = 0; value < base; ++value) { unit_circle(value * step, digit(d, value)); }
    }
  }

  /// Chooses the rotation by `positions` (negative: backwards). Its angle is a sum: that of the last four digits of `positions` to base 16, which
  /// tables hold, and that of the rest. Cost: a complex product per pair; three more, in double, when positions / 16 changes; a sine and a
  /// cosine more when positions / 65536 changes; nothing if it is chosen already. The result does not depend on what was chosen before.
  void turn_by(std::int64_t positions) noexcept {
    if (positions == positions_) { return; }
    positions_ = positions;
    const std::int64_t blocks = floor_divide(positions, base);
    if (blocks != blocks_) { turn_block_by(blocks); }
    const float* low = low_.data() + static_cast<std::size_t>(positions - blocks * base) * 2 * pairs_;
    namespace vec = simd::native;
    std::size_t i = 0;
    for (; i + vec::lanes <= pairs_; i += vec::lanes) {
      const vec::f32 cosine = vec::load(block_.data() + i);
      const vec::f32 sine = vec::load(block_.data() + pairs_ + i);
      const vec::f32 low_cosine = vec::load(low + i);
      const vec::f32 low_sine = vec::load(low + pairs_ + i);
      vec::store(cosines_.data() + i, vec::fma(cosine, low_cosine, vec::mul(vec::sub(vec::set(0.0F), sine), low_sine)));
      vec::store(sines_.data() + i, vec::fma(cosine, low_sine, vec::mul(sine, low_cosine)));
    }
    for (; i < pairs_; ++i) {
      cosines_[i] = block_[i] * low[i] - block_[pairs_ + i] * low[pairs_ + i];
      sines_[i] = block_[i] * low[pairs_ + i] + block_[pairs_ + i] * low[i];
    }
  }
  /// Turns one row in place by the chosen rotation.
  void apply(float* row) const noexcept { apply(row, 2 * pairs_, row); }
  /// The same to `out`, which may be `row`, rounded to T. `dim`: numbers of a row.
  template <class T>
  void apply(const float* row, std::size_t dim, T* out) const noexcept {
    namespace vec = simd::native;
    const bool split = rope_.pairing == RopePairing::half_split;
    std::size_t i = 0;
    for (; split && i + vec::lanes <= pairs_; i += vec::lanes) {
      const vec::f32 x = vec::load(row + i);
      const vec::f32 y = vec::load(row + pairs_ + i);
      const vec::f32 cosine = vec::load(cosines_.data() + i);
      const vec::f32 sine = vec::load(sines_.data() + i);
      vec::store(out + i, vec::fma(x, cosine, vec::mul(vec::sub(vec::set(0.0F), y), sine)));
      vec::store(out + pairs_ + i, vec::fma(x, sine, vec::mul(y, cosine)));
    }
    for (; i < pairs_; ++i) {
      const std::size_t a = split ? i : 2 * i;
      const std::size_t b = split ? i + pairs_ : 2 * i + 1;
      const float x = row[a];
      const float y = row[b];
      out[a] = T(x * cosines_[i] - y * sines_[i]);
      out[b] = T(x * sines_[i] + y * cosines_[i]);
    }
    kernels::convert(row + 2 * pairs_, out + 2 * pairs_, dim - 2 * pairs_);
  }
  /// Turns a key or query that comes unrotated, and gives it the rope's magnitude.
  void embed(float* row) const noexcept {
    apply(row);
    if (rope_.magnitude == 1.0) { return; }
    const auto magnitude = static_cast<float>(rope_.magnitude);
    for (std::size_t i = 0; i < 2 * pairs_; ++i) { row[i] *= magnitude; }
  }
  /// A hash of what it turns: equal for equal shapes.
  [[nodiscard]] std::uint64_t fingerprint() const noexcept {
    const std::uint64_t turns = mixed(mixed(fingerprint_, pairs_), static_cast<std::uint64_t>(rope_.pairing));
    return rope_.magnitude == 1.0 ? turns : mixed(turns, std::bit_cast<std::uint64_t>(rope_.magnitude));
  }
  void account(MemoryReport& report) const noexcept {
    report.add(&MemoryReport::scratch, frequencies_);
    report.add(&MemoryReport::scratch, digits_);
    report.add(&MemoryReport::scratch, rest_);
    report.add(&MemoryReport::scratch, low_);
    report.add(&MemoryReport::scratch, block_);
    report.add(&MemoryReport::scratch, cosines_);
    report.add(&MemoryReport::scratch, sines_);
  }

 private:
  static constexpr std::int64_t base = 16;
  static constexpr std::size_t digits = 3;  // above the last one

  [[nodiscard]] static std::uint64_t mixed(std::uint64_t hash, std::uint64_t more) noexcept {
    hash = (hash ^ more) * 0x9E37'79B9'7F4A'7C15U;
    return hash ^ (hash >> 32U);
  }

  /// A point of the unit circle.
  struct Turn {
    double cosine;
    double sine;
    friend Turn operator*(Turn a, Turn b) noexcept {
      return {a.cosine * b.cosine - a.sine * b.sine, a.cosine * b.sine + a.sine * b.cosine};
    }
  };

  void turn_block_by(std::int64_t blocks) noexcept {
    const std::int64_t rest = floor_divide(blocks, base * base * base);
    if (rest != rest_blocks_) { unit_circle(rest * base * base * base * base, rest_.data()); }
    std::int64_t left = blocks - rest * base * base * base;
    const double* upper[digits];
    for (std::size_t d = 0; d < digits; ++d, left /= base) { upper[d] = digit(d, left % base); }
    for (std::size_t i = 0; i < pairs_; ++i) {
      Turn turn{rest_[i], rest_[pairs_ + i]};
      for (const double* one : upper) { turn = turn * Turn{one[i], one[pairs_ + i]}; }
      block_[i] = static_cast<float>(turn.cosine);
      block_[pairs_ + i] = static_cast<float>(turn.sine);
    }
    blocks_ = blocks;
    rest_blocks_ = rest;
  }
  static std::int64_t floor_divide(std::int64_t a, std::int64_t b) noexcept { return a >= 0 ? a / b : -((b - 1 - a) / b); }
  [[nodiscard]] double* digit(std::size_t index, std::int64_t value) noexcept {
    return digits_.data() + (index * static_cast<std::size_t>(base) + static_cast<std::size_t>(value)) * 2 * pairs_;
  }
  /// Cosines, then sines, of every pair's angle at a position.
  void unit_circle(std::int64_t position, double* to) const noexcept {
    for (std::size_t i = 0; i < pairs_; ++i) {
      const double angle = static_cast<double>(position) * frequencies_[i];
      to[i] = math::cos(angle);
      to[pairs_ + i] = math::sin(angle);
    }
  }

  Rope rope_;
  std::size_t pairs_;
  std::int64_t positions_ = 0;
  std::int64_t blocks_ = 0;       // positions / 16 that block_ holds
  std::int64_t rest_blocks_ = 0;  // positions / 65536 that rest_ holds
  std::uint64_t fingerprint_ = 0;
  Vector<double> frequencies_;  // (pairs) radians per position
  Vector<double> digits_;       // (digits, base, 2, pairs): cosines, then sines, of value * base^(digit + 1) positions
  Vector<double> rest_;         // (2, pairs)
  Vector<float> low_;           // (base, 2, pairs): of 0 to 15 positions
  Vector<float> block_;         // (2, pairs): of blocks_ * 16 positions
  Vector<float> cosines_;
  Vector<float> sines_;
};

}  // namespace kvcompress
