// examples/llama/tests/llama_matmul_test.cpp - formats and products against their definitions.
// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "block_values.hpp"
#include "llama/matmul.hpp"
#include "llama/thread_pool.hpp"
#include "tiny_gguf.hpp"

namespace {

using llama::Format;

/// Halves as IEEE 754 defines them.
double half_value(std::uint16_t half) {
  const int exponent = half >> 10 & 31;
  const double fraction = half & 1023;
  const double sign = (half & 0x8000) != 0 ? -1.0 : 1.0;
  if (exponent == 31) { return fraction == 0 ? sign * std::numeric_limits<double>::infinity() : std::nan(""); }
  return sign * (exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25));
}

/// A random matrix, in the bytes of a format and as the values those bytes mean.
struct Matrix {
  std::string bytes;
  std::vector<double> values;  // (rows, columns)
  llama::Tensor tensor;

  Matrix(Format format, std::size_t rows, std::size_t columns) {
    std::mt19937 random(3);
    std::normal_distribution<float> normal;
    for (std::size_t i = 0; i < rows * columns; i += llama::info_of(format).values) { put(format, random, normal(random)); }
    tensor = {format, rows, columns, reinterpret_cast<const std::byte*>(bytes.data())};
    EXPECT_EQ(tensor.row_bytes() * rows, bytes.size());
  }

 private:
  void put(Format format, std::mt19937& random, float x) {
    const auto upper = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(x) >> 16U);
    const auto half = static_cast<std::uint16_t>(random() & 0xBBFFU);  // below 2 in magnitude, many of them subnormal
    switch (format) {
      case Format::f32:
        tiny::put(bytes, x);
        values.push_back(static_cast<double>(x));
        break;
      case Format::f16:
        tiny::put(bytes, half);
        values.push_back(half_value(half));
        break;
      case Format::bf16:
        tiny::put(bytes, upper);
        values.push_back(static_cast<double>(std::bit_cast<float>(static_cast<std::uint32_t>(upper) << 16U)));
        break;
      case Format::q8_0:
        tiny::put(bytes, half);
        for (int i = 0; i < 32; ++i) {
          const auto code = static_cast<std::int8_t>(random());
          tiny::put(bytes, code);
          values.push_back(half_value(half) * code);
        }
        break;
      case Format::q4_0: {
        tiny::put(bytes, half);
        std::uint8_t codes[16];
        for (std::uint8_t& code : codes) {
          code = static_cast<std::uint8_t>(random());
          tiny::put(bytes, code);
        }
        for (const std::uint8_t code : codes) { values.push_back(half_value(half) * ((code & 15) - 8)); }
        for (const std::uint8_t code : codes) { values.push_back(half_value(half) * ((code >> 4) - 8)); }
        break;
      }
      default:
        put_block(format, random);
    }
  }

  /// Random bytes, as llama::decode_row reads them: DecodesEveryBlock below says that it reads them right.
  void put_block(Format format, std::mt19937& random) {
    const llama::FormatInfo& info = llama::info_of(format);
    std::string content(info.bytes, '\0');
    std::vector<float> decoded(info.values);
    do {  // until the scales are moderate
      for (char& byte : content) { byte = static_cast<char>(random()); }
      llama::decode_row({format, 1, info.values, reinterpret_cast<const std::byte*>(content.data())}, 0, decoded.data());
    } while (!std::all_of(decoded.begin(), decoded.end(), [](float x) { return std::abs(x) < 1e4F; }));
    bytes += content;
    values.insert(values.end(), decoded.begin(), decoded.end());
  }
};

std::vector<float> activations(std::size_t count) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  std::vector<float> x(count);
  for (float& value : x) { value = normal(random); }
  return x;
}

TEST(LlamaTensor, ReadsEveryHalf) {
  for (std::uint32_t bits = 0; bits < 65536; bits += 8) {
    std::uint16_t eight[8];
    float wide[8];
    for (std::uint32_t i = 0; i < 8; ++i) { eight[i] = static_cast<std::uint16_t>(bits + i); }
    llama::vec::store(wide, llama::vec::load_half(eight));
    for (std::size_t i = 0; i < 8; ++i) {
      const double expected = half_value(eight[i]);
      EXPECT_TRUE(static_cast<double>(wide[i]) == expected || std::isnan(expected)) << eight[i];
      EXPECT_EQ(std::isnan(wide[i]), std::isnan(expected)) << eight[i];
      EXPECT_TRUE(llama::from_half(eight[i]) == wide[i] || std::isnan(expected)) << eight[i];
    }
  }
}

TEST(LlamaTensor, DecodesEveryFormat) {
  for (const llama::FormatInfo& info : llama::formats) {
    const std::size_t columns = info.values == 1 ? 83 : 3 * info.values;
    const Matrix matrix(info.format, 3, columns);
    std::vector<float> row(columns);
    for (std::size_t r = 0; r < 3; ++r) {
      llama::decode_row(matrix.tensor, r, row.data());
      for (std::size_t i = 0; i < columns; ++i) {
        const double expected = matrix.values[r * columns + i];
        EXPECT_NEAR(static_cast<double>(row[i]), expected, 1e-7 * std::abs(expected)) << info.name;
      }
    }
  }
}

TEST(LlamaTensor, DecodesEveryBlock) {
  for (const tiny::BlockValues& known : tiny::block_values) {
    const llama::FormatInfo& info = llama::info_of(known.format);
    ASSERT_EQ(known.bytes.size(), info.bytes) << info.name;
    ASSERT_EQ(known.quarters.size(), info.values) << info.name;
    std::vector<std::uint8_t> twice = known.bytes;  // two rows of one block: the second must start where it does
    twice.insert(twice.end(), known.bytes.begin(), known.bytes.end());
    const llama::Tensor tensor{known.format, 2, info.values, reinterpret_cast<const std::byte*>(twice.data())};
    std::vector<float> row(info.values);
    llama::decode_row(tensor, 1, row.data());
    for (std::size_t i = 0; i < row.size(); ++i) {
      ASSERT_EQ(4.0F * row[i], static_cast<float>(known.quarters[i])) << info.name << " " << i;
    }
  }
}

TEST(LlamaMatmul, MatchesTheDefinition) {
  llama::ThreadPool pool(1);
  for (const llama::FormatInfo& info : llama::formats) {
    const std::size_t rows = 37;
    const std::size_t columns = info.values == 1 ? 83 : 3 * info.values;
    const Matrix matrix(info.format, rows, columns);
    for (const std::size_t tokens : {1U, 2U, 5U}) {
      const std::vector<float> x = activations(tokens * columns);
      std::vector<float> out(tokens * rows);
      llama::multiply(matrix.tensor, x.data(), tokens, out.data(), pool);
      for (std::size_t t = 0; t < tokens; ++t) {
        for (std::size_t r = 0; r < rows; ++r) {
          double expected = 0.0;
          double size = 0.0;
          for (std::size_t i = 0; i < columns; ++i) {
            const double term = matrix.values[r * columns + i] * static_cast<double>(x[t * columns + i]);
            expected += term;
            size += std::abs(term);
          }
          EXPECT_NEAR(static_cast<double>(out[t * rows + r]), expected, 1e-6 * size) << info.name;
        }
      }
    }
  }
}

TEST(LlamaMatmul, DoesNotDependOnThreadsOrTokens) {
  const std::size_t rows = 100;
  const std::size_t columns = 256;
  const std::size_t tokens = 5;
  const std::vector<float> x = activations(tokens * columns);
  llama::ThreadPool one(1);
  llama::ThreadPool three(3);
  for (const llama::FormatInfo& info : llama::formats) {
    const Matrix matrix(info.format, rows, columns);
    std::vector<float> together(tokens * rows);
    std::vector<float> apart(tokens * rows);
    llama::multiply(matrix.tensor, x.data(), tokens, together.data(), three);
    for (std::size_t t = 0; t < tokens; ++t) { llama::multiply(matrix.tensor, x.data() + t * columns, 1, apart.data() + t * rows, one); }
    EXPECT_EQ(together, apart) << info.name;
  }
}

TEST(LlamaThreadPool, GivesOutEveryItemOnce) {
  for (const std::size_t threads : {1U, 2U, 4U}) {
    llama::ThreadPool pool(threads);
    for (std::size_t count = 0; count < 200; ++count) {
      std::vector<std::atomic<int>> taken(count);
      pool.parallel_for(count, [&](std::size_t first, std::size_t last) {
        for (std::size_t i = first; i < last; ++i) { ++taken[i]; }
      });
      for (const auto& times : taken) { EXPECT_EQ(times.load(), 1); }
    }
  }
}

TEST(LlamaThreadPool, PassesAnExceptionOnAndGoesOn) {
  llama::ThreadPool pool(3);
  for (int round = 0; round < 20; ++round) {
    EXPECT_THROW(pool.parallel_for(50, [](std::size_t, std::size_t) { throw std::runtime_error("body"); }), std::runtime_error);
    std::atomic<std::size_t> sum{0};
    pool.parallel_for(50, [&](std::size_t first, std::size_t last) { sum += last - first; });
    EXPECT_EQ(sum.load(), 50U);
  }
}

}  // namespace
