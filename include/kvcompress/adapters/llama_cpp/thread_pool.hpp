// include/kvcompress/adapters/llama_cpp/thread_pool.hpp - threads of llama.cpp's that stay.
// SPDX-License-Identifier: MIT
#pragma once

#include "ggml-backend.h"
#include "ggml.h"
#include "kvcompress/core/error.hpp"
#include "llama.h"

namespace kvcompress::inline KVCOMPRESS_ABI::llama_cpp {

/// A pool of ggml's threads, attached to a context while this object lives. Without one, llama.cpp starts and joins threads for every graph,
/// that is for every token.
class ThreadPool {
 public:
  ThreadPool(llama_context* context, int threads) : context_(context) {
    require(context != nullptr, ErrorCode::input, "llama_cpp: context is null");
    require(threads > 0 && threads <= GGML_MAX_N_THREADS, ErrorCode::option, "llama_cpp: threads is ", threads, ", must be 1 to ",
            GGML_MAX_N_THREADS);
    ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    require(cpu != nullptr, ErrorCode::option, "llama_cpp: ggml has no CPU backend loaded");
    ggml_backend_reg_t functions = ggml_backend_dev_backend_reg(cpu);
    const auto make = reinterpret_cast<Make>(ggml_backend_reg_get_proc_address(functions, "ggml_threadpool_new"));
    free_ = reinterpret_cast<Free>(ggml_backend_reg_get_proc_address(functions, "ggml_threadpool_free"));
    require(make != nullptr && free_ != nullptr, ErrorCode::option, "llama_cpp: ggml's CPU backend has no thread pools");
    ggml_threadpool_params params = ggml_threadpool_params_default(threads);
    pool_ = make(&params);
    require(pool_ != nullptr, ErrorCode::memory, "llama_cpp: ggml makes no thread pool of ", threads, " threads");
    llama_attach_threadpool(context, pool_, pool_);
  }
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool() {
    llama_detach_threadpool(context_);
    free_(pool_);
  }

 private:
  using Make = ggml_threadpool_t (*)(ggml_threadpool_params*);
  using Free = void (*)(ggml_threadpool_t);
  llama_context* context_;
  Free free_ = nullptr;
  ggml_threadpool_t pool_ = nullptr;
};

}  // namespace kvcompress::llama_cpp
