// tests/llama_cpp/engine.hpp - runs llama.cpp, with its own cache or with ours, and gives the logits.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "ggml-backend.h"
#include "kvcompress/adapters/llama_cpp.hpp"
#include "kvcompress/adapters/llama_cpp/thread_pool.hpp"
#include "registry/registry.hpp"

namespace kvcompress::test {

class LlamaModel {
 public:
  explicit LlamaModel(const std::filesystem::path& path) {
    static const bool loaded = [] {
      llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
      ggml_backend_load_all_from_path(KVCOMPRESS_LLAMA_CPP_LIBRARIES);
      return true;
    }();
    static_cast<void>(loaded);
    llama_model_params params = llama_model_default_params();
    params.use_extra_bufts = false;
    params.n_gpu_layers = 0;
    model_.reset(llama_model_load_from_file(path.c_str(), params));
    if (model_ == nullptr) { throw std::runtime_error("llama.cpp does not load " + path.string()); }
  }
  [[nodiscard]] llama_model* get() const noexcept { return model_.get(); }
  [[nodiscard]] std::size_t vocabulary() const noexcept {
    return static_cast<std::size_t>(llama_vocab_n_tokens(llama_model_get_vocab(get())));
  }

 private:
  struct Free {
    void operator()(llama_model* model) const noexcept { llama_model_free(model); }
  };
  std::unique_ptr<llama_model, Free> model_;
};

/// A token for decode: of a sequence, at its next position unless one is given.
struct Input {
  llama_token token;
  llama_seq_id sequence = 0;
  llama_pos position = 0;
};

/// A context with a cache of ours (`cache`), or with llama.cpp's own in f32 without flash attention, the most exact that it has.
class Engine {
 public:
  struct Setup {
    std::uint32_t context = 1024;
    std::uint32_t ubatch = 128;
    std::uint32_t sequences = 1;
    bool unified = true;
    std::int32_t threads = 1;
    bool whole_windows = false;  // layers with a sliding window have as many cells as the others
  };
  Engine(const LlamaModel& model, Setup setup, llama_cpp::Cache* cache = nullptr) : model_(model), cache_(cache) {
    llama_context_params params = llama_context_default_params();
    params.n_ctx = setup.context, params.n_batch = 512, params.n_ubatch = setup.ubatch, params.n_seq_max = setup.sequences;
    params.n_threads = params.n_threads_batch = setup.threads;
    params.kv_unified = setup.unified;
    params.swa_full = setup.whole_windows;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    params.type_k = params.type_v = GGML_TYPE_F32;
    if (cache != nullptr) { cache->configure(params, model.get()); }
    context_.reset(llama_init_from_model(model.get(), params));
    if (context_ == nullptr) { throw std::runtime_error("llama.cpp makes no context"); }
    if (setup.threads > 1) { threads_ = std::make_unique<llama_cpp::ThreadPool>(context_.get(), setup.threads); }
  }
  [[nodiscard]] llama_context* context() const noexcept { return context_.get(); }

  /// Logits of every token; raises what our cache says when it refuses.
  std::vector<std::vector<float>> decode(const std::vector<Input>& inputs) {
    std::vector<std::vector<float>> logits;
    llama_batch batch = llama_batch_init(static_cast<std::int32_t>(inputs.size()), 0, 1);
    batch.n_tokens = static_cast<std::int32_t>(inputs.size());
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      batch.token[i] = inputs[i].token, batch.pos[i] = inputs[i].position, batch.n_seq_id[i] = 1, batch.seq_id[i][0] = inputs[i].sequence;
      batch.logits[i] = 1;
    }
    const int result = cache_ != nullptr ? cache_->decode(context(), batch) : llama_decode(context(), batch);
    for (std::size_t i = 0; result == 0 && i < inputs.size(); ++i) {
      const float* of_token = llama_get_logits_ith(context(), static_cast<std::int32_t>(i));
      logits.emplace_back(of_token, of_token + model_.vocabulary());
    }
    llama_batch_free(batch);
    if (result != 0) { throw std::runtime_error(cache_ != nullptr ? cache_->error() : "llama_decode failed"); }
    return logits;
  }
  /// Tokens of one sequence from a position on.
  std::vector<std::vector<float>> decode(const std::vector<llama_token>& tokens, llama_pos first, llama_seq_id sequence = 0) {
    std::vector<Input> inputs;
    for (const llama_token token : tokens) { inputs.push_back({token, sequence, first++}); }
    return decode(inputs);
  }

 private:
  struct Free {
    void operator()(llama_context* context) const noexcept { llama_free(context); }
  };
  const LlamaModel& model_;
  llama_cpp::Cache* cache_;
  std::unique_ptr<llama_context, Free> context_;
  std::unique_ptr<llama_cpp::ThreadPool> threads_;
};

/// The largest difference of two lists of logits.
inline float difference(const std::vector<std::vector<float>>& a, const std::vector<std::vector<float>>& b) {
  float largest = a.size() == b.size() ? 0.0F : INFINITY;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    for (std::size_t c = 0; c < a[i].size(); ++c) { largest = std::max(largest, std::abs(a[i][c] - b[i][c])); }
  }
  return largest;
}
inline std::vector<llama_token> random_tokens(std::size_t count, std::uint32_t seed = 1) {
  std::vector<llama_token> tokens(count);
  for (llama_token& token : tokens) { token = static_cast<llama_token>(((seed = seed * 1664525U + 1013904223U) >> 16U) % 256U); }
  return tokens;
}

}  // namespace kvcompress::test
