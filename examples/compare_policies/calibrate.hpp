// examples/compare_policies/calibrate.hpp - how each layer's keys and values are held, chosen by what that was measured to cost.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

namespace comparison {

/// A way to hold the keys, or the values, of one layer: bits per number, and the KL where all else is exact.
struct HeldSide {
  std::string storage;
  double bits = 0.0;
  double kl = 0.0;
};

/// Picks one way for each side so that the mean is at most `bits`: from the fewest bits on, always the step that takes away most KL per bit.
/// `sides`: (sides) of candidates. What several sides cost together is taken for the sum of what each costs alone. Where not even the fewest bits
/// are few enough, those.
inline std::vector<std::size_t> greedy_bits(const std::vector<std::vector<HeldSide>>& sides, double bits) {
  std::vector<std::size_t> chosen;
  double used = 0.0;
  for (const std::vector<HeldSide>& side : sides) {
    const auto least = std::min_element(side.begin(), side.end(), [](const HeldSide& a, const HeldSide& b) { return a.bits < b.bits; });
    chosen.push_back(static_cast<std::size_t>(least - side.begin()));
    used += least->bits;
  }
  const double most = bits * static_cast<double>(sides.size());
  while (true) {
    double best = 0.0;
    std::size_t best_side = 0;
    std::size_t best_way = 0;
    for (std::size_t s = 0; s < sides.size(); ++s) {
      const HeldSide& now = sides[s][chosen[s]];
      for (std::size_t way = 0; way < sides[s].size(); ++way) {
        const HeldSide& other = sides[s][way];
        const double more = other.bits - now.bits;
        const double gain = now.kl - other.kl;
        if (gain <= 0.0 || used + more > most) { continue; }
        const double worth = gain / std::max(more, 1e-9);  // fewer bits and less KL: above all
        if (worth > best) {
          best = worth;
          best_side = s;
          best_way = way;
        }
      }
    }
    if (best == 0.0) { return chosen; }
    used += sides[best_side][best_way].bits - sides[best_side][chosen[best_side]].bits;
    chosen[best_side] = best_way;
  }
}

/// The choice as a policy, one clause for each layer but the last: "layers 0: keys=lm4,values=lm3; rest: keys=lm3,values=lm2". `sides`: (layers, 2),
/// keys first.
inline std::string policy_of(const std::vector<std::vector<HeldSide>>& sides, const std::vector<std::size_t>& chosen) {
  std::string policy;
  for (std::size_t s = 0; s < sides.size(); s += 2) {
    policy += s + 2 < sides.size() ? "layers " + std::to_string(s / 2) + ": " : std::string("rest: ");
    policy += "keys=" + sides[s][chosen[s]].storage + ",values=" + sides[s + 1][chosen[s + 1]].storage;
    policy += s + 2 < sides.size() ? "; " : "";
  }
  return policy;
}

}  // namespace comparison
