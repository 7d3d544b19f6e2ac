// include/kvcompress/core/views.hpp - strided views of rows that a caller hands in, and of outputs it wants filled.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>

#include "kvcompress/core/half.hpp"
#include "kvcompress/kernels/exact.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// A half-open range of rows in a store.
struct RowRange {
  std::size_t first = 0;
  std::size_t last = 0;
  [[nodiscard]] std::size_t size() const noexcept { return last - first; }
};

/// Rows handed in by the caller: (tokens, heads, dim) with strides counted in elements; float, half or bfloat16.
/// The memory must stay valid during the call only.
class Rows {
 public:
  Rows() = default;
  /// Any strides: element (t, h, c) lies at data[t * token_stride + h * head_stride + c].
  template <class T>
  Rows(const T* data, std::size_t tokens, std::size_t heads, std::size_t dim, std::size_t token_stride, std::size_t head_stride) noexcept
      : data_(data), tokens_(tokens), heads_(heads), dim_(dim), token_stride_(token_stride), head_stride_(head_stride),
        element_(element_of(data)) {}

  /// Contiguous [tokens, heads, dim].
  template <class T>
  [[nodiscard]] static Rows tokens_first(const T* data, std::size_t tokens, std::size_t heads, std::size_t dim) noexcept {
    return Rows(data, tokens, heads, dim, heads * dim, dim);
  }
  /// Contiguous [heads, tokens, dim].
  template <class T>
  [[nodiscard]] static Rows heads_first(const T* data, std::size_t tokens, std::size_t heads, std::size_t dim) noexcept {
    return Rows(data, tokens, heads, dim, dim, tokens * dim);
  }

  /// The rows of the tokens [begin, end).
  [[nodiscard]] Rows slice(std::size_t begin, std::size_t end) const noexcept {
    Rows some = *this;
    const std::size_t bytes = begin * token_stride_ * (element_ == Element::f32 ? sizeof(float) : sizeof(half));
    some.data_ = static_cast<const char*>(data_) + bytes;
    some.tokens_ = end - begin;
    return some;
  }

  [[nodiscard]] std::size_t tokens() const noexcept { return tokens_; }
  [[nodiscard]] std::size_t heads() const noexcept { return heads_; }
  [[nodiscard]] std::size_t dim() const noexcept { return dim_; }
  [[nodiscard]] bool empty() const noexcept { return data_ == nullptr; }
  [[nodiscard]] std::size_t token_stride() const noexcept { return token_stride_; }
  [[nodiscard]] std::size_t head_stride() const noexcept { return head_stride_; }

  /// Row (token, head) as floats: the caller's own, or else converted into `buffer`, `dim()` numbers.
  [[nodiscard]] const float* row(std::size_t token, std::size_t head, float* buffer) const noexcept {
    if (element_ == Element::f32) { return static_cast<const float*>(data_) + token * token_stride_ + head * head_stride_; }
    load(token, head, buffer);
    return buffer;
  }
  /// The rows of all heads of a token, from `head` on, where they are floats and lie one behind the other; else null.
  [[nodiscard]] const float* rows_together(std::size_t token, std::size_t head) const noexcept {
    return element_ == Element::f32 && head_stride_ == dim_ ? static_cast<const float*>(data_) + token * token_stride_ + head * head_stride_
                                                            : nullptr;
  }
  /// Writes row (token, head) as float to `out`, `dim()` numbers.
  void load(std::size_t token, std::size_t head, float* out) const noexcept {
    const std::size_t at = token * token_stride_ + head * head_stride_;
    switch (element_) {
      case Element::f32:
        copy(static_cast<const float*>(data_) + at, out);
        break;
      case Element::f16:
        copy(static_cast<const half*>(data_) + at, out);
        break;
      case Element::bf16:
        copy(static_cast<const bfloat16*>(data_) + at, out);
        break;
    }
  }

 private:
  enum class Element : std::uint8_t { f32, f16, bf16 };
  static constexpr Element element_of(const float*) noexcept { return Element::f32; }
  static constexpr Element element_of(const half*) noexcept { return Element::f16; }
  static constexpr Element element_of(const bfloat16*) noexcept { return Element::bf16; }

  template <class T>
  void copy(const T* from, float* out) const noexcept {
    kernels::widen(from, out, dim_);
  }

  const void* data_ = nullptr;
  std::size_t tokens_ = 0;
  std::size_t heads_ = 0;
  std::size_t dim_ = 0;
  std::size_t token_stride_ = 0;
  std::size_t head_stride_ = 0;
  Element element_ = Element::f32;
};

/// Where attend writes: (tokens, query_heads, value_dim) floats, element (t, h, c) at data[t * token_stride + h * head_stride + c]. Rows must
/// not overlap.
class Output {
 public:
  Output() = default;
  Output(float* data, std::size_t tokens, std::size_t heads, std::size_t dim, std::size_t token_stride, std::size_t head_stride) noexcept
      : data_(data), tokens_(tokens), heads_(heads), dim_(dim), token_stride_(token_stride), head_stride_(head_stride) {}

  /// Contiguous [tokens, heads, dim].
  [[nodiscard]] static Output tokens_first(float* data, std::size_t tokens, std::size_t heads, std::size_t dim) noexcept {
    return {data, tokens, heads, dim, heads * dim, dim};
  }
  /// Contiguous [heads, tokens, dim].
  [[nodiscard]] static Output heads_first(float* data, std::size_t tokens, std::size_t heads, std::size_t dim) noexcept {
    return {data, tokens, heads, dim, dim, tokens * dim};
  }

  [[nodiscard]] std::size_t tokens() const noexcept { return tokens_; }
  [[nodiscard]] std::size_t heads() const noexcept { return heads_; }
  [[nodiscard]] std::size_t dim() const noexcept { return dim_; }
  [[nodiscard]] bool empty() const noexcept { return data_ == nullptr; }
  [[nodiscard]] std::size_t token_stride() const noexcept { return token_stride_; }
  [[nodiscard]] std::size_t head_stride() const noexcept { return head_stride_; }
  [[nodiscard]] float* row(std::size_t token, std::size_t head) const noexcept {
    return data_ + token * token_stride_ + head * head_stride_;
  }

 private:
  float* data_ = nullptr;
  std::size_t tokens_ = 0;
  std::size_t heads_ = 0;
  std::size_t dim_ = 0;
  std::size_t token_stride_ = 0;
  std::size_t head_stride_ = 0;
};

}  // namespace kvcompress
