// bench/engine/model.hpp - a model whose time is its attention's: 4 layers of 32 query and 8 KV heads of 128, and little else.
// SPDX-License-Identifier: MIT
#pragma once

#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "ggml-backend.h"
#include "ggml.h"
#include "gguf.h"
#include "llama.h"

namespace engine {

inline constexpr std::uint32_t layers = 4;
inline constexpr std::uint32_t query_heads = 32;
inline constexpr std::uint32_t kv_heads = 8;
inline constexpr std::uint32_t head_dim = 128;
inline constexpr std::uint32_t width = 64;  // of the residual stream
inline constexpr std::uint32_t vocabulary = 256;

/// Random weights in q8_0, of Llama's architecture.
class ModelFile {
 public:
  ModelFile() : file_(gguf_init_empty(), gguf_free), tensors_(ggml_init({std::size_t{64} << 20U, nullptr, false}), ggml_free) {
    if (file_ == nullptr || tensors_ == nullptr) { throw std::bad_alloc(); }
    const auto number = [&](const char* name, std::uint32_t value) {
      gguf_set_val_u32(file_.get(), ("llama." + std::string(name)).c_str(), value);
    };
    gguf_set_val_str(file_.get(), "general.architecture", "llama");
    gguf_set_val_str(file_.get(), "tokenizer.ggml.model", "no_vocab");
    number("context_length", 1U << 20U), number("embedding_length", width), number("block_count", layers), number("vocab_size", vocabulary);
    number("feed_forward_length", width), number("attention.head_count", query_heads), number("attention.head_count_kv", kv_heads);
    number("attention.key_length", head_dim), number("attention.value_length", head_dim), number("rope.dimension_count", head_dim);
    gguf_set_val_f32(file_.get(), "llama.attention.layer_norm_rms_epsilon", 1e-5F);
    matrix("token_embd", width, vocabulary), ones("output_norm"), matrix("output", width, vocabulary);
    for (std::uint32_t i = 0; i < layers; ++i) {
      const std::string b = "blk." + std::to_string(i) + ".";
      ones(b + "attn_norm"), ones(b + "ffn_norm");
      matrix(b + "attn_q", width, query_heads * head_dim), matrix(b + "attn_output", query_heads * head_dim, width);
      matrix(b + "attn_k", width, kv_heads * head_dim), matrix(b + "attn_v", width, kv_heads * head_dim);
      matrix(b + "ffn_gate", width, width), matrix(b + "ffn_up", width, width), matrix(b + "ffn_down", width, width);
    }
  }
  void write(const std::string& path) const {
    if (!gguf_write_to_file(file_.get(), path.c_str(), false)) { throw std::runtime_error(path + ": cannot be written"); }
  }

 private:
  void ones(const std::string& name) {
    ggml_tensor* tensor = ggml_new_tensor_1d(tensors_.get(), GGML_TYPE_F32, width);
    for (std::uint32_t i = 0; i < width; ++i) { static_cast<float*>(tensor->data)[i] = 1.0F; }
    add(tensor, name);
  }
  void matrix(const std::string& name, std::uint32_t from, std::uint32_t to) {
    ggml_tensor* tensor = ggml_new_tensor_2d(tensors_.get(), GGML_TYPE_Q8_0, from, to);
    std::vector<float> weights(std::size_t{from} * to);
    const float spread = 3.46F / std::sqrt(static_cast<float>(from));
    for (float& w : weights) { w = spread * (static_cast<float>(random_() >> 8U) / 16777216.0F - 0.5F); }
    ggml_quantize_chunk(GGML_TYPE_Q8_0, weights.data(), tensor->data, 0, to, from, nullptr);
    add(tensor, name);
  }
  void add(ggml_tensor* tensor, const std::string& name) {
    ggml_set_name(tensor, (name + ".weight").c_str());
    gguf_add_tensor(file_.get(), tensor);
  }

  std::unique_ptr<gguf_context, decltype(&gguf_free)> file_;
  std::unique_ptr<ggml_context, decltype(&ggml_free)> tensors_;
  std::mt19937 random_{1};
};

using Model = std::unique_ptr<llama_model, decltype(&llama_model_free)>;

/// That model, loaded by llama.cpp.
inline Model load_model() {
  llama_log_set([](ggml_log_level level, const char* text, void*) { level == GGML_LOG_LEVEL_ERROR ? std::fputs(text, stderr) : 0; },
                nullptr);
  ggml_backend_load_all_from_path(KVCOMPRESS_LLAMA_CPP_LIBRARIES);
  std::string path = "/tmp/kvcompress-engine-XXXXXX";
  const int descriptor = mkstemp(path.data());
  if (descriptor < 0) { throw std::runtime_error(path + ": cannot be written"); }
  close(descriptor);
  ModelFile().write(path);
  llama_model_params params = llama_model_default_params();
  params.use_extra_bufts = false;
  params.n_gpu_layers = 0;
  Model model(llama_model_load_from_file(path.c_str(), params), llama_model_free);
  unlink(path.c_str());
  if (model == nullptr) { throw std::runtime_error("llama.cpp does not load the model"); }
  return model;
}

}  // namespace engine
