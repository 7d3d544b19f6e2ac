// include/kvcompress/quantization/gear/codes.hpp - GEAR's backbones: how the codes of one segment lie and what they answer.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kvcompress/core/views.hpp"
#include "kvcompress/kernels/packed.hpp"
#include "kvcompress/quantization/group_quantizer.hpp"

namespace kvcompress {

/// KCVT: a key group is one channel over the whole segment, a value group one token.
struct Kcvt {
  static constexpr std::size_t group = 0;          ///< no fixed length
  static constexpr std::size_t row_multiple = 1;   ///< rows are encoded in multiples of it
  static constexpr std::size_t buffer = 20;        ///< exact rows that become a segment, where options do not say
};
/// KIVI's groups: `Group` tokens of a key channel, `Group` channels of a value token (a shorter last one where Group does not divide them).
template <std::size_t Group = 64>
struct KiviGroups {
  static_assert(Group % kernels::unit == 0 && Group > 0, "Group must be a positive multiple of 8");
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
  const float any = 0.0F;
  GroupQuantizer<Bits, Scale> known(&any, 1, 1);
  known.scale = scale;
  known.minimum = minimum;
  return known;
}

/// Keys: codes packed along tokens, in blocks of 128 tokens or one group, (blocks, dim, tokens of the block), the last block padded to a
/// multiple of 8 tokens with code 0; scales and minima (groups, dim), one group under Kcvt.
template <int Bits, class Backbone, class Scale_>
struct KeyCodes {
  using Scale = Scale_;
  using Quantizer = GroupQuantizer<Bits, Scale>;
  using Parts = CodeParts<Scale>;
  static constexpr bool keys = true;
  static constexpr std::size_t block = Backbone::group == 0 ? 128 : Backbone::group;

  static constexpr std::size_t code_bytes(std::size_t rows, std::size_t dim) noexcept {
    return (rows + kernels::unit - 1) / kernels::unit * Bits * dim;
  }
  static constexpr std::size_t groups(std::size_t rows, std::size_t dim) noexcept { return (Backbone::group == 0 ? 1 : rows / block) * dim; }

  /// Scales and minima of x (rows, dim).
  static void fit(const float* x, std::size_t rows, std::size_t dim, const Parts& parts) noexcept {
    const std::size_t length = Backbone::group == 0 ? rows : block;
    for (std::size_t i = 0; i < groups(rows, dim); ++i) {
      const Quantizer fitted(x + i / dim * length * dim + i % dim, length, dim);
      parts.scales[i] = fitted.scale;
      parts.minima[i] = fitted.minimum;
    }
  }
  static void encode(const float* x, std::size_t rows, std::size_t dim, const Parts& parts) noexcept {
    for (std::size_t first = 0; first < rows; first += block) {
      for (std::size_t c = 0; c < dim; ++c) {
        const auto known = quantizer<Bits>(parts.scales[scale_index(first, c, dim)], parts.minima[scale_index(first, c, dim)]);
        std::uint8_t* to = parts.codes + channel_offset(first, c, rows, dim);
        for (std::size_t t = first; t < std::min(first + block, rows); t += kernels::unit, to += Bits) {
          std::uint8_t eight[kernels::unit] = {};
          for (std::size_t i = 0; i < std::min(kernels::unit, rows - t); ++i) { eight[i] = known.encode(x[(t + i) * dim + c]); }
          kernels::pack<Bits>(eight, to);
        }
      }
    }
  }
  [[nodiscard]] static float decode(std::size_t row, std::size_t c, std::size_t rows, std::size_t dim, const Parts& parts) noexcept {
    return GroupQuantizer<Bits, Scale>::decode(code(row, c, rows, dim, parts), parts.scales[scale_index(row, c, dim)], parts.minima[scale_index(row, c, dim)]);
  }
  [[nodiscard]] static std::uint8_t code(std::size_t row, std::size_t c, std::size_t rows, std::size_t dim, const Parts& parts) noexcept {
    const std::size_t first = row / block * block;
    return kernels::code_at<Bits>(parts.codes + channel_offset(first, c, rows, dim), row - first);
  }

  static constexpr std::size_t scratch_floats(std::size_t dim, std::size_t queries) noexcept { return queries * (dim + 1 + kernels::unit); }
  static void scores(RowRange range, std::size_t rows, std::size_t dim, const Parts& parts, const float* queries, std::size_t query_stride,
                     std::size_t query_count, float* logits, std::size_t logit_stride, float* scratch) noexcept {
    float* folded = scratch;                       // (queries, dim)
    float* offsets = folded + query_count * dim;   // (queries)
    float* edge = offsets + query_count;           // (queries, 8), a unit of which the range holds a part
    for (std::size_t row = range.first; row < range.last;) {
      const std::size_t first = row / block * block;
      if (row == range.first || (Backbone::group != 0 && row == first)) {
        const std::size_t scale = scale_index(row, 0, dim);
        for (std::size_t q = 0; q < query_count; ++q) {
          offsets[q] = kernels::fold(queries + q * query_stride, parts.scales + scale, parts.minima + scale, dim, folded + q * dim);
        }
      }
      const std::size_t count = std::min(range.last, first + block) - row;
      kernels::dot_tokens<Bits>(parts.codes + channel_offset(first, 0, rows, dim), units_in(first, rows) * Bits, dim, row - first, count, folded, dim,
                                offsets, query_count, logits + (row - range.first), logit_stride, edge);
      row += count;
    }
  }

 private:
  static constexpr std::size_t scale_index(std::size_t row, std::size_t c, std::size_t dim) noexcept {
    return (Backbone::group == 0 ? 0 : row / block * dim) + c;
  }
  /// Units of each channel in the block that starts at row `first`.
  static constexpr std::size_t units_in(std::size_t first, std::size_t rows) noexcept {
    return (std::min(block, rows - first) + kernels::unit - 1) / kernels::unit;
  }
  static constexpr std::size_t channel_offset(std::size_t first, std::size_t c, std::size_t rows, std::size_t dim) noexcept {
    return (first / kernels::unit * dim + c * units_in(first, rows)) * Bits;
  }
};

/// Values: codes packed along channels, (rows, dim), a row padded to a multiple of 8 channels; scales and minima (groups of a row, rows).
template <int Bits, class Backbone, class Scale_>
struct ValueCodes {
  using Scale = Scale_;
  using Quantizer = GroupQuantizer<Bits, Scale>;
  using Parts = CodeParts<Scale>;
  static constexpr bool keys = false;

  static constexpr std::size_t code_bytes(std::size_t rows, std::size_t dim) noexcept { return rows * row_bytes(dim); }
  static constexpr std::size_t groups(std::size_t rows, std::size_t dim) noexcept { return (dim + length(dim) - 1) / length(dim) * rows; }

  static void fit(const float* x, std::size_t rows, std::size_t dim, const Parts& parts) noexcept {
    for (std::size_t i = 0; i < groups(rows, dim); ++i) {
      const std::size_t first = i / rows * length(dim);
      const Quantizer fitted(x + i % rows * dim + first, std::min(length(dim), dim - first), 1);
      parts.scales[i] = fitted.scale;
      parts.minima[i] = fitted.minimum;
    }
  }
  static void encode(const float* x, std::size_t rows, std::size_t dim, const Parts& parts) noexcept {
    for (std::size_t row = 0; row < rows; ++row) {
      for (std::size_t c = 0; c < dim; c += kernels::unit) {
        const std::size_t scale = c / length(dim) * rows + row;
        const auto known = quantizer<Bits>(parts.scales[scale], parts.minima[scale]);
        std::uint8_t eight[kernels::unit] = {};
        for (std::size_t i = 0; i < std::min(kernels::unit, dim - c); ++i) { eight[i] = known.encode(x[row * dim + c + i]); }
        kernels::pack<Bits>(eight, parts.codes + row * row_bytes(dim) + c / kernels::unit * Bits);
      }
    }
  }
  [[nodiscard]] static float decode(std::size_t row, std::size_t c, std::size_t rows, std::size_t dim, const Parts& parts) noexcept {
    const std::size_t scale = c / length(dim) * rows + row;
    return GroupQuantizer<Bits, Scale>::decode(code(row, c, rows, dim, parts), parts.scales[scale], parts.minima[scale]);
  }
  [[nodiscard]] static std::uint8_t code(std::size_t row, std::size_t c, std::size_t /*rows*/, std::size_t dim, const Parts& parts) noexcept {
    return kernels::code_at<Bits>(parts.codes + row * row_bytes(dim), c);
  }

  static constexpr std::size_t scratch_floats(std::size_t /*dim*/, std::size_t queries) noexcept { return queries * (chunk + 1); }
  static void accumulate(RowRange range, std::size_t rows, std::size_t dim, const Parts& parts, const float* weights, std::size_t weight_stride,
                         std::size_t query_count, float* out, std::size_t out_stride, float* scratch) noexcept {
    float* folded = scratch;                        // (queries, chunk)
    float* offsets = folded + query_count * chunk;  // (queries)
    for (std::size_t row = range.first; row < range.last;) {
      const std::size_t count = std::min(range.last - row, chunk);
      const float* weight = weights + (row - range.first);
      const std::uint8_t* codes = parts.codes + row * row_bytes(dim);
      for (std::size_t c = 0; c < dim;) {
        const std::size_t scale = c / length(dim) * rows + row;
        for (std::size_t q = 0; q < query_count; ++q) {
          offsets[q] = kernels::fold(weight + q * weight_stride, parts.scales + scale, parts.minima + scale, count, folded + q * chunk);
        }
        const std::size_t end = std::min(c + length(dim), dim);
        for (; c + 2 * kernels::unit <= end; c += 2 * kernels::unit) {
          kernels::mix_units<Bits, 2>(codes + c / kernels::unit * Bits, row_bytes(dim), count, folded, chunk, offsets, query_count,
                                      out + c, out_stride);
        }
        for (; c < end; c += kernels::unit) {
          kernels::mix_units<Bits, 1>(codes + c / kernels::unit * Bits, row_bytes(dim), count, folded, chunk, offsets, query_count,
                                      out + c, out_stride);
        }
      }
      row += count;
    }
  }

 private:
  static constexpr std::size_t chunk = 128;  // rows whose weights are folded at a time
  static constexpr std::size_t length(std::size_t dim) noexcept { return Backbone::group == 0 ? dim : Backbone::group; }
  static constexpr std::size_t row_bytes(std::size_t dim) noexcept { return (dim + kernels::unit - 1) / kernels::unit * Bits; }
};

}  // namespace gear
}  // namespace kvcompress
