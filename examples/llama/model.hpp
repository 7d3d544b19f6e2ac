// examples/llama/model.hpp - hyperparameters and weights of a Llama file, checked against each other.
// SPDX-License-Identifier: MIT
#pragma once

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
  double rope_scale = 1.0;    // linear scaling: positions are divided by this
  std::size_t rope_dims = 0;  // channels of a head that rotate: pairs (2i, 2i + 1) for 2i < rope_dims
};

struct Layer {
  std::vector<float> attention_norm;  // (dim)
  Tensor query;                       // (query_heads x head_dim, dim)
  Tensor key;                         // (kv_heads x head_dim, dim)
  Tensor value;                       // (kv_heads x head_dim, dim)
  Tensor attention_output;            // (dim, query_heads x head_dim)
  std::vector<float> ffn_norm;        // (dim)
  Tensor gate;                        // (hidden, dim)
  Tensor up;                          // (hidden, dim)
  Tensor down;                        // (dim, hidden)
};

inline const Gguf& checked_architecture(const Gguf& gguf) {
  const std::string_view architecture = gguf.text("general.architecture");
  if (architecture != "llama") { fail("{}: has architecture {}; this engine runs \"llama\".", gguf.file(), in_quotes(architecture)); }
  return gguf;
}

/// A file, opened and understood. The matrices stay in the mapping.
class Model {
 public:
  explicit Model(const std::filesystem::path& path);

  Gguf gguf;
  Vocabulary vocabulary;
  Config config;
  Tensor embedding;                    // (vocabulary, dim)
  std::vector<Layer> layers;           // (layers)
  std::vector<float> output_norm;      // (dim)
  Tensor output;                       // (vocabulary, dim); the embedding again when the file ties them
  std::vector<double> rope_frequency;  // (rope_dims / 2) radians per position

 private:
  void read_config();
  void read_weights();
  void read_rope();
  std::size_t size(std::string_view key) const;
  Tensor matrix(const std::string& name, std::size_t rows, std::size_t columns);
  std::vector<float> vector(const std::string& name, std::size_t columns);
  [[nodiscard]] bool has(std::string_view name) const { return gguf.tensors().find(name) != gguf.tensors().end(); }

  std::set<std::string, std::less<>> used_;
};

inline Model::Model(const std::filesystem::path& path) : gguf(path), vocabulary(checked_architecture(gguf)) {
  read_config();
  read_weights();
  read_rope();
  // A tensor that nobody asked for (a bias, an expert) would change the results if it were left out in
  // silence.
  for (const auto& [name, tensor] : gguf.tensors()) {
    if (!used_.contains(name)) { fail("{}: has a tensor {} that this engine does not know.", gguf.file(), in_quotes(name)); }
  }
}

/// A size from the metadata: from 1 to 2^24, so that products of two fit everywhere.
inline std::size_t Model::size(std::string_view key) const {
  const std::uint64_t value = gguf.integer(key);
  if (value < 1 || value > (1U << 24)) { fail("{}: {} is {}; it must be 1 to 16777216.", gguf.file(), in_quotes(key), value); }
  return static_cast<std::size_t>(value);
}

inline void Model::read_config() {
  config.layers = size("llama.block_count");
  config.dim = size("llama.embedding_length");
  config.hidden = size("llama.feed_forward_length");
  config.context = size("llama.context_length");
  config.vocabulary = vocabulary.size();
  config.query_heads = size("llama.attention.head_count");
  config.kv_heads = gguf.has("llama.attention.head_count_kv") ? size("llama.attention.head_count_kv") : config.query_heads;
  if (config.query_heads % config.kv_heads != 0) {
    fail("{}: has {} query heads, which is not a multiple of its {} KV heads.", gguf.file(), config.query_heads, config.kv_heads);
  }
  const bool named = gguf.has("llama.attention.key_length");
  if (!named && config.dim % config.query_heads != 0) {
    fail("{}: has width {}, which is not a multiple of its {} heads.", gguf.file(), config.dim, config.query_heads);
  }
  config.head_dim = named ? size("llama.attention.key_length") : config.dim / config.query_heads;
  const std::uint64_t value_dim = gguf.integer_or("llama.attention.value_length", config.head_dim);
  if (value_dim != config.head_dim) {
    fail("{}: has keys of {} channels and values of {}; this engine needs them equal.", gguf.file(), config.head_dim, value_dim);
  }
  const double epsilon = gguf.real("llama.attention.layer_norm_rms_epsilon");
  if (!(epsilon >= 0.0 && epsilon < 1.0)) {
    fail("{}: \"llama.attention.layer_norm_rms_epsilon\" is {}; it must be 0 to 1.", gguf.file(), epsilon);
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
  const std::uint64_t dims = gguf.integer_or("llama.rope.dimension_count", config.head_dim);
  if (dims % 2 != 0 || dims > config.head_dim) {
    fail("{}: \"llama.rope.dimension_count\" is {}; it must be even and at most the head dimension {}.", gguf.file(), dims,
         config.head_dim);
  }
  config.rope_dims = static_cast<std::size_t>(dims);
  config.rope_base = gguf.real_or("llama.rope.freq_base", 10000.0);
  const std::string_view scaling = gguf.text_or("llama.rope.scaling.type", "none");
  if (scaling != "none" && scaling != "linear") {
    fail("{}: scales RoPE by {}; this engine has \"none\", \"linear\" and a rope_freqs tensor.", gguf.file(), in_quotes(scaling));
  }
  if (scaling == "linear") { config.rope_scale = gguf.real("llama.rope.scaling.factor"); }
  // Files from before the scaling type existed.
  if (gguf.has("llama.rope.scale_linear")) { config.rope_scale = gguf.real("llama.rope.scale_linear"); }
  if (!(config.rope_base > 0.0 && config.rope_scale > 0.0) || !std::isfinite(config.rope_base) || !std::isfinite(config.rope_scale)) {
    fail("{}: has RoPE base {} and scale {}; both must be positive.", gguf.file(), config.rope_base, config.rope_scale);
  }
  const std::size_t pairs = config.rope_dims / 2;
  std::vector<float> factors(pairs, 1.0F);  // Llama 3 slows the low frequencies down by a factor per pair
  if (has("rope_freqs.weight")) { factors = vector("rope_freqs.weight", pairs); }
  for (std::size_t i = 0; i < pairs; ++i) {
    const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(config.rope_dims);
    rope_frequency.push_back(std::pow(config.rope_base, exponent) / (config.rope_scale * static_cast<double>(factors[i])));
  }
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
