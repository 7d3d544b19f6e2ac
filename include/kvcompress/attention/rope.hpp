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
        cosines_(pairs_, 1.0F, Allocator<float>(memory)), sines_(pairs_, 0.0F, Allocator<float>(memory)) {}

  /// Chooses the rotation by `positions` (negative: backwards). Cost: a sine and a cosine per pair, none if it is chosen already.
  void turn_by(std::int64_t positions) noexcept {
    if (positions == positions_) { return; }
    positions_ = positions;
    for (std::size_t i = 0; i < pairs_; ++i) {
      double frequency = rope_.scale * math::pow(rope_.theta, -static_cast<double>(i) / static_cast<double>(pairs_));
      if (rope_.frequency_factors != nullptr) { frequency /= rope_.frequency_factors[i]; }
      const double angle = static_cast<double>(positions) * frequency;
      cosines_[i] = static_cast<float>(math::cos(angle));
      sines_[i] = static_cast<float>(math::sin(angle));
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
    report.add(&MemoryReport::scratch, cosines_);
    report.add(&MemoryReport::scratch, sines_);
  }

 private:
  Rope rope_;
  std::size_t pairs_;
  std::int64_t positions_ = 0;
  Vector<float> cosines_;
  Vector<float> sines_;
};

}  // namespace kvcompress
