// include/kvcompress/attention/rope.hpp - rotary position embedding: turning a key or query by a number of positions.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>

#include "kvcompress/core/math.hpp"
#include "kvcompress/core/memory.hpp"
#include "kvcompress/core/shape.hpp"
#include "kvcompress/simd/native.hpp"

namespace kvcompress {

/// Sines and cosines for one rotation, kept until another one is asked for: lanes and heads share them. Angles are reduced in double.
class Rotation {
 public:
  Rotation(const Shape& shape, const Memory& memory)
      : rope_(shape.rope),
        pairs_(shape.rope.theta == 0.0 ? 0 : (shape.rope.rotary_dim != 0 ? shape.rope.rotary_dim : shape.key_width()) / 2),
        frequencies_(pairs_, rope_.scale, Allocator<double>(memory)),
        digits_(digits * static_cast<std::size_t>(base) * 2 * pairs_, 0.0, Allocator<double>(memory)),
        rest_(2 * pairs_, 0.0, Allocator<double>(memory)), block_(2 * pairs_, 0.0, Allocator<double>(memory)),
        cosines_(pairs_, 1.0F, Allocator<float>(memory)), sines_(pairs_, 0.0F, Allocator<float>(memory)) {
    for (std::size_t i = 0; i < pairs_; ++i) {
      frequencies_[i] *= math::pow(rope_.theta, -static_cast<double>(i) / static_cast<double>(pairs_));
      if (rope_.frequency_factors != nullptr) { frequencies_[i] /= rope_.frequency_factors[i]; }
    }
    std::int64_t step = 1;
    for (std::size_t d = 0; d < digits; ++d, step *= base) {
      for (std::int64_t value = 0; value < base; ++value) { unit_circle(value * step, digit(d, value)); }
    }
    unit_circle(0, rest_.data());
    unit_circle(0, block_.data());
  }

  /// Chooses the rotation by `positions` (negative: backwards). Its angle is a sum: that of the last four digits of `positions` to base 16, which
  /// tables hold, and that of the rest. Cost: a complex product per pair; three more when positions / 16 changes; a sine and a cosine more
  /// when positions / 65536 changes; nothing if it is chosen already. The result does not depend on what was chosen before.
  void turn_by(std::int64_t positions) noexcept {
    if (positions == positions_) { return; }
    positions_ = positions;
    const std::int64_t blocks = floor_divide(positions, base);
    if (blocks != blocks_) {
      const std::int64_t rest = floor_divide(blocks, base * base * base);
      if (rest != rest_blocks_) { unit_circle(rest * base * base * base * base, rest_.data()); }
      std::int64_t left = blocks - rest * base * base * base;
      const double* upper[digits - 1];
      for (std::size_t d = 1; d < digits; ++d, left /= base) { upper[d - 1] = digit(d, left % base); }
      for (std::size_t i = 0; i < pairs_; ++i) {
        Turn turn{rest_[i], rest_[pairs_ + i]};
        for (const double* one : upper) { turn = turn * Turn{one[i], one[pairs_ + i]}; }
        block_[i] = turn.cosine;
        block_[pairs_ + i] = turn.sine;
      }
      blocks_ = blocks;
      rest_blocks_ = rest;
    }
    const double* low = digit(0, positions - blocks * base);
    for (std::size_t i = 0; i < pairs_; ++i) {
      const Turn turn = Turn{block_[i], block_[pairs_ + i]} * Turn{low[i], low[pairs_ + i]};
      cosines_[i] = static_cast<float>(turn.cosine);
      sines_[i] = static_cast<float>(turn.sine);
    }
  }
  /// Turns one row in place by the chosen rotation.
  void apply(float* row) const noexcept {
    namespace vec = simd::native;
    const bool split = rope_.pairing == RopePairing::half_split;
    std::size_t i = 0;
    for (; split && i + vec::lanes <= pairs_; i += vec::lanes) {
      const vec::f32 x = vec::load(row + i);
      const vec::f32 y = vec::load(row + pairs_ + i);
      const vec::f32 cosine = vec::load(cosines_.data() + i);
      const vec::f32 sine = vec::load(sines_.data() + i);
      vec::store(row + i, vec::fma(x, cosine, vec::mul(vec::sub(vec::set(0.0F), y), sine)));
      vec::store(row + pairs_ + i, vec::fma(x, sine, vec::mul(y, cosine)));
    }
    for (; i < pairs_; ++i) {
      float& a = row[split ? i : 2 * i];
      float& b = row[split ? i + pairs_ : 2 * i + 1];
      const float x = a;
      a = x * cosines_[i] - b * sines_[i];
      b = x * sines_[i] + b * cosines_[i];
    }
  }
  void account(MemoryReport& report) const noexcept {
    report.add(&MemoryReport::scratch, frequencies_);
    report.add(&MemoryReport::scratch, digits_);
    report.add(&MemoryReport::scratch, rest_);
    report.add(&MemoryReport::scratch, block_);
    report.add(&MemoryReport::scratch, cosines_);
    report.add(&MemoryReport::scratch, sines_);
  }

 private:
  static constexpr std::int64_t base = 16;
  static constexpr std::size_t digits = 4;

  /// A point of the unit circle.
  struct Turn {
    double cosine;
    double sine;
    friend Turn operator*(Turn a, Turn b) noexcept { return {a.cosine * b.cosine - a.sine * b.sine, a.cosine * b.sine + a.sine * b.cosine}; }
  };

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
  Vector<double> frequencies_;    // (pairs) radians per position
  Vector<double> digits_;         // (digits, base, 2, pairs): cosines, then sines, of value * base^digit positions
  Vector<double> rest_;           // (2, pairs)
  Vector<double> block_;          // (2, pairs)
  Vector<float> cosines_;
  Vector<float> sines_;
};

}  // namespace kvcompress
