// include/kvcompress/policies/block_types.hpp - keys and values in ggml's block types, as llama.cpp holds its cache.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/policies/combine.hpp"
#include "kvcompress/quantization/buffered.hpp"
#include "kvcompress/quantization/ggml/types.hpp"
#include "kvcompress/quantization/per_token.hpp"
#include "kvcompress/quantization/per_token_keys.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI {

/// llama.cpp's rotation: a Hadamard matrix in blocks of the largest 64 * 2^i that divides the width, of 64 for values, none where 64 does not divide it
/// or the options do not rotate.
template <bool Keys>
struct LlamaRotation : BlockHadamard {
  static constexpr std::string_view name = "block hadamard of llama.cpp";
  LlamaRotation(const auto& options, std::size_t dim) noexcept : BlockHadamard(dim, block_of(options.rotate, dim)) {}

 private:
  static std::size_t block_of(bool rotate, std::size_t dim) noexcept {
    const std::size_t largest = std::min(dim & (~dim + 1), most_block);
    return !rotate || largest < 64 ? 1 : Keys ? largest : 64;
  }
};

/// See BlockType.
template <class Type>
struct BlockTypeStorage {
  using Keys = Buffered<PerTokenKeys<Type>, FlushStrips, LlamaRotation<true>>;
  using Values = Buffered<PerTokenValues<Type>, FlushStrips, LlamaRotation<false>>;
  struct Options {
    static constexpr std::size_t group = Type::group;
    std::size_t residual = 0;                              ///< the newest residual to residual + 15 rows are exact
    bool rotate = !Type::looks_up;                         ///< as llama.cpp does before it quantises
    Accumulation accumulation = Accumulation::near_exact;  ///< how attention adds up products with codes
    static void fields(auto& options, auto&& field) {
      field("residual", options.residual);
      field("rotate", options.rotate);
      field("accumulation", options.accumulation);
    }
  };
  static void validate(const Options& options) {
    check_bounds("block type: residual", options.residual);
    require(!Type::looks_up || options.accumulation != Accumulation::fast, ErrorCode::option,
            "block type: accumulation is fast, must be exact or near_exact with levels, which have 8 bits in products");
    check_accumulation<Type::product_bits>(options.accumulation, "block type");
  }
  static void validate_shape(const Options& /*options*/, const Shape& shape) {
    for (const std::size_t width : {shape.key_width(), shape.value_width()}) {
      require(width <= most_token_width, ErrorCode::option, "block type: the width of a row is ", width, ", must be at most ",
              most_token_width);
    }
  }
};

/// Rows in a type of ggml (see quantization/ggml/types.hpp), per token in groups of 32 channels (16 of nvfp4): the codes and scales that llama.cpp
/// v0.4.0's cache has for them, which blocks.hpp writes as its bytes. Integer types are rotated first, as there; levels are not, unless
/// `rotate` says so. Deviations: rows wait exact until 16 are there; a group that does not divide the width has a shorter last one, which ggml refuses;
/// scales of FP4 take 16 bits instead of 8; rows are rotated by H / block, not by H / sqrt(block).
///
/// Keeps: every row. Observes: nothing. Bits per number: 4.5 of q4_0, iq4_nl and mxfp4, 8.5 of q8_0, 5 of nvfp4. Loses, of the length of normal rows of
/// 64 numbers: q8_0 0.0055, q4_0 0.088, iq4_nl 0.078, mxfp4 0.115, nvfp4 0.095; see tests/registry/hard_rows_test.cpp, which prints these and those of hard rows.
template <class Type>
struct BlockType {
  using Storage = BlockTypeStorage<Type>;
};

}  // namespace kvcompress
