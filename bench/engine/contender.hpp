// bench/engine/contender.hpp - llama.cpp with one kind of cache, its own or ours: filled without attention, then timed.
// SPDX-License-Identifier: MIT
#pragma once

#include <malloc.h>
#include <unistd.h>

#include <chrono>
#include <ctime>
#include <fstream>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "engine/model.hpp"
#include "kvcompress/adapters/llama_cpp.hpp"
#include "kvcompress/adapters/llama_cpp/thread_pool.hpp"
#include "kvcompress/persistence.hpp"
#include "kvcompress/persistence/buffers.hpp"
#include "registry/registry.hpp"

namespace engine {

namespace kv = kvcompress;

inline std::size_t resident_bytes() {
  std::size_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages >> pages;
  return pages * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}
/// Milliseconds that this thread has computed: others on a busy machine do not count.
inline double thread_ms() {
  std::timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return 1e3 * static_cast<double>(now.tv_sec) + 1e-6 * static_cast<double>(now.tv_nsec);
}
inline double wall_ms() { return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

/// How llama.cpp keeps its cache, or the policy that ours gets.
struct Kind {
  std::string name;
  std::string policy;  // of ours; empty: llama.cpp's own
  bool flash = true;
  ggml_type type = GGML_TYPE_F16;
};

/// A context of that kind.
class Contender {
 public:
  Contender(const Kind& kind, const llama_model* model, std::uint32_t context, int threads) : kind_(kind), before_(resident_bytes()) {
    llama_context_params params = llama_context_default_params();
    params.n_ctx = context, params.n_batch = params.n_ubatch = batch_tokens;
    params.n_threads = threads, params.n_threads_batch = threads;
    params.flash_attn_type = kind.flash ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
    params.type_k = params.type_v = kind.type;
    if (!kind.policy.empty()) {
      cache_ = std::make_unique<kv::llama_cpp::Cache>(examples::registry(), kv::llama_cpp::Options{.policy = kind.policy});
      cache_->configure(params, model);
      ours_ = {params.cb_eval, params.cb_eval_user_data};
    }
    params.cb_eval = [](ggml_tensor* node, bool ask, void* self) { return static_cast<Contender*>(self)->visit(node, ask); };
    params.cb_eval_user_data = this;
    context_.reset(llama_init_from_model(const_cast<llama_model*>(model), params));
    if (context_ == nullptr) { throw std::runtime_error(kind.name + ": llama.cpp makes no context"); }
    if (threads > 1) { pool_ = std::make_unique<kv::llama_cpp::ThreadPool>(context_.get(), threads); }
  }
  Contender(const Contender&) = delete;
  Contender& operator=(const Contender&) = delete;

  [[nodiscard]] const Kind& kind() const noexcept { return kind_; }
  /// Puts `tokens` tokens into the cache, as a prompt that has ended, without attention between them: that would take minutes. Policies
  /// that observe see the last 64 queries.
  void fill(std::size_t tokens) {
    if (tokens == 0) { return; }
    filling_ = true;
    prompt_tokens_ = tokens;
    for (filled_ = 0; filled_ < tokens; filled_ += batch_) {
      batch_ = std::min<std::size_t>(batch_tokens, tokens - filled_);
      check(llama_decode(context_.get(), batch(batch_)));
      for (const auto& [node, work] : changed_) { work.write_to(node); }
      changed_.clear();
    }
    filling_ = false;
    if (cache_ == nullptr) { return; }
    kv::llama_cpp::Sequence sequence;
    for (std::size_t layer = 0; layer < layers; ++layer) { held_->end_prompt(layer); }
    sequence.held.add(0, static_cast<kv::Position>(tokens));
    sequence.next = static_cast<kv::Position>(tokens);
    sequence.prompt_ended = true;
    sequence.caches.emplace(*kind_of_layers_, std::move(*held_));
    std::vector<std::byte> file;
    file.reserve(sequence.caches.begin()->second.memory().total() * 5 / 4 + (std::size_t{1} << 20U));
    sequence.save(kv::sink(file), kv::detail::xxh3);
    held_.reset();
    sequence = {};
    std::span<const std::byte> from(file);
    cache_->load(0, kv::source(from), kv::detail::xxh3);
    file = {};
    malloc_trim(0);  // of what this way of filling took
  }
  /// Evaluates the next `tokens` tokens in one batch.
  void decode(std::size_t tokens) {
    check(cache_ != nullptr ? cache_->decode(context_.get(), batch(tokens)) : llama_decode(context_.get(), batch(tokens)));
  }
  void end_prompt() {
    if (cache_ != nullptr) { cache_->end_prompt(0); }
  }
  /// Forgets everything.
  void clear() { cache_ != nullptr ? cache_->clear(context_.get()) : llama_memory_clear(llama_get_memory(context_.get()), false); }
  /// What the cache takes for itself.
  [[nodiscard]] std::size_t cache_bytes() const {
    if (cache_ != nullptr) { return cache_->memory().total(); }
    std::size_t bytes = 0;
    for (const ggml_tensor* cells : cells_) { bytes += ggml_nbytes(cells); }
    return bytes;
  }
  /// What the process has grown by since this was made: cache, llama.cpp's own cells and its buffers.
  [[nodiscard]] std::size_t resident() const noexcept {
    const std::size_t now = resident_bytes();
    return now - std::min(now, before_);
  }
  /// Milliseconds a token of the fastest round so far; rounds of all contenders alternate.
  double fastest = 1e300;
  std::size_t resident_when_filled = 0;

 private:
  static constexpr std::uint32_t batch_tokens = 512;

  void check(int result) const {
    if (result != 0) { throw std::runtime_error(kind_.name + ": " + (cache_ != nullptr ? cache_->error() : "llama_decode failed")); }
  }
  llama_batch batch(std::size_t tokens) {
    tokens_.resize(tokens);
    for (llama_token& token : tokens_) { token = static_cast<llama_token>((seed_ = seed_ * 1664525U + 1013904223U) >> 24U); }
    return llama_batch_get_one(tokens_.data(), static_cast<std::int32_t>(tokens));
  }
  bool visit(ggml_tensor* node, bool ask) {
    if (!ask) { return true; }
    if (node->op == GGML_OP_SET_ROWS) { cells_.insert(kv::llama_cpp::root(node->src[2])); }
    if (!filling_) { return cache_ != nullptr && ours_.first(node, ask, ours_.second); }
    const auto is_cell = [](const ggml_tensor* tensor) { return kv::llama_cpp::cache_tensor(tensor).layer >= 0; };
    if (node->op == GGML_OP_SET_ROWS && cache_ != nullptr) {
      const kv::llama_cpp::CacheTensor which = kv::llama_cpp::cache_tensor(node->src[2]);
      (which.values ? new_values_ : new_keys_)[static_cast<std::size_t>(which.layer)] = node;
      take_out(node);
    } else if (node->op == GGML_OP_FLASH_ATTN_EXT || (node->op == GGML_OP_MUL_MAT && is_cell(node->src[0]))) {
      changed_.emplace_back(node, kv::llama_cpp::NodeWork(*node));
      instead_.write_to(node);
    } else if (node->op == GGML_OP_SOFT_MAX) {
      take_out(node);
    }
    return false;
  }
  void take_out(ggml_tensor* node) {
    changed_.emplace_back(node, kv::llama_cpp::NodeWork(*node));
    node->op = GGML_OP_NONE;
  }
  /// Instead of attention: its rows go into our cache, its result is 0.
  static void instead(ggml_tensor* node, int thread, int /*threads*/, void* context) {
    if (thread != 0) { return; }
    auto& self = *static_cast<Contender*>(context);
    if (self.cache_ != nullptr) { self.keep_rows(*node); }
    std::memset(node->data, 0, ggml_nbytes(node));
  }
  void keep_rows(const ggml_tensor& node) {
    const kv::llama_cpp::AttentionNode attention(&node);  // its shapes; its parameters are ours now
    const auto layer = static_cast<std::size_t>(attention.layer());
    const auto rows = [&](const ggml_tensor* stored) {
      return kv::llama_cpp::rows_of(stored->src[0], attention.tokens(), kv_heads, head_dim, stored->src[0]->nb[1],
                                    head_dim * sizeof(float));
    };
    if (held_ == nullptr) {
      kind_of_layers_ = std::make_unique<kv::llama_cpp::Kind>(
          kv::llama_cpp::Kind{query_heads, kv_heads, head_dim, head_dim,
                              kv::llama_cpp::rotary_embedding(kv::llama_cpp::root(new_keys_[layer]->src[0])), kind_.policy});
      held_ = std::make_unique<kv::AnyCache>(examples::registry().make(kind_.policy, kind_of_layers_->shape(layers)));
      held_->reserve(prompt_tokens_);
    }
    held_->append(layer, rows(new_keys_[layer]), rows(new_values_[layer]));
    if (filled_ + batch_ == prompt_tokens_) {
      const std::size_t last = std::min<std::size_t>(64, batch_);
      std::vector<float> out(last * query_heads * head_dim);
      held_->attend(layer, attention.query_rows().slice(batch_ - last, batch_),
                    kv::Output::tokens_first(out.data(), last, query_heads, head_dim));
    }
  }

  Kind kind_;
  std::size_t before_;
  std::unique_ptr<kv::llama_cpp::Cache> cache_;
  std::pair<ggml_backend_sched_eval_callback, void*> ours_{};
  struct Free {
    void operator()(llama_context* context) const noexcept { llama_free(context); }
  };
  std::unique_ptr<llama_context, Free> context_;
  std::unique_ptr<kv::llama_cpp::ThreadPool> pool_;
  std::vector<llama_token> tokens_;
  std::uint32_t seed_ = 1;
  std::set<const ggml_tensor*> cells_;  // llama.cpp's
  // while filling
  bool filling_ = false;
  std::size_t prompt_tokens_ = 0, filled_ = 0, batch_ = 0;
  kv::llama_cpp::NodeWork instead_ = kv::llama_cpp::node_that_calls(&Contender::instead, this);
  std::vector<std::pair<ggml_tensor*, kv::llama_cpp::NodeWork>> changed_;
  const ggml_tensor* new_keys_[layers] = {};
  const ggml_tensor* new_values_[layers] = {};
  std::unique_ptr<kv::llama_cpp::Kind> kind_of_layers_;
  std::unique_ptr<kv::AnyCache> held_;
};

}  // namespace engine
