// include/kvcompress/quantization/gear/encoder.hpp - builds segments: outliers out, codes, outliers back, the low-rank rest.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>

#include "kvcompress/core/half.hpp"
#include "kvcompress/core/math.hpp"
#include "kvcompress/core/memory.hpp"
#include "kvcompress/quantization/gear/outliers.hpp"
#include "kvcompress/quantization/gear/power_iteration.hpp"
#include "kvcompress/quantization/gear/segment.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::gear {

/// What becomes one segment in each of `lanes` lanes: one lane, or all of a layer, whose tokens are then one vector each.
struct Job {
  std::size_t lanes;
  std::size_t rows;
  std::size_t dim;
  std::size_t rank;               ///< no larger than rows and dim
  std::size_t outliers_per_side;  ///< of a vector: a key channel over the rows, a value token over the lanes
  std::size_t sweeps;
  std::uint64_t seed;  ///< of the power iteration's start, the same for all segments
  const float* start;  ///< or the start itself, (lanes, dim, start_rank)
  std::size_t start_rank;
  bool round_to_half;  ///< codes and outliers pass through fp16 before the rest is factorised
  Origin origin;
};

/// Runs one job. Buffers lie in `scratch`: about 4 bytes per number of a lane, 8 * rank per row and 8 per outlier.
template <class Codes, class Backbone>
class Encoder {
  using Scale = typename Codes::Scale;
  static constexpr bool token_scales = !Codes::keys && Backbone::group == 0;  // one for the whole vector, hence for all lanes
  static constexpr std::size_t channels_at_once = 8;                          // of keys: one alone reads a line of memory for each number

 public:
  Encoder(const Job& job, Vector<float>& scratch)
      : job_(job), vectors_(Codes::keys ? job.dim : job.rows), length_(Codes::keys ? job.rows : job.lanes * job.dim) {
    const std::size_t most = vectors_ * most_outliers(job.outliers_per_side, length_);
    std::size_t bytes = 0;
    for (int pass = 0; pass < 2; ++pass) {  // first measured, then carved
      std::byte* base = pass == 0 ? nullptr : reinterpret_cast<std::byte*>(scratch.data());
      bytes = 0;
      carve(base, bytes, p_, job.rank * job.dim);
      carve(base, bytes, q_, job.rank * job.rows);
      carve(base, bytes, places_, most);
      carve(base, bytes, matrix_, job.rows * job.dim);
      carve(base, bytes, vector_, std::max((Codes::keys ? channels_at_once : 1) * length_, job.dim));
      carve(base, bytes, strip_, Codes::encode_floats(job.dim));
      carve(base, bytes, codes_, Codes::row_codes(job.dim));
      carve(base, bytes, fills_, vectors_);
      carve(base, bytes, sorted_, length_);
      carve(base, bytes, chosen_, length_);
      carve(base, bytes, scales_, token_scales ? job.rows : 0);
      carve(base, bytes, minima_, token_scales ? job.rows : 0);
      if (pass == 0 && scratch.size() * sizeof(float) < bytes) {
        scratch.clear();
        scratch.resize(bytes / sizeof(float));
      }
    }
  }

  /// read(lane, row, out) gives a row; take(lane, segment) gets what was made of it. Fails only for want of memory, in between.
  void run(const Memory& memory, auto&& read, auto&& take) {
    if constexpr (Codes::keys) {
      load(0, read);
      choose_in_channels();
    } else if (token_scales || job_.outliers_per_side > 0) {
      choose_in_tokens(read);
    }
    Common common{memory};
    if constexpr (token_scales) {
      if (job_.lanes > 1) { common.make(job_.rows, scales_, minima_); }
    }
    for (std::size_t lane = 0; lane < job_.lanes; ++lane) {
      if constexpr (!Codes::keys) {
        load(lane, read);
        if constexpr (!token_scales) {
          for_places(lane, [&](std::size_t row, std::size_t c) { matrix_[row * job_.dim + c] = fills_[row]; });
        }
      }
      std::size_t own = 0;
      for_places(lane, [&](std::size_t, std::size_t) { ++own; });
      auto* segment = Segment<Codes>::create({job_.rows, job_.dim, job_.rank, own, common.scales != nullptr}, job_.origin, memory,
                                             common.scales, common.scales != nullptr && lane == 0);
      take(lane, segment);
      encode(lane, *segment, read);
      split_rest(lane, *segment, read);
      if (job_.rank > 0) { factorise(lane, *segment); }
    }
  }

 private:
  /// Holds the scales that the lanes share until their segments do.
  struct Common {
    const Memory& memory;
    TokenScales<Scale>* scales = nullptr;

    void make(std::size_t rows, const Scale* from, const Scale* minima) {
      scales = TokenScales<Scale>::create(rows, memory);
      std::copy_n(from, rows, scales->scales());
      std::copy_n(minima, rows, scales->minima());
    }
    ~Common() {
      if (scales != nullptr) { scales->release(memory); }
    }
  };

  template <class T>
  static void carve(std::byte* base, std::size_t& bytes, T*& part, std::size_t count) noexcept {
    part = base == nullptr ? nullptr : reinterpret_cast<T*>(base + bytes);
    bytes += (count * sizeof(T) + 7) / 8 * 8;
  }
  void load(std::size_t lane, auto& read) {
    for (std::size_t row = 0; row < job_.rows; ++row) { read(lane, row, matrix_ + row * job_.dim); }
  }
  /// Calls found(row, channel) for the places of a lane, by row.
  void for_places(std::size_t lane, auto&& found) const {
    const std::size_t first = lane * job_.dim;
    for (std::size_t i = 0; i < place_count_; ++i) {
      if (places_[i].channel >= first && places_[i].channel < first + job_.dim) { found(places_[i].row, places_[i].channel - first); }
    }
  }
  /// Calls found(row, channel, number) likewise, and reads each row once.
  void for_outliers(std::size_t lane, auto& read, auto&& found) {
    std::size_t loaded = job_.rows;  // none
    for_places(lane, [&](std::size_t row, std::size_t c) {
      if (row != loaded) { read(lane, row, vector_); }
      loaded = row;
      found(row, c, vector_[c]);
    });
  }
  /// The mean of the vector, outliers included: what stands in their slots while the rest is quantised, so that they widen no group.
  [[nodiscard]] float mean(const float* vector) const noexcept {
    double sums[8] = {};  // so that compilers may use vectors
    for (std::size_t i = 0; i + 8 <= length_; i += 8) {
      for (std::size_t lane = 0; lane < 8; ++lane) { sums[lane] += static_cast<double>(vector[i + lane]); }
    }
    double sum = std::accumulate(sums, sums + 8, 0.0);
    for (std::size_t i = length_ / 8 * 8; i < length_; ++i) { sum += static_cast<double>(vector[i]); }
    return static_cast<float>(sum / static_cast<double>(length_));
  }

  void choose_in_channels() {
    if (job_.outliers_per_side == 0) { return; }
    for (std::size_t first = 0; first < job_.dim; first += channels_at_once) {
      const std::size_t channels = std::min(channels_at_once, job_.dim - first);
      for (std::size_t row = 0; row < job_.rows; ++row) {
        for (std::size_t i = 0; i < channels; ++i) { vector_[i * length_ + row] = matrix_[row * job_.dim + first + i]; }
      }
      for (std::size_t c = first; c < first + channels; ++c) {
        const float* vector = vector_ + (c - first) * length_;
        const std::size_t count = choose_outliers(vector, length_, job_.outliers_per_side, sorted_, chosen_);
        const float fill = mean(vector);
        for (std::size_t i = 0; i < count; ++i) {
          places_[place_count_++] = {chosen_[i], static_cast<std::uint32_t>(c)};
          matrix_[chosen_[i] * job_.dim + c] = fill;
        }
      }
    }
    std::sort(places_, places_ + place_count_, [](Place a, Place b) { return a.row != b.row ? a.row < b.row : a.channel < b.channel; });
  }
  void choose_in_tokens(auto& read) {
    for (std::size_t row = 0; row < job_.rows; ++row) {
      for (std::size_t lane = 0; lane < job_.lanes; ++lane) { read(lane, row, vector_ + lane * job_.dim); }
      const std::size_t count = choose_outliers(vector_, length_, job_.outliers_per_side, sorted_, chosen_);
      fills_[row] = mean(vector_);
      for (std::size_t i = 0; i < count; ++i) {
        places_[place_count_++] = {static_cast<std::uint32_t>(row), chosen_[i]};
        vector_[chosen_[i]] = fills_[row];
      }
      if constexpr (token_scales) {
        const auto fitted = quantization::fit_run<Codes::bits, Scale>(vector_, length_);
        scales_[row] = fitted.scale;
        minima_[row] = fitted.minimum;
      }
    }
  }

  /// Outliers are not in the scales, but get the nearest code there is, so that little is left for their differences.
  void encode(std::size_t lane, const Segment<Codes>& segment, auto& read) {
    const auto parts = segment.codes();
    if constexpr (token_scales) {
      if (!segment.sizes().scales_outside) {
        std::copy_n(scales_, job_.rows, parts.scales);
        std::copy_n(minima_, job_.rows, parts.minima);
      }
    } else {
      Codes::fit(matrix_, job_.rows, job_.dim, parts);
      for_outliers(lane, read, [&](std::size_t row, std::size_t c, float x) { matrix_[row * job_.dim + c] = x; });
    }
    Codes::encode(matrix_, job_.rows, job_.dim, parts, strip_);
  }
  /// Writes the outliers, and what codes and outliers leave of the rows into the matrix.
  void split_rest(std::size_t lane, const Segment<Codes>& segment, auto& read) {
    using List = Outliers<Scale>;
    const auto parts = segment.codes();
    const auto seen = [&](float x) { return job_.round_to_half ? static_cast<float>(half(x)) : x; };
    for (std::size_t row = 0; row < job_.rows; ++row) {
      float* rest = matrix_ + row * job_.dim;
      read(lane, row, vector_);
      Codes::decode_row(row, job_.rows, job_.dim, parts, codes_, rest);
      if (job_.round_to_half) { std::transform(rest, rest + job_.dim, rest, seen); }
      for (std::size_t c = 0; c < job_.dim; ++c) { rest[c] = vector_[c] - rest[c]; }
    }
    if (segment.outlier_count() == 0) { return; }
    std::fill_n(segment.tile_ends(), List::tiles(job_.rows), 0U);
    Scale* const deltas = segment.deltas();
    std::uint8_t* const rows = segment.outlier_rows();
    std::uint8_t* const channels = segment.outlier_channels();
    std::uint32_t* const ends = segment.tile_ends();
    std::size_t i = 0;
    for_outliers(lane, read, [&](std::size_t row, std::size_t c, float x) {
      const float delta = x - Codes::decode(row, c, job_.rows, job_.dim, parts);
      deltas[i] = Scale(std::clamp(delta, -largest<Scale>, largest<Scale>));
      rows[i] = static_cast<std::uint8_t>(row % List::tile_rows);
      if (List::channel_bytes(job_.dim) == 1) {
        channels[i] = static_cast<std::uint8_t>(c);
      } else {
        reinterpret_cast<std::uint16_t*>(channels)[i] = static_cast<std::uint16_t>(c);
      }
      ends[row / List::tile_rows] = static_cast<std::uint32_t>(++i);
      matrix_[row * job_.dim + c] = x - seen(x);
    });
    for (std::size_t tile = 1; tile < List::tiles(job_.rows); ++tile) {  // tiles without outliers
      segment.tile_ends()[tile] = std::max(segment.tile_ends()[tile], segment.tile_ends()[tile - 1]);
    }
  }
  void factorise(std::size_t lane, const Segment<Codes>& segment) const noexcept {
    Uniform uniform(job_.seed);
    for (std::size_t c = 0; c < job_.dim; ++c) {
      for (std::size_t j = 0; j < job_.rank; ++j) {
        p_[j * job_.dim + c] =
            job_.start != nullptr ? static_cast<double>(job_.start[(lane * job_.dim + c) * job_.start_rank + j]) : uniform();
      }
    }
    power_iteration(matrix_, job_.rows, job_.dim, job_.rank, job_.sweeps, p_, q_);
    // Columns of a have length sqrt(rows); where b would be so small that 16 bits lose its digits, both get half of the way there.
    for (std::size_t j = 0; j < job_.rank; ++j) {
      double* p = p_ + j * job_.dim;
      double top = 0.0;
      for (std::size_t c = 0; c < job_.dim; ++c) { top = std::max(top, p[c] < 0.0 ? -p[c] : p[c]); }
      double length = __builtin_sqrt(static_cast<double>(job_.rows));
      top /= length;
      if (top > 0.0 && top < 0x1p-12) {
        for (double share = 1.0; top * share * share < 0.25 && share < 0x1p20; share *= 2.0) { length *= 0.5; }
      }
      for (std::size_t t = 0; t < job_.rows; ++t) {
        segment.a()[j * job_.rows + t] = Scale(static_cast<float>(q_[j * job_.rows + t] * length));
      }
      for (std::size_t c = 0; c < job_.dim; ++c) { vector_[c] = static_cast<float>(p[c] / length); }
      kernels::convert(vector_, segment.b() + j * job_.dim, job_.dim);
    }
  }

  Job job_;
  std::size_t vectors_;
  std::size_t length_;
  std::size_t place_count_ = 0;
  double* p_ = nullptr;              // (rank, dim)
  double* q_ = nullptr;              // (rank, rows)
  Place* places_ = nullptr;          // by row, then channel, of all lanes
  float* matrix_ = nullptr;          // (rows, dim) of one lane: filled rows, then what is left of them
  float* vector_ = nullptr;          // one vector, or one row
  float* fills_ = nullptr;           // (vectors)
  float* strip_ = nullptr;           // what encoding codes needs
  std::uint8_t* codes_ = nullptr;    // of one row
  float* sorted_ = nullptr;          // (length), scratch of choose_outliers
  std::uint32_t* chosen_ = nullptr;  // (length)
  Scale* scales_ = nullptr;          // (rows), of whole tokens
  Scale* minima_ = nullptr;
};

}  // namespace kvcompress::gear
