// include/kvcompress/quantization/per_token_keys.hpp - key codes per token: groups of consecutive channels of one key, or the whole key.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kvcompress/core/views.hpp"
#include "kvcompress/kernels/codes.hpp"
#include "kvcompress/kernels/levels.hpp"
#include "kvcompress/quantization/code_blocks.hpp"
#include "kvcompress/quantization/token_code.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// Key rows as codes per token over groups of consecutive channels (a shorter last group where they do not divide the head size), in blocks of 128
/// rows; options.group channels share their numbers, 0: all. Logits come from the codes: q . k = sum over groups of scale * (q . code) + minimum *
/// (sum of q). The queries are made weights once per call and group. A row is independent of all others, so rows move without loss.
///
/// A block is [codes: strips of 16 rows][scales: (groups, 128)][minima, if the code has some: (groups, 128)].
/// Memory: bits + numbers * 8 * sizeof(Scale) / group bits per number, channels padded to a multiple of Strip::step_multiple.
template <class Code>
class PerTokenKeys : public CodeBlocks {
  using Scale = typename Code::Scale;
  using Strip = kernels::Strip<Code::bits>;
  static constexpr int product_bits = Code::product_bits;

 public:
  using exact_type = typename Code::exact_type;
  static constexpr std::size_t row_multiple = 1;

  PerTokenKeys(const auto& options, std::size_t dim, const Memory& memory)
      : CodeBlocks(block_bytes(dim, group_of(options, dim)), memory), dim_(dim), group_(group_of(options, dim)), code_(options),
        accumulation_(options.accumulation) {}

  void append(const float* rows, std::size_t count) {
    while (count > 0) {
      const std::size_t place = this->rows() % block_rows;
      const std::size_t now = std::min(count, Strip::lanes - place % Strip::lanes);
      encode(rows, now, block_of_next(), place);
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
    return Strip::get(strip(block_of(row), row % block_rows), dim_, row % Strip::lanes, c);
  }
  [[nodiscard]] Scale scale(std::size_t row, std::size_t c) const noexcept { return *number(row, c); }
  [[nodiscard]] Scale minimum(std::size_t row, std::size_t c) const noexcept requires(Code::numbers == 2) {
    return number(row, c)[groups() * block_rows];
  }

  /// Row `from` overwrites row `to`, code by code: the codes of a lane are a word in every line.
  void move(std::size_t from, std::size_t to) {
    std::byte* target = block_to_write(to);
    const std::byte* source = block_of(from);
    const std::size_t f = from % block_rows;
    const std::size_t t = to % block_rows;
    auto* words = reinterpret_cast<std::uint8_t*>(target) + t / Strip::lanes * Strip::bytes(dim_) + 4 * (t % Strip::lanes);
    const std::uint8_t* other = strip(source, f) + 4 * (f % Strip::lanes);
    for (std::size_t line = 0; line < Strip::bytes(dim_); line += 64) { std::memcpy(words + line, other + line, 4); }
    auto* numbers = reinterpret_cast<Scale*>(target + code_bytes(dim_));
    for (std::size_t g = 0; g < Code::numbers * groups(); ++g) { numbers[g * block_rows + t] = scales(source)[g * block_rows + f]; }
  }

  void scores(RowRange range, const float* queries, std::size_t query_stride, std::size_t query_count, float* logits,
              std::size_t logit_stride, float* scratch) const noexcept {
    kernels::with_accumulation<product_bits>(accumulation_, [&]<Accumulation Mode>() {
      const std::size_t widest = std::min(group_, dim_);
      kernels::CodeProducts<product_bits, Mode> products(scratch, query_count, widest);
      float* ones = scratch + products.floats(query_count, widest);
      float* zeros = ones + kernels::padded_steps(widest);
      float* sums = zeros + kernels::padded_steps(widest);  // (queries)
      float* part = sums + (query_count + 15) / 16 * 16;    // (queries, lanes)
      [[maybe_unused]] auto* levels = reinterpret_cast<std::uint8_t*>(part + query_count * Strip::lanes);
      std::fill_n(ones, widest, code_.step());
      std::fill_n(zeros, widest, code_.start());
      for (std::size_t g = 0; g < groups(); ++g) {
        const std::size_t first = g * group_;
        const std::size_t width = std::min(group_, dim_ - first);
        products.take_keys(queries + first, query_stride, width, 1, [&](std::size_t) -> const float* { return ones; });
        products.fold_keys(ones, zeros, width);
        for (std::size_t q = 0; Code::numbers == 2 && q < query_count; ++q) {
          sums[q] = kernels::sum_of(queries + q * query_stride + first, width);
        }
        for (std::size_t row = range.first; row < range.last;) {
          const std::byte* block = block_of(row);
          const std::byte* ahead = block_ahead(row, range);
          const std::size_t place = row % block_rows;
          const std::size_t lane = place % Strip::lanes;
          const std::size_t count = std::min(range.last - row, Strip::lanes - lane);
          const std::uint8_t* codes = strip(block, place);
          const std::uint8_t* next = ahead == nullptr ? nullptr : strip(ahead, place);
          if constexpr (Code::looks_up) {
            kernels::look_up_levels<Code::bits>(codes, dim_, first, Strip::padded(width), code_.table(), next, levels);
            products.template strip<false>(levels, Strip::padded(width), 0, Strip::padded(width), nullptr, 0, Strip::lanes, part,
                                           Strip::lanes);
          } else {
            products.template strip<false>(codes, dim_, first, Strip::padded(width), next, 0, Strip::lanes, part, Strip::lanes);
          }
          const std::size_t numbers = g * block_rows + place - lane;
          if (ahead != nullptr && place % 32 == 0) { kernels::prefetch(scales(ahead) + numbers, second(ahead) + numbers, 32); }
          float* out = logits + (row - range.first);
          g == 0 ? put<false>(scales(block) + numbers, second(block) + numbers, part, sums, query_count, lane, count, out, logit_stride)
                 : put<true>(scales(block) + numbers, second(block) + numbers, part, sums, query_count, lane, count, out, logit_stride);
          row += count;
        }
      }
    });
  }
  [[nodiscard]] std::size_t scratch_floats(std::size_t dim, std::size_t queries) const noexcept {
    const std::size_t widest = std::min(group_, dim);
    const std::size_t levels = Code::looks_up ? kernels::Strip<8>::bytes(Strip::padded(widest)) / sizeof(float) : 0;
    return kernels::CodeProducts<product_bits, Accumulation::exact>::floats(queries, widest) + 2 * kernels::padded_steps(widest) +
           (queries + 15) / 16 * 16 + queries * Strip::lanes + levels;
  }

  [[nodiscard]] static constexpr std::size_t bytes_for(std::size_t rows, std::size_t dim, const auto& options) noexcept {
    return bytes_in_blocks(rows, block_bytes(dim, group_of(options, dim)));
  }
  [[nodiscard]] static constexpr std::size_t most_bytes(std::size_t rows, std::size_t dim, const auto& options) noexcept {
    return most_bytes_in_blocks(rows, block_bytes(dim, group_of(options, dim)));
  }
  static void describe(auto&& fact) {
    fact("form", Code::name);
    fact("bits", Code::bits);
    fact("scales", number_name<Scale>);
  }
  static void persist(auto& self, auto& archive, std::size_t rows) {
    persist_blocks(self, archive, rows, Code::numbers * self.groups() * sizeof(Scale), [&](auto* block, std::size_t here) {
      archive.bytes(block, (here + Strip::lanes - 1) / Strip::lanes * Strip::bytes(self.dim_));
      for (std::size_t g = 0; g < Code::numbers * self.groups(); ++g) {
        archive.bytes(block + code_bytes(self.dim_) + g * block_rows * sizeof(Scale), here * sizeof(Scale));
      }
    });
  }
  void account(MemoryReport& report) const noexcept {
    account_blocks(report, rows() * Strip::bytes(dim_) / Strip::lanes, rows() * Code::numbers * groups() * sizeof(Scale));
  }

 private:
  static constexpr std::size_t group_of(const auto& options, std::size_t dim) noexcept { return options.group == 0 ? dim : options.group; }
  static constexpr std::size_t code_bytes(std::size_t dim) noexcept { return block_rows / Strip::lanes * Strip::bytes(dim); }
  static constexpr std::size_t block_bytes(std::size_t dim, std::size_t group) noexcept {
    return code_bytes(dim) + block_rows * Code::numbers * ((dim + group - 1) / group) * sizeof(Scale);
  }
  [[nodiscard]] std::size_t groups() const noexcept { return (dim_ + group_ - 1) / group_; }

  [[nodiscard]] const std::uint8_t* strip(const std::byte* block, std::size_t place) const noexcept {
    return reinterpret_cast<const std::uint8_t*>(block) + place / Strip::lanes * Strip::bytes(dim_);
  }
  [[nodiscard]] const Scale* scales(const std::byte* block) const noexcept {
    return reinterpret_cast<const Scale*>(block + code_bytes(dim_));
  }
  /// The minima, where the code has some.
  [[nodiscard]] const Scale* second(const std::byte* block) const noexcept {
    return scales(block) + (Code::numbers - 1) * groups() * block_rows;
  }
  [[nodiscard]] const Scale* number(std::size_t row, std::size_t c) const noexcept {
    return scales(block_of(row)) + c / group_ * block_rows + row % block_rows;
  }

  /// Sets logits, or adds to them: `part` (queries, 16) holds the products of a strip's codes.
  template <bool Add>
  static void put(const Scale* scale, const Scale* minimum, const float* part, const float* sums, std::size_t query_count, std::size_t lane,
                  std::size_t count, float* out, std::size_t stride) noexcept {
    namespace vec = simd::native;
    for (std::size_t i = 0; i < Strip::lanes; i += vec::lanes) {
      const vec::f32 step = vec::load(scale + i);
      const vec::f32 start = vec::load(minimum + i);
      for (std::size_t q = 0; q < query_count; ++q) {
        const vec::f32 product = vec::load(part + q * Strip::lanes + i);
        const vec::f32 logit = Code::numbers == 1 ? vec::mul(product, step) : vec::fma(product, step, vec::mul(vec::set(sums[q]), start));
        float* to = out + q * stride;
        if (count == Strip::lanes) {
          vec::store(to + i, Add ? vec::add(vec::load(to + i), logit) : logit);
          continue;
        }
        float few[vec::lanes];
        vec::store(few, logit);
        for (std::size_t l = std::max(i, lane); l < std::min(i + vec::lanes, lane + count); ++l) {
          to[l - lane] = Add ? to[l - lane] + few[l - i] : few[l - i];
        }
      }
    }
  }
  /// Up to 16 rows of one strip.
  void encode(const float* rows, std::size_t count, std::byte* block, std::size_t place) noexcept {
    auto* numbers = reinterpret_cast<Scale*>(block + code_bytes(dim_)) + place;
    auto* to = reinterpret_cast<std::uint8_t*>(block) + place / Strip::lanes * Strip::bytes(dim_);
    for (std::size_t g = 0; g < groups(); ++g) {
      const std::size_t width = std::min(group_, dim_ - g * group_);
      if (count == Strip::lanes && width <= most_at_once) {
        std::uint8_t codes[Strip::lanes * most_at_once + slack];
        for (std::size_t t = 0; t < count; ++t) {
          encode_row(rows + t * dim_ + g * group_, width, numbers + g * block_rows + t, codes + t * most_at_once);
        }
        Strip::put_lanes(to, dim_, 0, Strip::lanes, g * group_, Strip::padded(width), codes, most_at_once);
        continue;
      }
      for (std::size_t t = 0; t < count; ++t) {
        const std::size_t lane = place % Strip::lanes + t;
        std::uint8_t codes[most_token_width + slack];
        encode_row(rows + t * dim_ + g * group_, width, numbers + g * block_rows + t, codes);
        Strip::put_lanes(to, dim_, lane, lane + 1, g * group_, Strip::padded(width), codes, 0);
      }
    }
  }
  /// A group of one row, its codes padded with 0.
  void encode_row(const float* x, std::size_t width, Scale* number, std::uint8_t* codes) const noexcept {
    code_.encode(x, width, number, groups() * block_rows, codes);
    std::fill_n(codes + width, Strip::padded(width) - width, std::uint8_t{0});
  }

  static constexpr std::size_t most_at_once = 256;  // channels of 16 rows
  static constexpr std::size_t slack = 64 + 4 * simd::native::lanes;

  std::size_t dim_;
  std::size_t group_;
  Code code_;
  Accumulation accumulation_;
};

}  // namespace kvcompress
