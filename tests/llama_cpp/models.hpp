// tests/llama_cpp/models.hpp - small models with random weights, one per kind of attention that llama.cpp computes.
// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "llama/tests/tiny_gguf.hpp"

namespace kvcompress::test {

/// Sizes and traits of a model. Weights are uniform around a centre, so that logits spread as those of real models do.
struct TinyModel {
  std::string architecture;
  std::uint32_t layers = 4;
  std::uint32_t width = 128;
  std::uint32_t query_heads = 4;
  std::uint32_t kv_heads = 2;
  std::uint32_t head = 32;
  float qkv_bias = 0.0F;     ///< width of the biases of queries and values; keys have twenty times that
  bool output_bias = false;  ///< of attention
  bool normalised = false;   ///< queries and keys are normalised
  bool post_norms = false;   ///< after attention and the feed-forward layer
  bool sinks = false;
  bool alibi = false;  ///< with layer norms and a fused QKV matrix
  std::uint32_t experts = 0;

  static constexpr std::uint32_t vocabulary = 256;
  static constexpr std::uint32_t inner = 256;
  static constexpr std::uint32_t window = 64;
};

/// A model's GGUF file.
class TinyModelFile : TinyModel {
 public:
  explicit TinyModelFile(const TinyModel& model) : TinyModel(model) {
    metadata();
    tensor("token_embd.weight", {width, vocabulary}, 0.0F, 3.46F);
    vector("output_norm.weight", width);
    if (architecture != "gemma3") { matrix("output", width, vocabulary, 2.0F); }
    if (alibi) { vector("output_norm.bias", width, 0.0F); }
    for (std::uint32_t i = 0; i < layers; ++i) { layer("blk." + std::to_string(i) + "."); }
  }
  [[nodiscard]] std::string bytes() const { return file_.bytes(); }

 private:
  void metadata() {
    const auto number = [&](const char* name, std::uint32_t value) { file_.value(architecture + "." + name, value); };
    const auto real = [&](const char* name, float value) { file_.value(architecture + "." + name, value); };
    file_.value("general.architecture", architecture);
    file_.value("tokenizer.ggml.model", std::string("no_vocab"));
    number("context_length", 8192), number("embedding_length", width), number("block_count", layers), number("feed_forward_length", inner);
    number("vocab_size", vocabulary), number("attention.head_count", query_heads), number("attention.head_count_kv", kv_heads);
    number("attention.key_length", head), number("attention.value_length", head), number("rope.dimension_count", head);
    real("rope.freq_base", architecture == "gemma3" ? 1e6F : 1e4F);
    real(alibi ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon", 1e-5F);
    if (architecture == "gemma3") { real("rope.freq_base_swa", 1e4F); }
    if (architecture == "gemma3" || architecture == "gpt-oss") { number("attention.sliding_window", window); }
    if (alibi) { real("attention.max_alibi_bias", 8.0F); }
    if (experts > 0) { number("expert_count", experts), number("expert_used_count", 2), number("expert_feed_forward_length", inner); }
  }
  void layer(const std::string& b) {
    vector(b + "attn_norm.weight", width);
    if (alibi) {
      matrix(b + "attn_qkv", width, (query_heads + 2 * kv_heads) * head, 1.5F);
      vector(b + "attn_qkv.bias", (query_heads + 2 * kv_heads) * head, 0.0F, 0.5F);
    }
    for (const char x : std::string(alibi ? "" : "qkv")) {
      const std::string name = b + "attn_" + x;
      const std::uint32_t rows = (x == 'q' ? query_heads : kv_heads) * head;
      matrix(name, width, rows, 1.5F);
      if (qkv_bias > 0.0F) { vector(name + ".bias", rows, 0.0F, x == 'k' ? 20.0F * qkv_bias : qkv_bias); }
      if (normalised && x != 'v') { vector(name + "_norm.weight", head, 2.0F); }
    }
    matrix(b + "attn_output", query_heads * head, width);
    if (output_bias || alibi) { vector(b + "attn_output.bias", width, 0.0F); }
    if (sinks) { vector(b + "attn_sinks.weight", query_heads, 3.0F, 4.0F); }
    if (post_norms || experts > 0) { vector(b + "post_attention_norm.weight", width); }
    if (post_norms) { vector(b + "post_ffw_norm.weight", width); }
    if (alibi) { vector(b + "attn_norm.bias", width, 0.0F), vector(b + "ffn_norm.bias", width, 0.0F); }
    if (experts > 0) {
      matrix(b + "ffn_gate_inp", width, experts);
      vector(b + "ffn_gate_inp.bias", experts, 0.0F);
      for (const char* x : {"gate", "up", "down"}) {
        const bool down = x[0] == 'd';
        const std::uint32_t from = down ? inner : width;
        const std::uint32_t to = down ? width : inner;
        const std::string name = b + "ffn_" + x + "_exps";
        tensor(name + ".weight", {from, to, experts}, 0.0F, 3.46F / std::sqrt(static_cast<float>(from)));
        tensor(name + ".bias", {to, experts}, 0.0F, 0.2F);
      }
      return;
    }
    vector(b + "ffn_norm.weight", width);
    matrix(b + "ffn_up", width, inner), matrix(b + "ffn_down", inner, width);
    if (alibi) {
      vector(b + "ffn_up.bias", inner, 0.0F), vector(b + "ffn_down.bias", width, 0.0F);
    } else {
      matrix(b + "ffn_gate", width, inner);
    }
  }

  void matrix(const std::string& name, std::uint32_t from, std::uint32_t to, float gain = 1.0F) {
    tensor(name + ".weight", {from, to}, 0.0F, gain * 3.46F / std::sqrt(static_cast<float>(from)));
  }
  void vector(const std::string& name, std::uint32_t count, float centre = 1.0F, float spread = 0.2F) {
    tensor(name, {count}, centre, spread);
  }
  void tensor(const std::string& name, const std::vector<std::uint64_t>& shape, float centre, float spread) {
    std::uint64_t count = 1;
    for (const std::uint64_t extent : shape) { count *= extent; }
    std::string content;
    for (std::uint64_t i = 0; i < count; ++i) {
      tiny::put(content, centre + spread * (static_cast<float>(rng_() >> 8U) / 16777216.0F - 0.5F));
    }
    file_.tensor(name, shape, 0, content);
  }

  tiny::Writer file_;
  std::mt19937 rng_{1};
};

}  // namespace kvcompress::test
