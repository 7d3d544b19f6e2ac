// include/kvcompress/attention/rope.hpp - rotary position embedding: turning a key or query by a number of positions.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>

#include "kvcompress/core/math.hpp"
#include "kvcompress/core/memory.hpp"
#include "kvcompress/core/shape.hpp"

namespace kvcompress {

/// Sines and cosines for one rotation, kept until another one is asked for: lanes and heads share them. Angles are reduced in double.
class Rotation {
 public:
  Rotation(const Shape& shape, const Memory& memory)
      : rope_(shape.rope),
        pairs_(shape.rope.theta == 0.0 ? 0 : (shape.rope.rotary_dim != 0 ? shape.rope.rotary_dim : shape.key_width()) / 2),
        frequencies_(pairs_, rope_.scale, Allocator<double>(memory)),
        small_(2 * pairs_ * static_cast<std::size_t>(stride), 0.0, Allocator<double>(memory)),
        large_(2 * pairs_, 0.0, Allocator<double>(memory)), cosines_(pairs_, 1.0F, Allocator<float>(memory)),
        sines_(pairs_, 0.0F, Allocator<float>(memory)) {
    for (std::size_t i = 0; i < pairs_; ++i) {
      frequencies_[i] *= math::pow(rope_.theta, -static_cast<double>(i) / static_cast<double>(pairs_));
      if (rope_.frequency_factors != nullptr) { frequencies_[i] /= rope_.frequency_factors[i]; }
    }
    for (std::int64_t step = 0; step < stride; ++step) { unit_circle(step, small_.data() + 2 * pairs_ * static_cast<std::size_t>(step)); }
    unit_circle(0, large_.data());
  }

  /// Chooses the rotation by `positions` (negative: backwards). Cost: two multiplications per pair; a sine and a cosine more when
  /// positions / 32 changes; nothing if it is chosen already. The result does not depend on what was chosen before.
  void turn_by(std::int64_t positions) noexcept {
    if (positions == positions_) { return; }
    positions_ = positions;
    const std::int64_t base = positions >= 0 ? positions / stride : -((stride - 1 - positions) / stride);
    if (base != base_) { unit_circle(base * stride, large_.data()); }
    base_ = base;
    const double* small = small_.data() + 2 * pairs_ * static_cast<std::size_t>(positions - base * stride);
    const double* large = large_.data();
    for (std::size_t i = 0; i < pairs_; ++i) {
      cosines_[i] = static_cast<float>(large[i] * small[i] - large[pairs_ + i] * small[pairs_ + i]);
      sines_[i] = static_cast<float>(large[i] * small[pairs_ + i] + large[pairs_ + i] * small[i]);
    }
  }
  /// Turns one row in place by the chosen rotation.
  void apply(float* row) const noexcept {
    const bool split = rope_.pairing == RopePairing::half_split;
    for (std::size_t i = 0; i < pairs_; ++i) {
      float& a = row[split ? i : 2 * i];
      float& b = row[split ? i + pairs_ : 2 * i + 1];
      const float x = a;
      a = x * cosines_[i] - b * sines_[i];
      b = x * sines_[i] + b * cosines_[i];
    }
  }
  void account(MemoryReport& report) const noexcept {
    report.add(&MemoryReport::scratch, frequencies_);
    report.add(&MemoryReport::scratch, small_);
    report.add(&MemoryReport::scratch, large_);
    report.add(&MemoryReport::scratch, cosines_);
    report.add(&MemoryReport::scratch, sines_);
  }

 private:
  static constexpr std::int64_t stride = 32;

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
  std::int64_t base_ = 0;
  Vector<double> frequencies_;  // (pairs) radians per position
  Vector<double> small_;  // (stride, 2, pairs): positions 0 to stride - 1
  Vector<double> large_;  // (2, pairs): position base_ * stride
  Vector<float> cosines_;
  Vector<float> sines_;
};

}  // namespace kvcompress
