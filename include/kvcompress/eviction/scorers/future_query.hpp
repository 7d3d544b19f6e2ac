// include/kvcompress/eviction/scorers/future_query.hpp - the mean query of a head as keys will meet it.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

#include "kvcompress/core/math.hpp"
#include "kvcompress/core/shape.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// The mean query as a key at its own position meets it, on average over the distances; and how much longer its pairs are than its mean's.
inline void turn_to_the_future(const Shape& shape, Position now, std::size_t farthest, std::span<const float> mean,
                               std::span<const float> lengths, double* query, double* beyond) {
  std::copy(mean.begin(), mean.end(), query);
  const bool split = shape.rope.pairing == RopePairing::half_split;
  for (std::size_t f = 0; f < lengths.size(); ++f) {
    double speed = shape.rope.scale * math::pow(shape.rope.theta, -static_cast<double>(f) / static_cast<double>(lengths.size()));
    if (shape.rope.frequency_factors != nullptr) { speed /= shape.rope.frequency_factors[f]; }
    double cosine = 0.0;
    double sine = 0.0;
    double distances = 0.0;
    for (std::size_t distance = 1; distance <= farthest; distance *= 2, distances += 1.0) {
      const double angle = speed * (static_cast<double>(now) + static_cast<double>(distance));
      cosine += math::cos(angle);
      sine += math::sin(angle);
    }
    double& x = query[split ? f : 2 * f];
    double& y = query[split ? f + lengths.size() : 2 * f + 1];
    beyond[f] = static_cast<double>(lengths[f]) - math::sqrt(x * x + y * y);
    const double turned = (x * cosine - y * sine) / distances;
    y = (x * sine + y * cosine) / distances;
    x = turned;
  }
}

}  // namespace kvcompress
