// examples/llama/model.hpp - hyperparameters and weights of a Llama file, checked against each other.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "error.hpp"
#include "gguf.hpp"
#include "metadata.hpp"
#include "rope.hpp"
#include "tensor.hpp"
#include "vocabulary.hpp"

namespace llama {

/// The numbers of a model, named as in kvcompress.
struct Config {
  std::size_t layers = 0;
  std::size_t dim = 0;  // width of the residual stream
  std::size_t query_heads = 0;
  std::size_t kv_heads = 0;
  std::size_t head_dim = 0;
  std::size_t hidden = 0;  // width of the feed-forward network
  std::size_t vocabulary = 0;
  std::size_t context = 0;  // positions that the model knows
  float norm_epsilon = 0.0F;
  double rope_base = 10000.0;
  double rope_scale = 1.0;      // positions are divided by this, or by less where frequencies differ (Model::rope_frequency)
  double rope_magnitude = 1.0;  // of the rotated channels of queries and keys
  std::size_t rope_dims = 0;    // channels of a head that rotate, in pairs
  bool rope_halves = false;     // the pairs are (i, i + rope_dims / 2) instead of (2i, 2i + 1)
};

struct Layer {
  std::vector<float> attention_norm;  // (dim)
  Tensor query;                       // (query_heads x head_dim, dim)
  Tensor key;                         // (kv_heads x head_dim, dim)
  Tensor value;                       // (kv_heads x head_dim, dim)
  Tensor attention_output;            // (dim, query_heads x head_dim)
  // What is added to the four, as long as they have rows; empty when the file has none.
  std::vector<float> query_bias, key_bias, value_bias, attention_output_bias;
  std::vector<float> ffn_norm;  // (dim)
  Tensor gate;                  // (hidden, dim)
  Tensor up;                    // (hidden, dim)
  Tensor down;                  // (dim, hidden)
};

/// A file, opened and understood. The matrices stay in the mapping.
class Model {
 public:
  /// `context` positions will be used, 0 for all that the model knows: some models have other frequencies for short contexts.
  explicit Model(const std::filesystem::path& path, std::size_t context = 0);

  Gguf gguf;
  Vocabulary vocabulary;
  Config config;
  Tensor embedding;                    // (vocabulary, dim)
  std::vector<Layer> layers;           // (layers)
  std::vector<float> output_norm;      // (dim)
  Tensor output;                       // (vocabulary, dim); the embedding again when the file ties them
  std::vector<double> rope_frequency;  // (rope_dims / 2) radians per position

 private:
  void read_config(std::size_t context);
  void read_weights();
  void read_rope();
  std::vector<float> read_rope_divisors(const RopeScaling& scaling);
  std::size_t size(std::string_view name) const;
  Tensor matrix(const std::string& name, std::size_t rows, std::size_t columns);
  std::vector<float> vector(const std::string& name, std::size_t columns);
  std::vector<float> vector_or_none(const std::string& name, std::size_t columns) {
    return has(name) ? vector(name, columns) : std::vector<float>();
  }
  [[nodiscard]] std::string key(std::string_view name) const { return key_of(gguf, name); }
  [[nodiscard]] bool has(std::string_view name) const { return gguf.tensors().find(name) != gguf.tensors().end(); }

  std::set<std::string, std::less<>> used_;
};

inline Model::Model(const std::filesystem::path& path, std::size_t context) : gguf(path), vocabulary(checked_metadata(gguf)) {
  read_config(context);
  read_weights();
  read_rope();
  refuse_unknown_keys(gguf);
  // A tensor that nobody asked for (an expert, a norm) would change the results if it were left out in silence.
  for (const auto& [name, tensor] : gguf.tensors()) {
    if (!used_.contains(name)) { fail("{}: has a tensor {} that this engine does not know.", gguf.file(), in_quotes(name)); }
  }
}

/// A size from the metadata: from 1 to 2^24, so that products of two fit everywhere. A list of one size for each layer is a size when
/// all are equal.
inline std::size_t Model::size(std::string_view name) const {
  const std::string key = this->key(name);
  const std::vector<std::uint64_t> values = gguf.is_array(key) ? gguf.integers(key) : std::vector{gguf.integer(key)};
  if (values.empty() || std::any_of(values.begin(), values.end(), [&](std::uint64_t value) { return value != values.front(); })) {
    fail("{}: {} is not the same for all layers; this engine needs one value.", gguf.file(), in_quotes(key));
  }
  const std::uint64_t value = values.front();
  if (value < 1 || value > (1U << 24)) { fail("{}: {} is {}; it must be 1 to 16777216.", gguf.file(), in_quotes(key), value); }
  return static_cast<std::size_t>(value);
}

inline void Model::read_config(std::size_t context) {
  config.layers = size("block_count");
  config.dim = size("embedding_length");
  config.hidden = size("feed_forward_length");
  config.context = size("context_length");
  if (context > config.context) { fail("{}: knows {} positions, not {}.", gguf.file(), config.context, context); }
  config.context = context != 0 ? context : config.context;
  config.vocabulary = vocabulary.size();
  config.query_heads = size("attention.head_count");
  config.kv_heads = gguf.has(key("attention.head_count_kv")) ? size("attention.head_count_kv") : config.query_heads;
  if (config.query_heads % config.kv_heads != 0) {
    fail("{}: has {} query heads, which is not a multiple of its {} KV heads.", gguf.file(), config.query_heads, config.kv_heads);
  }
  const bool named = gguf.has(key("attention.key_length"));
  if (!named && config.dim % config.query_heads != 0) {
    fail("{}: has width {}, which is not a multiple of its {} heads.", gguf.file(), config.dim, config.query_heads);
  }
  config.head_dim = named ? size("attention.key_length") : config.dim / config.query_heads;
  const std::uint64_t value_dim = gguf.integer_or(key("attention.value_length"), config.head_dim);
  if (value_dim != config.head_dim) {
    fail("{}: has keys of {} channels and values of {}; this engine needs them equal.", gguf.file(), config.head_dim, value_dim);
  }
  const std::uint64_t window = gguf.integer_or(key("attention.sliding_window"), 0);
  if (window != 0 && window < config.context) {
    fail("{}: attends to the last {} positions only ({}); this engine attends to all {}.", gguf.file(), window,
         in_quotes(key("attention.sliding_window")), config.context);
  }
  const double epsilon = gguf.real(key("attention.layer_norm_rms_epsilon"));
  if (!(epsilon >= 0.0 && epsilon < 1.0)) {
    fail("{}: {} is {}; it must be 0 to 1.", gguf.file(), in_quotes(key("attention.layer_norm_rms_epsilon")), epsilon);
  }
  config.norm_epsilon = static_cast<float>(epsilon);
}

inline void Model::read_weights() {
  const std::size_t query_width = config.query_heads * config.head_dim;
  const std::size_t kv_width = config.kv_heads * config.head_dim;
  embedding = matrix("token_embd.weight", config.vocabulary, config.dim);
  for (std::size_t i = 0; i < config.layers; ++i) {
    const std::string prefix = fmt::format("blk.{}.", i);
    Layer layer;
    layer.attention_norm = vector(prefix + "attn_norm.weight", config.dim);
    layer.query = matrix(prefix + "attn_q.weight", query_width, config.dim);
    layer.key = matrix(prefix + "attn_k.weight", kv_width, config.dim);
    layer.value = matrix(prefix + "attn_v.weight", kv_width, config.dim);
    layer.attention_output = matrix(prefix + "attn_output.weight", config.dim, query_width);
    layer.query_bias = vector_or_none(prefix + "attn_q.bias", query_width);
    layer.key_bias = vector_or_none(prefix + "attn_k.bias", kv_width);
    layer.value_bias = vector_or_none(prefix + "attn_v.bias", kv_width);
    layer.attention_output_bias = vector_or_none(prefix + "attn_output.bias", config.dim);
    layer.ffn_norm = vector(prefix + "ffn_norm.weight", config.dim);
    layer.gate = matrix(prefix + "ffn_gate.weight", config.hidden, config.dim);
    layer.up = matrix(prefix + "ffn_up.weight", config.hidden, config.dim);
    layer.down = matrix(prefix + "ffn_down.weight", config.dim, config.hidden);
    layers.push_back(std::move(layer));
  }
  output_norm = vector("output_norm.weight", config.dim);
  output = has("output.weight") ? matrix("output.weight", config.vocabulary, config.dim) : embedding;
}

inline void Model::read_rope() {
  const std::uint64_t dims = gguf.integer_or(key("rope.dimension_count"), config.head_dim);
  if (dims < 2 || dims % 2 != 0 || dims > config.head_dim) {
    fail("{}: {} is {}; it must be even and at most the head dimension {}.", gguf.file(), in_quotes(key("rope.dimension_count")), dims,
         config.head_dim);
  }
  config.rope_dims = static_cast<std::size_t>(dims);
  config.rope_halves = gguf.text("general.architecture") != "llama";  // llama files have their query and key rows reordered
  config.rope_base = gguf.real_or(key("rope.freq_base"), 10000.0);
  const RopeScaling scaling = read_rope_scaling(gguf, key(""), size("context_length"));
  const double least = scaling.kind == RopeScaling::Kind::yarn ? 1.0 : 0.0;
  if (!(config.rope_base > least) || !std::isfinite(config.rope_base)) {
    fail("{}: has RoPE base {}; it must be above {}.", gguf.file(), config.rope_base, least);
  }
  config.rope_scale = scaling.factor;
  config.rope_magnitude = scaling.magnitude;
  rope_frequency = rope_frequencies(scaling, config.rope_base, config.rope_dims, read_rope_divisors(scaling));
}

/// Llama 3 slows the low frequencies down by a factor per pair; longrope has factors for contexts beyond the original one and factors for
/// shorter ones.
inline std::vector<float> Model::read_rope_divisors(const RopeScaling& scaling) {
  const std::size_t pairs = config.rope_dims / 2;
  std::vector<float> divisors(pairs, 1.0F);
  if (scaling.kind == RopeScaling::Kind::longrope) {
    const bool longer = static_cast<double>(config.context) > scaling.original_context;
    divisors = vector(longer ? "rope_factors_long.weight" : "rope_factors_short.weight", pairs);
    static_cast<void>(vector_or_none(longer ? "rope_factors_short.weight" : "rope_factors_long.weight", pairs));
  }
  if (has("rope_freqs.weight")) { divisors = vector("rope_freqs.weight", pairs); }
  for (const float divisor : divisors) {
    if (!(divisor > 0.0F)) { fail("{}: divides a RoPE frequency by {}; the factors must be positive.", gguf.file(), divisor); }
  }
  return divisors;
}

inline Tensor Model::matrix(const std::string& name, std::size_t rows, std::size_t columns) {
  const auto found = gguf.tensors().find(name);
  if (found == gguf.tensors().end()) { fail("{}: tensor {} is missing.", gguf.file(), in_quotes(name)); }
  const Tensor& tensor = found->second;
  if (tensor.rows != rows || tensor.columns != columns) {
    fail("{}: tensor {} has {} rows of {}; its metadata calls for {} rows of {}.", gguf.file(), in_quotes(name), tensor.rows,
         tensor.columns, rows, columns);
  }
  used_.insert(name);
  return tensor;
}

inline std::vector<float> Model::vector(const std::string& name, std::size_t columns) {
  const Tensor tensor = matrix(name, 1, columns);  // checked before anything is allocated
  std::vector<float> result(columns);
  decode_row(tensor, 0, result.data());
  for (const float value : result) {
    if (!std::isfinite(value)) { fail("{}: tensor {} has a value that is not a finite number.", gguf.file(), in_quotes(name)); }
  }
  return result;
}

}  // namespace llama
