// examples/llama/rope.hpp - what a file says about its rotary embedding, read as llama.cpp reads it.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>
#include <string>
#include <string_view>
#include <vector>

#include "error.hpp"
#include "gguf.hpp"

namespace llama {

/// How a rotary embedding was stretched over more positions than it was trained on.
struct RopeScaling {
  enum class Kind { linear, yarn, longrope };
  Kind kind = Kind::linear;
  double factor = 1.0;            // positions are divided by this; yarn leaves the high frequencies alone
  double magnitude = 1.0;         // sines and cosines are multiplied by this
  double original_context = 0.0;  // positions that the model knew before
  double beta_fast = 32.0;        // yarn: pairs that turn more often than this over the original context stay as they are,
  double beta_slow = 1.0;         // those that turn less often are stretched, and between them it goes over
};

/// Reads the keys `prefix`rope.scaling.*; `context` is the model's, in positions.
inline RopeScaling read_rope_scaling(const Gguf& gguf, const std::string& prefix, std::size_t context) {
  const auto positive = [&](const std::string& name, double other) {
    const double value = gguf.real_or(prefix + name, other);
    if (!(value > 0.0) || !std::isfinite(value)) { fail("{}: \"{}{}\" is {}; it must be positive.", gguf.file(), prefix, name, value); }
    return value;
  };
  RopeScaling scaling;
  // Without a type a factor means linear scaling, and files from before the type existed call the factor scale_linear. 0 means none.
  const std::string_view type = gguf.text_or(prefix + "rope.scaling.type", "linear");
  const std::string factor = gguf.has(prefix + "rope.scaling.factor") ? "rope.scaling.factor" : "rope.scale_linear";
  if (type != "none" && gguf.real_or(prefix + factor, 0.0) != 0.0) { scaling.factor = positive(factor, 1.0); }
  if (type == "yarn") {
    scaling.kind = RopeScaling::Kind::yarn;
  } else if (type == "longrope") {
    scaling.kind = RopeScaling::Kind::longrope;
  } else if (type != "none" && type != "linear") {
    fail("{}: scales RoPE by {}; this engine has \"none\", \"linear\", \"yarn\" and \"longrope\".", gguf.file(), in_quotes(type));
  }
  const double original = gguf.real_or(prefix + "rope.scaling.original_context_length", 0.0);
  scaling.original_context = original != 0.0 ? positive("rope.scaling.original_context_length", 1.0) : static_cast<double>(context);
  scaling.magnitude = positive("rope.scaling.attn_factor", 1.0);
  if (scaling.kind == RopeScaling::Kind::yarn) {
    scaling.magnitude *= scaling.factor > 1.0 ? 1.0 + 0.1 * std::log(scaling.factor) : 1.0;
    scaling.beta_fast = positive("rope.scaling.yarn_beta_fast", scaling.beta_fast);
    scaling.beta_slow = positive("rope.scaling.yarn_beta_slow", scaling.beta_slow);
  }
  return scaling;
}

/// Radians per position of each of the dims / 2 pairs. divisors: (dims / 2), of the frequencies
inline std::vector<double> rope_frequencies(const RopeScaling& scaling, double base, std::size_t dims, const std::vector<float>& divisors) {
  // The pair that turns `turns` times over the original context.
  const auto pair_of = [&](double turns) {
    return static_cast<double>(dims) * std::log(scaling.original_context / (2.0 * std::numbers::pi * turns)) / (2.0 * std::log(base));
  };
  const bool yarn = scaling.kind == RopeScaling::Kind::yarn;
  const double first = yarn ? std::max(0.0, std::floor(pair_of(scaling.beta_fast))) : 0.0;
  const double last = yarn ? std::min(static_cast<double>(dims) - 1.0, std::ceil(pair_of(scaling.beta_slow))) : 0.0;
  std::vector<double> frequencies;
  for (std::size_t i = 0; i < dims / 2; ++i) {
    const double plain = std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(dims)) / static_cast<double>(divisors[i]);
    const double stretched = yarn ? std::clamp((static_cast<double>(i) - first) / std::max(0.001, last - first), 0.0, 1.0) : 1.0;
    frequencies.push_back(stretched * plain / scaling.factor + (1.0 - stretched) * plain);
  }
  return frequencies;
}

}  // namespace llama
