// examples/llama/tensor.hpp - a view of a weight matrix in the file; how each format becomes floats.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "block_formats.hpp"
#include "vector8.hpp"

namespace llama {

/// How the values of a tensor are stored; the numbers are GGUF's.
enum class Format : std::uint32_t {
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q5_0 = 6,
  q5_1 = 7,
  q8_0 = 8,
  q2_k = 10,
  q3_k = 11,
  q4_k = 12,
  q5_k = 13,
  q6_k = 14,
  bf16 = 30,
};

/// One line of the table of formats: `values` numbers take `bytes` bytes, and rows are whole blocks of them.
struct FormatInfo {
  Format format;
  std::string_view name;
  std::size_t values;
  std::size_t bytes;
  void (*decode)(const std::byte* block, float* out) noexcept;  // none: the format has a codec, see below
};
inline constexpr FormatInfo formats[] = {
    {Format::f32, "F32", 1, 4, nullptr},
    {Format::f16, "F16", 1, 2, nullptr},
    {Format::bf16, "BF16", 1, 2, nullptr},
    {Format::q8_0, "Q8_0", 32, 34, nullptr},
    {Format::q4_0, "Q4_0", 32, 18, nullptr},
    {Format::q4_1, "Q4_1", 32, 20, block::decode_q4_1},
    {Format::q5_0, "Q5_0", 32, 22, block::decode_q5_0},
    {Format::q5_1, "Q5_1", 32, 24, block::decode_q5_1},
    {Format::q2_k, "Q2_K", 256, 84, block::decode_q2_k},
    {Format::q3_k, "Q3_K", 256, 110, block::decode_q3_k},
    {Format::q4_k, "Q4_K", 256, 144, block::decode_q4_k},
    {Format::q5_k, "Q5_K", 256, 176, block::decode_q5_k},
    {Format::q6_k, "Q6_K", 256, 210, block::decode_q6_k},
};

/// The line of a format by GGUF's number; none when this engine does not read it.
constexpr const FormatInfo* find_format(std::uint32_t raw) noexcept {
  for (const FormatInfo& info : formats) {
    if (static_cast<std::uint32_t>(info.format) == raw) { return &info; }
  }
  return nullptr;
}
constexpr const FormatInfo& info_of(Format format) noexcept { return *find_format(static_cast<std::uint32_t>(format)); }

/// "F32 (0), F16 (1), ...", for messages.
inline std::string format_names() {
  std::string names;
  for (const FormatInfo& info : formats) {
    names += names.empty() ? "" : ", ";
    names.append(info.name).append(" (").append(std::to_string(static_cast<std::uint32_t>(info.format))).append(")");
  }
  return names;
}

/// Values that the kernels take at a time, whatever the format.
inline constexpr std::size_t block_columns = 32;

// A codec names the bytes of a block of 32 values, reads the block's scale, reads values [8 part, 8 part + 8)
// of it as floats, and (where rows need not be whole blocks) reads one value.

struct F32 {
  static constexpr std::size_t block_bytes = 128;
  static float scale(const std::byte*) noexcept { return 1.0F; }
  template <std::size_t Part>
  static vec::f32x8 load(const std::byte* block, float) noexcept {
    return vec::load(block + 32 * Part);
  }
  static float at(const std::byte* row, std::size_t i) noexcept { return read<float>(row + 4 * i); }
};

struct F16 {
  static constexpr std::size_t block_bytes = 64;
  static float scale(const std::byte*) noexcept { return 1.0F; }
  template <std::size_t Part>
  static vec::f32x8 load(const std::byte* block, float) noexcept {
    return vec::load_half(block + 16 * Part);
  }
  static float at(const std::byte* row, std::size_t i) noexcept { return from_half(read<std::uint16_t>(row + 2 * i)); }
};

struct BF16 {
  static constexpr std::size_t block_bytes = 64;
  static float scale(const std::byte*) noexcept { return 1.0F; }
  template <std::size_t Part>
  static vec::f32x8 load(const std::byte* block, float) noexcept {
    return vec::load_bfloat(block + 16 * Part);
  }
  static float at(const std::byte* row, std::size_t i) noexcept { return from_bfloat(read<std::uint16_t>(row + 2 * i)); }
};

/// A half scale, then 32 signed bytes.
struct Q8_0 {
  static constexpr std::size_t block_bytes = 34;
  static float scale(const std::byte* block) noexcept { return from_half(read<std::uint16_t>(block)); }
  template <std::size_t Part>
  static vec::f32x8 load(const std::byte* block, float scale) noexcept {
    return vec::mul(vec::load_i8(block + 2 + 8 * Part), vec::set(scale));
  }
  static float at(const std::byte*, std::size_t) noexcept { return 0.0F; }  // rows are whole blocks
};

/// A half scale, then 16 bytes: values 0..15 in the low nibbles, 16..31 in the high ones; nibble 8 is zero.
struct Q4_0 {
  static constexpr std::size_t block_bytes = 18;
  static float scale(const std::byte* block) noexcept { return from_half(read<std::uint16_t>(block)); }
  template <std::size_t Part>
  static vec::f32x8 load(const std::byte* block, float scale) noexcept {
    return vec::mul(vec::load_u4<(Part < 2 ? 0 : 4)>(block + 2 + 8 * (Part % 2)), vec::set(scale));
  }
  static float at(const std::byte*, std::size_t) noexcept { return 0.0F; }  // rows are whole blocks
};

/// Calls `use` with the codec of a format that has one: the one place where a run-time format becomes a type.
template <class Use>
decltype(auto) with_codec(Format format, Use&& use) {
  switch (format) {
    case Format::f16:
      return use(F16{});
    case Format::bf16:
      return use(BF16{});
    case Format::q8_0:
      return use(Q8_0{});
    case Format::q4_0:
      return use(Q4_0{});
    default:
      break;
  }
  return use(F32{});
}

/// A matrix in the mapped file, row-major; a vector is a matrix of one row. Owns nothing.
struct Tensor {
  Format format = Format::f32;
  std::size_t rows = 0;
  std::size_t columns = 0;
  const std::byte* data = nullptr;  // (rows, columns)

  [[nodiscard]] std::size_t row_bytes() const noexcept {
    const FormatInfo& info = info_of(format);
    return columns / info.values * info.bytes;
  }
  [[nodiscard]] const std::byte* row(std::size_t index) const noexcept { return data + index * row_bytes(); }
};

/// One row as floats.
template <class Codec>
inline void decode_row(const std::byte* row, std::size_t columns, float* out) noexcept {
  const std::size_t blocks = columns / block_columns;
  for (std::size_t b = 0; b < blocks; ++b) {
    const std::byte* block = row + b * Codec::block_bytes;
    const float scale = Codec::scale(block);
    vec::store(out + block_columns * b, Codec::template load<0>(block, scale));
    vec::store(out + block_columns * b + 8, Codec::template load<1>(block, scale));
    vec::store(out + block_columns * b + 16, Codec::template load<2>(block, scale));
    vec::store(out + block_columns * b + 24, Codec::template load<3>(block, scale));
  }
  for (std::size_t i = blocks * block_columns; i < columns; ++i) { out[i] = Codec::at(row, i); }
}

inline void decode_row(const Tensor& tensor, std::size_t index, float* out) noexcept {
  const FormatInfo& info = info_of(tensor.format);
  if (info.decode == nullptr) {
    with_codec(tensor.format, [&](auto codec) { decode_row<decltype(codec)>(tensor.row(index), tensor.columns, out); });
    return;
  }
  const std::byte* block = tensor.row(index);
  for (std::size_t i = 0; i < tensor.columns; i += info.values, block += info.bytes) { info.decode(block, out + i); }
}

}  // namespace llama
