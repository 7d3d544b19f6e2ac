// examples/tensors/array.hpp - an array of numbers in a file: its type, its shape, and where its bytes come from.
// SPDX-License-Identifier: MIT
#pragma once

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kvcompress/core/half.hpp"
#include "llama/error.hpp"

namespace tensors {

using llama::fail;
using llama::in_quotes;
using Sizes = std::vector<std::size_t>;

static_assert(std::endian::native == std::endian::little, "the files are little endian, and their numbers are copied as they are");

enum class Element : std::uint8_t { f32, f16, bf16 };

constexpr std::size_t bytes_of(Element element) noexcept { return element == Element::f32 ? 4 : 2; }

/// The number at an address, which need not be aligned.
inline float number_at(Element element, const std::byte* at) noexcept {
  if (element == Element::f32) {
    float number = 0.0F;
    std::memcpy(&number, at, sizeof number);
    return number;
  }
  std::uint16_t bits = 0;
  std::memcpy(&bits, at, sizeof bits);
  return element == Element::f16 ? kvcompress::detail::float_from_half(bits)
                                 : std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16U);
}

/// "(2, 512, 64)"
inline std::string text(const Sizes& shape) { return fmt::format("({})", fmt::join(shape, ", ")); }

/// Bytes and what keeps them alive.
struct Bytes {
  std::shared_ptr<const void> owner;
  std::span<const std::byte> bytes;
};

/// An array that a file declares and has room for; `read` gives its numbers in C order: product of `shape` times bytes_of(element) bytes.
struct Array {
  std::string file;
  std::string name;  // within the file; empty where a file is one array
  Element element = Element::f32;
  Sizes shape;
  std::function<Bytes()> read;

  [[nodiscard]] std::string where() const { return name.empty() ? file : fmt::format("{}: array {}", file, in_quotes(name)); }
};

/// The bytes that a declared shape needs; a shape without numbers, or with more than a program can count, is an Error.
inline std::size_t bytes_needed(const std::string& where, const Sizes& shape, Element element) {
  std::size_t bytes = bytes_of(element);
  for (const std::size_t size : shape) {
    if (size == 0) { fail("{}: has shape {}, must have at least one number.", where, text(shape)); }
    if (__builtin_mul_overflow(bytes, size, &bytes)) { fail("{}: has shape {}, whose bytes overflow 64 bits.", where, text(shape)); }
  }
  return bytes;
}

}  // namespace tensors
