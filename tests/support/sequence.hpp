// tests/support/sequence.hpp - one layer of a KVCache fed from arrays (heads, tokens, dim), step by step.
// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <utility>
#include <vector>

#include "kvcompress/cache.hpp"
#include "support/npy.hpp"

namespace kvcompress::test {

/// Numbers (heads, tokens, dim) in float.
struct HeadArray {
  std::size_t heads = 0;
  std::size_t tokens = 0;
  std::size_t dim = 0;
  std::vector<float> data{};

  HeadArray(std::size_t head_count, std::size_t token_count, std::size_t width)
      : heads(head_count), tokens(token_count), dim(width), data(head_count * token_count * width) {}
  explicit HeadArray(const npy::Array& array)
      : heads(array.shape.at(0)), tokens(array.shape.at(1)), dim(array.shape.at(2)), data(array.as<float>()) {}

  /// Every head `times` times, as engines without GQA store them.
  [[nodiscard]] HeadArray repeated(std::size_t times) const {
    HeadArray out(heads * times, tokens, dim);
    for (std::size_t h = 0; h < out.heads; ++h) {
      std::copy_n(data.begin() + static_cast<std::ptrdiff_t>(h / times * tokens * dim), tokens * dim,
                  out.data.begin() + static_cast<std::ptrdiff_t>(h * tokens * dim));
    }
    return out;
  }
  /// The tokens [first, first + count) of all heads.
  [[nodiscard]] Rows rows(std::size_t first, std::size_t count) const {
    return Rows(data.data() + first * dim, count, heads, dim, dim, tokens * dim);
  }
  [[nodiscard]] float at(std::size_t head, std::size_t token, std::size_t channel) const {
    return data[(head * tokens + token) * dim + channel];
  }
};

/// A cache with one layer and the arrays it is fed from. `step` appends the next tokens and attends them; outputs gather in `out`.
template <class P>
struct Sequence {
  Sequence(const Shape& shape, const PolicyOptions<P>& options, HeadArray queries, HeadArray keys, HeadArray values)
      : cache(shape, options), q(std::move(queries)), k(std::move(keys)), v(std::move(values)), out(q.heads, q.tokens, v.dim) {}

  void step(std::size_t count) {
    cache.append(0, k.rows(done, count), v.rows(done, count));
    cache.attend(0, q.rows(done, count),
                 Output(out.data.data() + done * out.dim, count, out.heads, out.dim, out.dim, out.tokens * out.dim));
    done += count;
  }

  KVCache<P> cache;
  HeadArray q;
  HeadArray k;
  HeadArray v;
  HeadArray out;
  std::size_t done = 0;
};

/// The shape of one layer that those arrays describe.
inline Shape shape_of(const HeadArray& q, const HeadArray& k, const HeadArray& v, KeyForm form = KeyForm::rotated, Rope rope = {}) {
  return {.query_heads = q.heads, .kv_heads = k.heads, .head_dim = k.dim, .value_dim = v.dim, .keys = form, .rope = rope};
}

/// The largest absolute difference of two arrays of one shape.
inline double deviation(const HeadArray& a, const HeadArray& b) {
  double worst = a.data.size() == b.data.size() ? 0.0 : 1e300;
  for (std::size_t i = 0; i < a.data.size() && worst < 1e300; ++i) {
    worst = std::max(worst, std::abs(static_cast<double>(a.data[i]) - static_cast<double>(b.data[i])));
  }
  return worst;
}

}  // namespace kvcompress::test
