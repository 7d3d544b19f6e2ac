// include/kvcompress/quantization/gear/codes.hpp - GEAR's backbones: how the codes of one segment lie and what they answer.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kvcompress/core/views.hpp"
#include "kvcompress/kernels/codes.hpp"
#include "kvcompress/quantization/encode_rows.hpp"
#include "kvcompress/quantization/group_quantizer.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// KCVT: a key group is one channel over the whole segment, a value group one token.
struct Kcvt {
  static constexpr std::size_t group = 0;         ///< no fixed length
  static constexpr std::size_t row_multiple = 1;  ///< rows are encoded in multiples of it
  static constexpr std::size_t buffer = 20;       ///< exact rows that become a segment, where options do not say
};
/// KIVI's groups: `Group` tokens of a key channel, `Group` channels of a value token (a shorter last one where Group does not divide them).
template <std::size_t Group = 64>
struct KiviGroups {
  static_assert(Group % 8 == 0 && Group > 0, "Group must be a positive multiple of 8");
  static constexpr std::size_t group = Group;
  static constexpr std::size_t row_multiple = Group;
  static constexpr std::size_t buffer = Group;
};

namespace gear {

/// Where the parts of the codes of a segment lie.
template <class Scale>
struct CodeParts {
  std::uint8_t* codes;
  Scale* scales;
  Scale* minima;
};

/// What stands between a scale and a minimum that are known already and GroupQuantizer.
template <int Bits, class Scale>
GroupQuantizer<Bits, Scale> quantizer(Scale scale, Scale minimum) noexcept {
  GroupQuantizer<Bits, Scale> known;
  known.scale = scale;
  known.minimum = minimum;
  return known;
}

/// GroupQuantizer::decode for a vector of numbers: rounded twice, as there.
inline simd::native::f32 decoded(simd::native::f32 code, simd::native::f32 scale, simd::native::f32 minimum) noexcept {
  namespace vec = simd::native;
  return vec::add(vec::keep(vec::mul(code, scale)), minimum);
}

/// Keys: codes in strips of 16 tokens, the last one cut to a multiple of 4; scales and minima (groups, dim), one group under Kcvt.
template <int Bits, class Backbone, class Scale_>
struct KeyCodes {
  using Scale = Scale_;
  using Quantizer = GroupQuantizer<Bits, Scale>;
  using Strip = kernels::Strip<Bits>;
  using Parts = CodeParts<Scale>;
  static constexpr bool keys = true;

  static constexpr std::size_t code_bytes(std::size_t rows, std::size_t dim) noexcept {
    return rows / Strip::lanes * Strip::bytes(dim) + Strip::narrow_bytes(dim, lanes_of(rows / Strip::lanes, rows));
  }
  static constexpr std::size_t groups(std::size_t rows, std::size_t dim) noexcept { return rows / length(rows) * dim; }

  /// Scales and minima of x (rows, dim).
  static void fit(const float* x, std::size_t rows, std::size_t dim, const Parts& parts) noexcept {
    for (std::size_t g = 0; g < rows / length(rows); ++g) {
      quantization::fit_channels<Bits>(x + g * length(rows) * dim, length(rows), dim, parts.scales + g * dim, parts.minima + g * dim);
    }
  }
  /// `scratch` has encode_floats(dim) numbers.
  static constexpr std::size_t encode_floats(std::size_t dim) noexcept { return Strip::bytes(dim) / sizeof(float); }
  static void encode(const float* x, std::size_t rows, std::size_t dim, const Parts& parts, float* scratch) noexcept {
    constexpr std::size_t at_once = 256;  // channels
    std::uint8_t codes[Strip::lanes * at_once];
    for (std::size_t first = 0; first < rows; first += Strip::lanes) {
      const std::size_t kept = lanes_of(first / Strip::lanes, rows);
      std::uint8_t* place = parts.codes + first / Strip::lanes * Strip::bytes(dim);
      std::uint8_t* strip = kept == Strip::lanes ? place : reinterpret_cast<std::uint8_t*>(scratch);
      if (first + Strip::lanes > rows) { std::memset(strip, 0, Strip::bytes(dim)); }  // lanes without a row are saved too
      for (std::size_t row = first; row < std::min(first + Strip::lanes, rows);) {
        const std::size_t end = std::min({row / length(rows) * length(rows) + length(rows), first + Strip::lanes, rows});
        const std::size_t scale = row / length(rows) * dim;
        for (std::size_t c = 0; c < dim; c += at_once) {
          const std::size_t channels = std::min(dim - c, at_once);
          quantization::encode_channels<Bits>(x + row * dim + c, end - row, channels, dim, parts.scales + scale + c,
                                              parts.minima + scale + c, codes, at_once);
          Strip::put_lanes(strip, dim, row - first, end - first, c, Strip::padded(channels), codes, at_once);
        }
        row = end;
      }
      if (strip != place) { Strip::narrow(strip, dim, kept, place); }
    }
  }
  [[nodiscard]] static float decode(std::size_t row, std::size_t c, std::size_t rows, std::size_t dim, const Parts& parts) noexcept {
    const std::size_t scale = row / length(rows) * dim + c;
    return Quantizer::decode(code(row, c, rows, dim, parts), parts.scales[scale], parts.minima[scale]);
  }
  [[nodiscard]] static std::uint8_t code(std::size_t row, std::size_t c, std::size_t rows, std::size_t dim, const Parts& parts) noexcept {
    const std::size_t index = row / Strip::lanes;
    return Strip::get(parts.codes + index * Strip::bytes(dim), dim, row % Strip::lanes, c, lanes_of(index, rows));
  }
  /// All numbers of a row. `codes` is scratch for row_codes(dim) bytes.
  static constexpr std::size_t row_codes(std::size_t dim) noexcept { return Strip::padded(dim) + simd::native::lanes; }
  static void decode_row(std::size_t row, std::size_t rows, std::size_t dim, const Parts& parts, std::uint8_t* codes, float* out) noexcept {
    namespace vec = simd::native;
    const std::size_t index = row / Strip::lanes;
    Strip::get_lane(parts.codes + index * Strip::bytes(dim), dim, row % Strip::lanes, lanes_of(index, rows), codes);
    const std::size_t scale = row / length(rows) * dim;
    kernels::for_vectors(dim, [&](std::size_t c, auto part) {
      part.store(out + c,
                 decoded(vec::to_float(vec::load(codes + c)), part.load(parts.scales + scale + c), part.load(parts.minima + scale + c)));
    });
  }

  static constexpr std::size_t scratch_floats(std::size_t dim, std::size_t queries) noexcept {
    return kernels::CodeProducts<Bits, Accumulation::exact>::floats(queries, dim) + Strip::bytes(dim) / sizeof(float);
  }
  static void scores(Accumulation accumulation, RowRange range, std::size_t rows, std::size_t dim, const Parts& parts, const float* queries,
                     std::size_t query_stride, std::size_t query_count, float* logits, std::size_t logit_stride, float* scratch) noexcept {
    auto* whole = reinterpret_cast<std::uint8_t*>(scratch);  // of the last strip, if it is cut
    kernels::with_accumulation<Bits>(accumulation, [&]<Accumulation Mode>() {
      kernels::CodeProducts<Bits, Mode> products(scratch + Strip::bytes(dim) / sizeof(float), query_count, dim);
      const std::size_t first_group = range.first / length(rows);
      products.take_keys(queries, query_stride, dim, (range.last - 1) / length(rows) + 1 - first_group,
                         [&](std::size_t g) { return parts.scales + (first_group + g) * dim; });
      for (std::size_t g = first_group; g * length(rows) < range.last; ++g) {
        products.fold_keys(parts.scales + g * dim, parts.minima + g * dim, dim);
        const std::size_t end = std::min((g + 1) * length(rows), range.last);
        for (std::size_t row = std::max(g * length(rows), range.first); row < end;) {
          const std::size_t lane = row % Strip::lanes;
          const std::size_t count = std::min(end - row, Strip::lanes - lane);
          const std::size_t index = row / Strip::lanes;
          const std::size_t kept = lanes_of(index, rows);
          const std::uint8_t* strip = parts.codes + index * Strip::bytes(dim);
          if (kept < Strip::lanes) { Strip::widen(strip, dim, kept, whole); }
          const bool more = kept == Strip::lanes && range.size() >= 128 && row + 128 + Strip::lanes <= rows;
          products.template strip<false>(kept < Strip::lanes ? whole : strip, dim, 0, Strip::padded(dim),
                                         more ? strip + 128 / Strip::lanes * Strip::bytes(dim) : nullptr, lane, lane + count,
                                         logits + (row - range.first), logit_stride);
          row += count;
        }
      }
    });
  }

 private:
  static constexpr std::size_t length(std::size_t rows) noexcept { return Backbone::group == 0 ? rows : Backbone::group; }
  /// Lanes that the strip `index` of a segment has.
  static constexpr std::size_t lanes_of(std::size_t index, std::size_t rows) noexcept {
    return std::min(Strip::lanes, (rows - index * Strip::lanes + 3) / 4 * 4);
  }
};

/// Values: codes in blocks of 128 tokens, (blocks, strips of 16 channels), the tokens of the last block padded to Strip::step_multiple; scales
/// and minima (groups of a row, rows).
template <int Bits, class Backbone, class Scale_>
struct ValueCodes {
  using Scale = Scale_;
  using Quantizer = GroupQuantizer<Bits, Scale>;
  using Strip = kernels::Strip<Bits>;
  using Parts = CodeParts<Scale>;
  static constexpr bool keys = false;
  static constexpr int bits = Bits;

  static constexpr std::size_t code_bytes(std::size_t rows, std::size_t dim) noexcept { return strips(dim) * Strip::bytes(rows); }
  static constexpr std::size_t groups(std::size_t rows, std::size_t dim) noexcept { return (dim + length(dim) - 1) / length(dim) * rows; }

  static void fit(const float* x, std::size_t rows, std::size_t dim, const Parts& parts) noexcept {
    for (std::size_t i = 0; i < groups(rows, dim); ++i) {
      const std::size_t first = i / rows * length(dim);
      const auto fitted = quantization::fit_run<Bits, Scale>(x + i % rows * dim + first, std::min(length(dim), dim - first));
      parts.scales[i] = fitted.scale;
      parts.minima[i] = fitted.minimum;
    }
  }
  static constexpr std::size_t encode_floats(std::size_t /*dim*/) noexcept { return 0; }
  static void encode(const float* x, std::size_t rows, std::size_t dim, const Parts& parts, float* /*scratch*/) noexcept {
    std::memset(parts.codes, 0, code_bytes(rows, dim));
    for (std::size_t row = 0; row < rows; ++row) {
      for (std::size_t c = 0; c < dim; c += Strip::lanes) {
        quantization::TokenScales<Strip::lanes> known;
        for (std::size_t channel = c; channel < std::min(c + Strip::lanes, dim);) {
          const std::size_t group = channel / length(dim);
          const std::size_t end = std::min({(group + 1) * length(dim), c + Strip::lanes, dim});
          known.set(channel - c, end - channel, parts.scales[group * rows + row], parts.minima[group * rows + row]);
          channel = end;
        }
        known.template encode<Bits>(x + row * dim + c, dim - c, 0, strip_of(parts, row, c, rows, dim), steps_of(row, rows), row % block);
      }
    }
  }
  [[nodiscard]] static float decode(std::size_t row, std::size_t c, std::size_t rows, std::size_t dim, const Parts& parts) noexcept {
    const std::size_t scale = c / length(dim) * rows + row;
    return Quantizer::decode(code(row, c, rows, dim, parts), parts.scales[scale], parts.minima[scale]);
  }
  [[nodiscard]] static std::uint8_t code(std::size_t row, std::size_t c, std::size_t rows, std::size_t dim, const Parts& parts) noexcept {
    return Strip::get(strip_of(parts, row, c, rows, dim), steps_of(row, rows), c % Strip::lanes, row % block);
  }
  /// All numbers of a row.
  static constexpr std::size_t row_codes(std::size_t /*dim*/) noexcept { return 0; }
  static void decode_row(std::size_t row, std::size_t rows, std::size_t dim, const Parts& parts, std::uint8_t* /*codes*/,
                         float* out) noexcept {
    namespace vec = simd::native;
    kernels::for_vectors(dim, [&](std::size_t c, auto part) {
      float scales[vec::lanes];
      float minima[vec::lanes];
      for (std::size_t i = 0; i < vec::lanes; i += 8) {  // groups are multiples of 8, or the whole row
        const std::size_t at = Backbone::group == 0 ? row : std::min(c + i, dim - 1) / length(dim) * rows + row;
        std::fill_n(scales + i, 8, static_cast<float>(parts.scales[at]));
        std::fill_n(minima + i, 8, static_cast<float>(parts.minima[at]));
      }
      const vec::i32 codes = Strip::get_step(strip_of(parts, row, c, rows, dim), steps_of(row, rows), row % block, c % Strip::lanes);
      part.store(out + c, decoded(vec::to_float(codes), vec::load(scales), vec::load(minima)));
    });
  }

  static constexpr std::size_t scratch_floats(std::size_t dim, std::size_t queries) noexcept {
    return kernels::CodeProducts<Bits, Accumulation::exact>::floats(queries, block) + groups(1, dim);
  }
  static void accumulate(Accumulation accumulation, RowRange range, std::size_t rows, std::size_t dim, const Parts& parts,
                         const float* weights, std::size_t weight_stride, std::size_t query_count, float* out, std::size_t out_stride,
                         float* scratch) noexcept {
    kernels::with_accumulation<Bits>(accumulation, [&]<Accumulation Mode>() {
      kernels::CodeProducts<Bits, Mode> products(scratch, query_count, block);
      float* factors = scratch + products.floats(query_count, block);  // (groups)
      for (std::size_t row = range.first; row < range.last;) {
        const std::size_t place = row % block;
        const std::size_t count = std::min(range.last - row, block - place);
        const std::size_t first = place / Strip::step_multiple * Strip::step_multiple;  // steps start with a line
        const std::size_t before = place - first;
        products.take_values(
            weights + (row - range.first), weight_stride, before, count, groups(1, dim),
            [&](std::size_t g) { return parts.scales + g * rows + row; }, factors);
        const bool more = range.size() >= block && row - place + 2 * block <= rows;
        for (std::size_t c = 0; c < dim;) {
          const std::size_t group = c / length(dim);
          const std::size_t scale = group * rows + row;
          products.fold_values(parts.scales + scale, parts.minima + scale, before, count, factors[group]);
          const std::size_t end = std::min(c + length(dim), dim);
          while (c < end) {
            const std::size_t lane = c % Strip::lanes;
            const std::size_t lanes = std::min(end - c, Strip::lanes - lane);
            const std::uint8_t* strip = strip_of(parts, row, c, rows, dim);
            products.template strip<true>(strip, steps_of(row, rows), first, Strip::padded(before + count),
                                          more ? strip + strips(dim) * Strip::bytes(block) : nullptr, lane, lane + lanes, out + c,
                                          out_stride);
            c += lanes;
          }
        }
        row += count;
      }
    });
  }

 private:
  static constexpr std::size_t block = 128;
  static constexpr std::size_t length(std::size_t dim) noexcept { return Backbone::group == 0 ? dim : Backbone::group; }
  static constexpr std::size_t strips(std::size_t dim) noexcept { return (dim + Strip::lanes - 1) / Strip::lanes; }
  /// Steps of the block that `row` lies in.
  static constexpr std::size_t steps_of(std::size_t row, std::size_t rows) noexcept { return std::min(block, rows - row / block * block); }
  static std::uint8_t* strip_of(const Parts& parts, std::size_t row, std::size_t channel, std::size_t rows, std::size_t dim) noexcept {
    return parts.codes + row / block * strips(dim) * Strip::bytes(block) + channel / Strip::lanes * Strip::bytes(steps_of(row, rows));
  }
};

}  // namespace gear
}  // namespace kvcompress
