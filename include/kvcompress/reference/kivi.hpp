// include/kvcompress/reference/kivi.hpp - keys quantised per channel, values per token, newest rows exact.
// SPDX-License-Identifier: MIT
#pragma once

#include "kvcompress/low_rank/eigen_core.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "kvcompress/reference/attention.hpp"

/// "KIVI: A Tuning-Free Asymmetric 2bit Quantization for KV Cache" (arXiv:2402.02750), as in
/// jy-yuan/KIVI@876b4d2d08e3 (quant/new_pack.py, models/llama_kivi.py).
namespace kvcompress::inline KVCOMPRESS_ABI::reference {

/// The nearest integer; halves go to the even one, whatever the rounding mode.
inline double round_half_even(double x) {
  const double below = std::floor(x);
  const double rest = x - below;
  if (rest < 0.5 || (rest == 0.5 && std::fmod(below, 2.0) == 0.0)) { return below; }
  return below + 1.0;
}

/// Precisions in which a result is rounded. Rounding each operation in double to float or half equals the
/// operation in that type, because double has more than twice its digits.
struct RoundToDouble {
  double operator()(double x) const noexcept { return x; }
};
struct RoundToFloat {
  double operator()(double x) const noexcept {
    // volatile: GCC 12.2 at -O2 drops both conversions when two neighbours in memory are rounded at once.
    const volatile float narrow = static_cast<float>(x);
    return static_cast<double>(narrow);
  }
};
struct RoundToHalf {
  double operator()(double x) const noexcept {
    if (x == 0.0 || !std::isfinite(x)) { return x; }
    const double unit = std::ldexp(1.0, std::max(std::ilogb(x), -14) - 10);
    const double rounded = round_half_even(x / unit) * unit;
    return std::abs(rounded) > 65504.0 ? std::copysign(std::numeric_limits<double>::infinity(), x) : rounded;
  }
};

/// One group: x is about code * scale + minimum.
struct QuantizedGroup {
  Eigen::VectorXi codes{};
  double scale = 0.0;
  double minimum = 0.0;
};

/// Asymmetric quantisation of one group to codes 0 ... 2^bits - 1. `Scale` rounds what is stored (scale,
/// minimum), `Arithmetic` every operation; codes refer to the stored scale and minimum. A scale of 0 gives
/// codes of 0.
template <class Scale = RoundToFloat, class Arithmetic = RoundToFloat>
QuantizedGroup quantize_group(const Vector& x, int bits) {
  require(x.size() > 0 && x.allFinite(), ErrorCode::input, "reference: a group has ", x.size(),
          " numbers, must have at least 1, all finite");
  require(bits >= 1 && bits <= 8, ErrorCode::option, "reference: bits is ", bits, ", must be 1 to 8");
  const double top = static_cast<double>((1 << bits) - 1);
  const double smallest = x.minCoeff();
  const double largest = x.maxCoeff();
  QuantizedGroup out;
  out.minimum = Scale{}(smallest);
  out.scale = Scale{}(Arithmetic{}(Arithmetic{}(largest - smallest) / top));
  out.codes = Eigen::VectorXi::Zero(x.size());
  if (out.scale == 0.0) { return out; }
  for (Index i = 0; i < x.size(); ++i) {
    const double steps = Arithmetic{}(Arithmetic{}(x(i) - out.minimum) / out.scale);
    out.codes(i) = static_cast<int>(round_half_even(std::clamp(steps, 0.0, top)));
  }
  return out;
}

/// Along which axis the numbers of a group lie: consecutive tokens of one channel, or consecutive channels of
/// one token.
enum class GroupAxis { tokens, channels };

struct QuantizedMatrix {
  GroupAxis axis = GroupAxis::tokens;
  Index group = 32;         // the last group along the axis may be shorter
  Eigen::MatrixXi codes{};  // (tokens, channels)
  Matrix scale{};           // axis tokens: (token groups, channels); axis channels: (tokens, channel groups)
  Matrix minimum{};         // as scale
};

/// Quantises a matrix (tokens, channels) group by group: `tokens` for keys, `channels` for values.
template <class Scale = RoundToFloat, class Arithmetic = RoundToFloat>
QuantizedMatrix quantize(const Matrix& x, GroupAxis axis, int bits, Index group) {
  require(group >= 1, ErrorCode::option, "reference: group is ", group, ", must be at least 1");
  const bool along_tokens = axis == GroupAxis::tokens;
  const Index token_step = along_tokens ? group : 1;
  const Index channel_step = along_tokens ? 1 : group;
  const Index token_groups = (x.rows() + token_step - 1) / token_step;
  const Index channel_groups = (x.cols() + channel_step - 1) / channel_step;
  QuantizedMatrix out{axis, group, Eigen::MatrixXi(x.rows(), x.cols()), Matrix(token_groups, channel_groups),
                      Matrix(token_groups, channel_groups)};
  for (Index a = 0; a < token_groups; ++a) {
    for (Index b = 0; b < channel_groups; ++b) {
      const Index height = std::min(token_step, x.rows() - a * token_step);
      const Index width = std::min(channel_step, x.cols() - b * channel_step);
      const Matrix block = x.block(a * token_step, b * channel_step, height, width);
      const QuantizedGroup one = quantize_group<Scale, Arithmetic>(block.reshaped(), bits);
      out.codes.block(a * token_step, b * channel_step, height, width) = one.codes.reshaped(height, width);
      out.scale(a, b) = one.scale;
      out.minimum(a, b) = one.minimum;
    }
  }
  return out;
}

/// code * scale + minimum, each operation rounded by `Arithmetic`: (tokens, channels).
template <class Arithmetic = RoundToFloat>
Matrix dequantize(const QuantizedMatrix& x) {
  Matrix out(x.codes.rows(), x.codes.cols());
  for (Index t = 0; t < out.rows(); ++t) {
    for (Index c = 0; c < out.cols(); ++c) {
      const Index a = x.axis == GroupAxis::tokens ? t / x.group : t;
      const Index b = x.axis == GroupAxis::tokens ? c : c / x.group;
      out(t, c) = Arithmetic{}(Arithmetic{}(x.codes(t, c) * x.scale(a, b)) + x.minimum(a, b));
    }
  }
  return out;
}

/// The official packing: 32 / bits consecutive codes per word, the first in the lowest bits.
inline std::vector<std::uint32_t> pack(std::span<const int> codes, int bits) {
  require((bits == 1 || bits == 2 || bits == 4 || bits == 8), ErrorCode::option, "reference: bits is ", bits, ", must be 1, 2, 4 or 8");
  const std::size_t per_word = 32 / static_cast<std::size_t>(bits);
  std::vector<std::uint32_t> words((codes.size() + per_word - 1) / per_word, 0U);
  for (std::size_t i = 0; i < codes.size(); ++i) {
    words[i / per_word] |= static_cast<std::uint32_t>(codes[i]) << (i % per_word * static_cast<std::size_t>(bits));
  }
  return words;
}

struct KiviOptions {
  int bits = 2;
  Index group = 32;      // tokens of a key group; channels of a value group
  Index residual = 128;  // exact rows: a multiple of `group`
};

/// One KV head of the cache; keys enter rotated. A step is append, attend (every query head), commit: what a
/// step appends is read exactly by that step's queries. The state depends on the tokens, not on how they were
/// cut into steps.
template <class Scale = RoundToFloat, class Arithmetic = RoundToFloat>
struct KiviState {
  KiviOptions options{};
  QuantizedMatrix keys{GroupAxis::tokens, options.group, {}, {}, {}};
  QuantizedMatrix values{GroupAxis::channels, options.group, {}, {}, {}};
  Matrix key_residual{};    // (0 ... residual - 1 rows after a commit, key_dim)
  Matrix value_residual{};  // (min(rows, residual) rows after a commit, value_dim)

  [[nodiscard]] Index rows() const { return keys.codes.rows() + key_residual.rows(); }
  [[nodiscard]] Matrix decoded_keys() const { return append_rows(dequantize<Arithmetic>(keys), key_residual); }
  [[nodiscard]] Matrix decoded_values() const { return append_rows(dequantize<Arithmetic>(values), value_residual); }

  void append(const Matrix& new_keys, const Matrix& new_values) {
    require(new_keys.rows() == new_values.rows(), ErrorCode::shape, "reference: there are ", new_values.rows(),
            " values, must be one for every key, ", new_keys.rows());
    key_residual = append_rows(key_residual, new_keys);
    value_residual = append_rows(value_residual, new_values);
  }

  /// Attention of one query head; `queries` (rotated) belong to the newest rows.
  [[nodiscard]] AttentionResult attend(const Matrix& queries, const AttentionOptions& attend_options = {}) const {
    return attention(queries, decoded_keys(), decoded_values(), consecutive(rows() - queries.rows(), queries.rows()),
                     consecutive(0, rows()), attend_options);
  }

  /// Quantises every full block of `residual` keys, and the values that are older than the newest `residual`.
  void commit() {
    require(options.residual % options.group == 0, ErrorCode::option, "reference: residual is ", options.residual,
            ", must be a multiple of group = ", options.group);
    flush(keys, key_residual, key_residual.rows() - key_residual.rows() % options.residual);
    flush(values, value_residual, std::max(Index{0}, value_residual.rows() - options.residual));
  }

 private:
  void flush(QuantizedMatrix& store, Matrix& residual, Index count) {
    if (count == 0) { return; }
    const QuantizedMatrix added = quantize<Scale, Arithmetic>(residual.topRows(count), store.axis, options.bits, options.group);
    store.group = options.group;
    store.codes = append_rows(store.codes, added.codes);
    store.scale = append_rows(store.scale, added.scale);
    store.minimum = append_rows(store.minimum, added.minimum);
    residual = Matrix(residual.bottomRows(residual.rows() - count));
  }
};

}  // namespace kvcompress::reference
