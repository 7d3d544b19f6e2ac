// include/kvcompress/attention/running_softmax.hpp - softmax and weighted sum of rows that are met piece by piece, and how pieces are merged.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>

#include "kvcompress/core/math.hpp"
#include "kvcompress/kernels/softmax.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::detail {

/// The softmax of a block over the rows met so far; outputs are sums, not yet divided.
struct RunningSoftmax {
  float* maxima;   // (queries); later the log-sum-exp
  float* sums;     // (queries)
  float* outputs;  // (queries, value_stride)
  std::size_t queries;
  std::size_t value_stride;

  /// Numbers of the buffer, whole cache lines.
  static constexpr std::size_t floats(std::size_t queries, std::size_t value_stride) noexcept {
    return (queries * (value_stride + 2) + 15) / 16 * 16;
  }
  RunningSoftmax(float* buffer, std::size_t query_count, std::size_t stride) noexcept
      : maxima(buffer + query_count * stride), sums(maxima + query_count), outputs(buffer), queries(query_count), value_stride(stride) {}

  void start() const noexcept {
    std::fill_n(maxima, queries, kernels::minus_infinity);
    std::fill_n(sums, queries, 0.0F);
    std::fill_n(outputs, queries * value_stride, 0.0F);
  }
  /// Counts everything so far relative to a new maximum.
  void raise(std::size_t q, float top) const noexcept {
    const float shrink = math::exp(maxima[q] - top);
    sums[q] *= shrink;
    kernels::multiply(outputs + q * value_stride, value_stride, shrink);
    maxima[q] = top;
  }
  /// Adds the rows that another one has met.
  void merge(const RunningSoftmax& other) const noexcept {
    for (std::size_t q = 0; q < queries; ++q) {
      if (other.maxima[q] == kernels::minus_infinity) { continue; }
      if (other.maxima[q] > maxima[q]) { raise(q, other.maxima[q]); }
      const float factor = math::exp(other.maxima[q] - maxima[q]);
      sums[q] += other.sums[q] * factor;
      kernels::add_multiple(outputs + q * value_stride, other.outputs + q * value_stride, value_stride, factor);
    }
  }
  /// Adds what a query attends to elsewhere: the log of its mass, and its output, of `width` numbers, or null for one of 0.
  void add(std::size_t q, float log_mass, const float* output, std::size_t width) const noexcept {
    if (log_mass == kernels::minus_infinity) { return; }
    if (log_mass > maxima[q]) { raise(q, log_mass); }
    const float factor = math::exp(log_mass - maxima[q]);
    sums[q] += factor;
    for (std::size_t c = 0; output != nullptr && c < width; ++c) { outputs[q * value_stride + c] += factor * output[c]; }
  }
  /// Divides; maxima become the log-sum-exp.
  void finish() const noexcept {
    for (std::size_t q = 0; q < queries; ++q) {
      if (sums[q] > 0.0F) { kernels::multiply(outputs + q * value_stride, value_stride, 1.0F / sums[q]); }
      maxima[q] = sums[q] > 0.0F ? maxima[q] + math::log(sums[q]) : kernels::minus_infinity;
    }
  }
};

}  // namespace kvcompress::detail
