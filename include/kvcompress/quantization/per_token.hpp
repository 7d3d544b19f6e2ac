// include/kvcompress/quantization/per_token.hpp - value codes per token: groups of consecutive channels, as KIVI has them, or the whole value.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kvcompress/core/math.hpp"
#include "kvcompress/core/views.hpp"
#include "kvcompress/kernels/codes.hpp"
#include "kvcompress/kernels/levels.hpp"
#include "kvcompress/quantization/code_blocks.hpp"
#include "kvcompress/quantization/token_code.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Value rows as codes per token over groups of consecutive channels (a shorter last group where they do not divide the head size), in blocks of 128
/// rows; options.group channels share their numbers, 0: all, and Group where the options do not say. Weighted sums come from the codes: sum_t p_t v_t = sum_t (p_t * scale_t) *
/// code_t + sum_t p_t * minimum_t. A row is independent of all others, so rows move without loss.
///
/// A block is [codes: strips of 16 channels][scales: (groups, 128)][minima, if the code has some: (groups, 128)].
/// Memory: bits + numbers * 8 * sizeof(Scale) / group bits per number, channels padded to a multiple of 16.
template <class Code, std::size_t Group = 0>
class PerTokenValues : public CodeBlocks {
  static_assert(Group % 8 == 0, "Group must be a multiple of 8 channels");
  using Scale = typename Code::Scale;
  using Strip = kernels::Strip<Code::bits>;
  static constexpr int Bits = Code::bits;

 public:
  using exact_type = typename Code::exact_type;
  static constexpr std::size_t row_multiple = 1;  ///< rows are encoded this many at a time

  PerTokenValues(const auto& options, std::size_t dim, const Memory& memory)
      : CodeBlocks(block_bytes(dim, group_of(options, dim)), memory), dim_(dim), group_(group_of(options, dim)), code_(options),
        accumulation_(options.accumulation) {}
  PerTokenValues(std::size_t dim, const Memory& memory) requires(Group != 0)
      : CodeBlocks(block_bytes(dim, Group), memory), dim_(dim), group_(Group), code_(Group) {}

  /// Encodes `count` rows, `dim` floats each, one behind the other.
  void append(const float* rows, std::size_t count) {
    while (count > 0) {
      const std::size_t place = this->rows() % block_rows;
      const std::size_t room = std::min(count, block_rows - place);
      const bool lines =
          group_ % Strip::lanes == 0 && dim_ % Strip::lanes == 0 && place % Strip::step_multiple == 0 && room >= Strip::step_multiple;
      const std::size_t now = lines ? room / Strip::step_multiple * Strip::step_multiple : 1;
      std::byte* block = block_of_next();
      if constexpr (Code::affine) {
        lines ? encode_lines(rows, now, block, place) : encode(rows, block, place);
      } else {
        encode_runs(rows, now, block, place);
      }
      add_rows(now);
      rows += now * dim_;
      count -= now;
    }
  }
  void read(std::size_t row, float* out) const noexcept {
    for (std::size_t c = 0; c < dim_; ++c) { out[c] = code_.decode(code(row, c), number(row, c), groups() * block_rows); }
  }
  /// The code of one number, and what it is decoded by, for tests and interchange.
  [[nodiscard]] std::uint8_t code(std::size_t row, std::size_t c) const noexcept {
    return Strip::get(strip(block_of(row), c), block_rows, c % Strip::lanes, row % block_rows);
  }
  [[nodiscard]] Scale scale(std::size_t row, std::size_t c) const noexcept { return *number(row, c); }
  [[nodiscard]] Scale minimum(std::size_t row, std::size_t c) const noexcept requires(Code::numbers == 2) {
    return number(row, c)[groups() * block_rows];
  }

  /// Row `from` overwrites row `to`, code by code.
  void move(std::size_t from, std::size_t to) {
    std::byte* target = block_to_write(to);
    const std::byte* source = block_of(from);
    const std::size_t f = from % block_rows;
    const std::size_t t = to % block_rows;
    for (std::size_t c = 0; c < dim_; c += Strip::lanes) {
      Strip::copy_step(strip(source, c), f, reinterpret_cast<std::uint8_t*>(target) + strip_offset(c), t, block_rows);
    }
    auto* numbers = reinterpret_cast<Scale*>(target + code_bytes(dim_));
    for (std::size_t g = 0; g < Code::numbers * groups(); ++g) { numbers[g * block_rows + t] = scales(source)[g * block_rows + f]; }
  }
  /// Row `row` becomes what the codes make of `x`.
  void prepare_to_write(std::size_t row) { static_cast<void>(block_to_write(row)); }
  void write(std::size_t row, const float* x) noexcept {
    if constexpr (Code::affine) {
      encode(x, block_to_write(row), row % block_rows);
    } else {
      encode_runs(x, 1, block_to_write(row), row % block_rows);
    }
  }

  void accumulate(RowRange range, const float* weights, std::size_t weight_stride, std::size_t query_count, float* out,
                  std::size_t out_stride, float* scratch) const noexcept {
    if constexpr (!Code::affine) { return accumulate_runs(range, weights, weight_stride, query_count, out, out_stride, scratch); }
    kernels::with_accumulation<Bits>(accumulation_, [&]<Accumulation Mode>() {
      kernels::CodeProducts<Bits, Mode> products(scratch, query_count, block_rows);
      float* factors = scratch + products.floats(query_count, block_rows);  // (groups)
      for (std::size_t row = range.first; row < range.last;) {
        const std::byte* block = block_of(row);
        const std::byte* ahead = block_ahead(row, range);
        const std::size_t place = row % block_rows;
        const std::size_t count = std::min(range.last - row, block_rows - place);
        const std::size_t first = place / Strip::step_multiple * Strip::step_multiple;  // steps start with a line
        const std::size_t before = place - first;
        products.take_values(
            weights + (row - range.first), weight_stride, before, count, groups(),
            [&](std::size_t g) { return scales(block) + g * block_rows + place; }, factors);
        for (std::size_t g = 0; g < groups(); ++g) {
          const std::size_t numbers = g * block_rows + place;
          if (ahead != nullptr) { kernels::prefetch(scales(ahead) + numbers, minima(ahead) + numbers, count); }
          products.fold_values(scales(block) + numbers, minima(block) + numbers, before, count, factors[g]);
          const std::size_t end = std::min((g + 1) * group_, dim_);
          for (std::size_t c = g * group_; c < end;) {
            const std::size_t lane = c % Strip::lanes;
            const std::size_t lanes = std::min(end - c, Strip::lanes - lane);
            products.template strip<true>(strip(block, c), block_rows, first, Strip::padded(before + count),
                                          ahead == nullptr ? nullptr : strip(ahead, c), lane, lane + lanes, out + c, out_stride);
            c += lanes;
          }
        }
        row += count;
      }
    });
  }
  [[nodiscard]] std::size_t scratch_floats(std::size_t /*dim*/, std::size_t queries) const noexcept {
    const std::size_t steps = Code::affine ? 0 : 3 * groups() * block_rows;
    const std::size_t levels = Code::looks_up ? kernels::Strip<8>::bytes(block_rows) / sizeof(float) : 0;
    return kernels::CodeProducts<Code::product_bits, Accumulation::exact>::floats(queries, block_rows) + groups() + steps + levels;
  }

  [[nodiscard]] static constexpr std::size_t bytes_for(std::size_t rows, std::size_t dim, const auto& options) noexcept {
    return bytes_in_blocks(rows, block_bytes(dim, group_of(options, dim)));
  }
  [[nodiscard]] static constexpr std::size_t most_bytes(std::size_t rows, std::size_t dim, const auto& options) noexcept {
    return most_bytes_in_blocks(rows, block_bytes(dim, group_of(options, dim)));
  }
  static void describe(auto&& fact) {
    fact("form", Code::name);
    fact("bits", Bits);
    if constexpr (Group != 0) { fact("group", Group); }
    fact("scales", number_name<Scale>);
  }
  static void persist(auto& self, auto& archive, std::size_t rows) {
    persist_blocks(self, archive, rows, Code::numbers * self.groups() * sizeof(Scale), [&](auto* block, std::size_t here) {
      for (std::size_t c = 0; c < self.dim_; c += Strip::lanes) {
        Strip::for_planes(block + strip_offset(c), block_rows,
                          [&]<int Width, int Shift>(auto* lines) { archive.bytes(lines, (here + 32 / Width - 1) / (32 / Width) * 64); });
      }
      for (std::size_t g = 0; g < Code::numbers * self.groups(); ++g) {
        archive.bytes(block + code_bytes(self.dim_) + g * block_rows * sizeof(Scale), here * sizeof(Scale));
      }
    });
  }
  void account(MemoryReport& report) const noexcept {
    account_blocks(report, rows() * (code_bytes(dim_) / block_rows), rows() * Code::numbers * groups() * sizeof(Scale));
  }

 private:
  /// An option, or else Group; 0 stands for the whole row.
  static constexpr std::size_t group_of(const auto& options, std::size_t dim) noexcept {
    if constexpr (requires { options.group; }) {
      return options.group == 0 ? dim : options.group;
    } else {
      return Group;
    }
  }
  [[nodiscard]] std::size_t groups() const noexcept { return (dim_ + group_ - 1) / group_; }
  static constexpr std::size_t strip_offset(std::size_t channel) noexcept { return channel / Strip::lanes * Strip::bytes(block_rows); }
  static constexpr std::size_t code_bytes(std::size_t dim) noexcept { return strip_offset(dim + Strip::lanes - 1); }
  static constexpr std::size_t block_bytes(std::size_t dim, std::size_t group) noexcept {
    return code_bytes(dim) + block_rows * Code::numbers * ((dim + group - 1) / group) * sizeof(Scale);
  }

  static const std::uint8_t* strip(const std::byte* block, std::size_t channel) noexcept {
    return reinterpret_cast<const std::uint8_t*>(block) + strip_offset(channel);
  }
  [[nodiscard]] const Scale* scales(const std::byte* block) const noexcept {
    return reinterpret_cast<const Scale*>(block + code_bytes(dim_));
  }
  [[nodiscard]] const Scale* minima(const std::byte* block) const noexcept { return scales(block) + groups() * block_rows; }
  [[nodiscard]] const Scale* number(std::size_t row, std::size_t c) const noexcept {
    return scales(block_of(row)) + c / group_ * block_rows + row % block_rows;
  }

  /// The same where scales are not what codes are multiplied by: steps and starts of a block are made first, and levels of a strip, which are codes of 8
  /// bits then, are looked up.
  void accumulate_runs(RowRange range, const float* weights, std::size_t weight_stride, std::size_t query_count, float* out,
                       std::size_t out_stride, float* scratch) const noexcept requires(!Code::affine) {
    kernels::with_accumulation<Code::product_bits>(accumulation_, [&]<Accumulation Mode>() {
      kernels::CodeProducts<Code::product_bits, Mode> products(scratch, query_count, block_rows);
      float* factors = scratch + products.floats(query_count, block_rows);          // (groups)
      float* steps = factors + groups();                                            // (groups, block_rows)
      float* starts = steps + groups() * block_rows;                                // (groups, block_rows)
      float* sizes = Code::signed_scales ? starts + groups() * block_rows : steps;  // of the steps
      [[maybe_unused]] auto* levels = reinterpret_cast<std::uint8_t*>(steps + 3 * groups() * block_rows);
      for (std::size_t row = range.first; row < range.last;) {
        const std::byte* block = block_of(row);
        const std::byte* ahead = block_ahead(row, range);
        const std::size_t place = row % block_rows;
        const std::size_t count = std::min(range.last - row, block_rows - place);
        const std::size_t first = place / Strip::step_multiple * Strip::step_multiple;
        const std::size_t before = place - first;
        const std::size_t padded = Strip::padded(before + count);
        for (std::size_t g = 0; g < groups(); ++g) {
          for (std::size_t t = 0; t < count; ++t) {
            const std::size_t at = g * block_rows + place + t;
            const auto scale = static_cast<float>(scales(block)[at]);
            steps[g * block_rows + t] = scale * code_.step();
            starts[g * block_rows + t] = scale * code_.start();
            if constexpr (Code::signed_scales) { sizes[g * block_rows + t] = math::abs(steps[g * block_rows + t]); }
            if constexpr (Code::numbers == 2) { starts[g * block_rows + t] += static_cast<float>(minima(block)[at]); }
          }
        }
        products.take_values(
            weights + (row - range.first), weight_stride, before, count, groups(),
            [&](std::size_t g) -> const float* { return sizes + g * block_rows; }, factors);
        for (std::size_t g = 0; g < groups(); ++g) {
          products.fold_values(steps + g * block_rows, starts + g * block_rows, before, count, factors[g]);
          const std::size_t end = std::min((g + 1) * group_, dim_);
          for (std::size_t c = g * group_; c < end; c += Strip::lanes) {  // groups are whole strips
            const std::uint8_t* next = ahead == nullptr ? nullptr : strip(ahead, c);
            const std::size_t lanes = std::min(end - c, Strip::lanes);
            if constexpr (Code::looks_up) {
              kernels::look_up_levels<Bits>(strip(block, c), block_rows, first, padded, code_.table(), next, levels);
              products.template strip<true>(levels, padded, 0, padded, nullptr, 0, lanes, out + c, out_stride);
            } else {
              products.template strip<true>(strip(block, c), block_rows, first, padded, next, 0, lanes, out + c, out_stride);
            }
          }
        }
        row += count;
      }
    });
  }

  /// Rows that fill whole lines of the strips.
  void encode_lines(const float* rows, std::size_t count, std::byte* block, std::size_t place) noexcept requires(Code::affine) {
    auto* scale = reinterpret_cast<Scale*>(block + code_bytes(dim_)) + place;
    Scale* minimum = scale + groups() * block_rows;
    for (std::size_t g = 0; g < groups(); ++g) {
      const std::size_t number = g * block_rows;
      quantization::fit_runs<Bits>(rows + g * group_, count, std::min(group_, dim_ - g * group_), dim_, scale + number, minimum + number);
      for (std::size_t c = g * group_; c < std::min((g + 1) * group_, dim_); c += Strip::lanes) {
        quantization::encode_steps<Bits>(rows + c, count, dim_, scale + number, minimum + number,
                                         reinterpret_cast<std::uint8_t*>(block) + strip_offset(c), block_rows, place);
      }
    }
  }
  /// A row, or as many as fill lines of the strips.
  void encode_runs(const float* rows, std::size_t count, std::byte* block, std::size_t place) noexcept requires(!Code::affine) {
    std::uint8_t codes[most_token_width + 4 * simd::native::lanes];
    std::int32_t wide[Strip::lanes] = {};
    auto* numbers = reinterpret_cast<Scale*>(block + code_bytes(dim_)) + place;
    for (std::size_t g = 0; g < groups(); ++g) {
      const std::size_t width = std::min(group_, dim_ - g * group_);
      for (std::size_t t = 0; t < count; ++t) {
        code_.encode(rows + t * dim_ + g * group_, width, numbers + g * block_rows + t, groups() * block_rows, codes);
        for (std::size_t c = 0; c < width; c += Strip::lanes) {
          std::copy_n(codes + c, std::min(Strip::lanes, width - c), wide);
          auto* to = reinterpret_cast<std::uint8_t*>(block) + strip_offset(g * group_ + c);
          for (std::size_t lane = 0; lane < Strip::lanes; lane += simd::native::lanes) {
            Strip::put_step(to, block_rows, place + t, lane, simd::native::load(wide + lane));
          }
        }
      }
    }
  }
  void encode(const float* row, std::byte* block, std::size_t place) noexcept requires(Code::affine) {
    auto* scale = reinterpret_cast<Scale*>(block + code_bytes(dim_));
    constexpr std::size_t window = 256;  // channels
    quantization::TokenScales<window> known;
    for (std::size_t first = 0; first < dim_; first += window) {
      const std::size_t last = std::min(first + window, dim_);
      for (std::size_t c = first; c < last;) {
        const std::size_t g = c / group_;
        Scale& step = scale[g * block_rows + place];
        Scale& start = scale[(groups() + g) * block_rows + place];
        if (c == g * group_) {  // else the group began before this window
          const auto quantizer = quantization::fit_run<Bits, Scale>(row + c, std::min(group_, dim_ - c));
          step = quantizer.scale;
          start = quantizer.minimum;
        }
        const std::size_t count = std::min(last, (g + 1) * group_) - c;
        known.set(c - first, count, step, start);
        c += count;
      }
      for (std::size_t c = first; c < last; c += Strip::lanes) {
        known.template encode<Bits>(row + c, last - c, c - first, reinterpret_cast<std::uint8_t*>(block) + strip_offset(c), block_rows,
                                    place);
      }
    }
  }

  std::size_t dim_;
  std::size_t group_;
  Code code_;
  Accumulation accumulation_ = Accumulation::near_exact;
};

/// KIVI's value codes, in groups of `Group` channels.
template <int Bits, std::size_t Group, class Scale>
using PerToken = PerTokenValues<AffineCode<Bits, Scale>, Group>;

}  // namespace kvcompress
