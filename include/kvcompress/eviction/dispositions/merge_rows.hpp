// include/kvcompress/eviction/dispositions/merge_rows.hpp - how rows that go are merged into rows that stay.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>

#include "kvcompress/eviction/dispositions/nearest.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// What the row that stays and those merged into it count in the new row, by their cosine u:
enum class MergeWeights {
  average,      ///< 1 each: the mean
  pivot,        ///< the mean of the row and, for each other, the middle between both
  cosine,       ///< sum of the row and u times each other, divided by their number: norms shrink (D2O and LOOK-M as released)
  exponential,  ///< e and e^u, normalised (D2O's paper)
  similarity,   ///< 1 and (u + 1) / 2, at least 1e-6, normalised
  value_norm,   ///< 1 and max(u, 0) * |v| / (|v| + |v of the row| + 1e-6), normalised
  gaussian      ///< 1 and exp(-(d / m)^2), normalised: d the distance of both keys, m the mean of the distances
};
constexpr auto names_of(MergeWeights) noexcept {
  return std::array{"average", "pivot", "cosine", "exponential", "similarity", "value_norm", "gaussian"};
}

namespace detail {

struct MergeHow {
  MergeWeights weights;
  KeyAngle angle;
  bool keys;    ///< are merged; else values alone
  bool weighs;  ///< rows count as often as they stand for others, and the new one stands for all
};

/// Numbers of one new row, summed in double.
class MergedRow {
 public:
  MergedRow(std::size_t key_width, std::size_t value_width, const Moment& moment)
      : key_width_(key_width), sums_(numbers_of<double>(moment, key_width + value_width)),
        own_(numbers_of<float>(moment, key_width + value_width)), other_(numbers_of<float>(moment, key_width + value_width)) {}

  /// Row `row` becomes what it is with the rows `others`, whose cosines are `cosines`.
  void write(const RowSet& set, const LaneView& lane, std::size_t row, std::span<const Position> others, std::span<const float> cosines,
             const MergeHow& how) {
    read(set, lane, row, how, own_.data());
    const bool by_distance = how.weights == MergeWeights::gaussian;
    const double mean = by_distance ? mean_distance(set, lane, others, how) : 1.0;
    const double norm = how.weights == MergeWeights::value_norm ? length_of(own_.data() + key_width_, values()) : 0.0;
    const double mass = weight_of(set, row, how);
    double total = mass;
    double own = (how.weights == MergeWeights::exponential ? math::exp(1.0) : 1.0) * mass;
    double divisor = own;
    std::fill(sums_.begin(), sums_.end(), 0.0);
    for (std::size_t i = 0; i < others.size(); ++i) {
      read(set, lane, others[i], how, other_.data());
      const double times = weight_of(set, others[i], how);
      const double distance = by_distance ? distance_to_other() / mean : 0.0;
      const double share =
          times * (by_distance ? math::exp(-distance * distance) : share_of(how.weights, static_cast<double>(cosines[i]), norm));
      total += times;
      if (how.weights == MergeWeights::pivot) { own += share; }
      divisor += how.weights == MergeWeights::pivot || how.weights == MergeWeights::cosine ? times : share;
      for (std::size_t c = 0; c < sums_.size(); ++c) { sums_[c] += share * static_cast<double>(other_[c]); }
    }
    for (std::size_t c = 0; c < sums_.size(); ++c) {
      own_[c] = static_cast<float>((own * static_cast<double>(own_[c]) + sums_[c]) / divisor);
    }
    if (how.keys && how.angle == KeyAngle::unrotated) { lane.turn(std::int64_t{set.rows.turned(row)}, own_.data()); }
    set.write(lane, row, {own_.data(), how.keys ? key_width_ : 0}, {own_.data() + key_width_, values()});
    if (how.weighs) { set.weigh(row, static_cast<float>(math::log(total))); }
  }

 private:
  [[nodiscard]] std::size_t values() const noexcept { return sums_.size() - key_width_; }
  void read(const RowSet& set, const LaneView& lane, std::size_t row, const MergeHow& how, float* out) const {
    if (how.keys) { read_key(set, lane, row, how.angle, out); }
    lane.values({row, row + 1}, out + key_width_);
  }
  static double weight_of(const RowSet& set, std::size_t row, const MergeHow& how) noexcept {
    return how.weighs ? math::exp(static_cast<double>(set.rows.log_weight(row))) : 1.0;
  }
  /// Of the keys of the row and the other that were read last; 0 where keys are not merged.
  [[nodiscard]] double distance_to_other() const noexcept {
    double sum = 0.0;
    for (std::size_t c = 0; c < key_width_; ++c) {
      const double difference = static_cast<double>(own_[c]) - static_cast<double>(other_[c]);
      sum += difference * difference;
    }
    return math::sqrt(sum);
  }
  [[nodiscard]] double mean_distance(const RowSet& set, const LaneView& lane, std::span<const Position> others, const MergeHow& how) {
    double sum = 0.0;
    for (const Position other : others) {
      read(set, lane, other, how, other_.data());
      sum += distance_to_other();
    }
    return std::max(sum / static_cast<double>(others.size()), 1e-30);
  }
  [[nodiscard]] double share_of(MergeWeights weights, double cosine, double norm) const noexcept {
    switch (weights) {
      case MergeWeights::average:
        return 1.0;
      case MergeWeights::pivot:
        return 0.5;
      case MergeWeights::cosine:
        return cosine;
      case MergeWeights::exponential:
        return math::exp(cosine);
      case MergeWeights::similarity:
        return std::max(0.5 * (cosine + 1.0), 1e-6);
      case MergeWeights::value_norm:
      case MergeWeights::gaussian:
        break;
    }
    const double other = length_of(other_.data() + key_width_, values());
    return std::max(cosine, 0.0) * other / (other + norm + 1e-6);
  }

  std::size_t key_width_;
  Vector<double> sums_;
  Vector<float> own_;
  Vector<float> other_;
};

/// Merges the rows that go, those for which takes(i) holds, each into its nearest.
inline void merge_rows(const RowSet& set, const LaneView& lane, const GoneAndKept& rows, const Nearest& nearest, const MergeHow& how,
                       const Moment& moment, auto&& takes) {
  Vector<Position> taken(rows.gone.get_allocator());  // indices of rows.gone, by target, in text order for each
  for (std::size_t i = 0; !rows.kept.empty() && i < rows.gone.size(); ++i) {
    if (takes(i)) { taken.push_back(static_cast<Position>(i)); }
  }
  std::sort(taken.begin(), taken.end(),
            [&](Position a, Position b) { return nearest.target[a] != nearest.target[b] ? nearest.target[a] < nearest.target[b] : a < b; });
  MergedRow row(lane.site.shape.key_width(), lane.site.shape.value_width(), moment);
  Vector<Position> others(taken.get_allocator());
  Vector<float> cosines(nearest.cosine.get_allocator());
  for (std::size_t first = 0; first < taken.size();) {
    const Position target = nearest.target[taken[first]];
    others.clear();
    cosines.clear();
    for (; first < taken.size() && nearest.target[taken[first]] == target; ++first) {
      others.push_back(rows.gone[taken[first]]);
      cosines.push_back(nearest.cosine[taken[first]]);
    }
    row.write(set, lane, rows.kept[target], {others.data(), others.size()}, {cosines.data(), cosines.size()}, how);
  }
}

}  // namespace detail
}  // namespace kvcompress
