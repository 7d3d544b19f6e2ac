// examples/llama_cpp/preload.cpp - a compressed cache for programs that use libllama and are built already.
// SPDX-License-Identifier: MIT
//
//     LD_PRELOAD=libkvcompress_preload.so KVCOMPRESS_POLICY=snapkv:budget=25%+kivi4 program
//
// The functions below stand before libllama's own of the same name; each finds a context's cache and calls libllama's. At exit a line on
// stderr says what was done. Contexts whose program watches the graph itself, or that this cache cannot serve, are left alone.
#include <dlfcn.h>
#include <link.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "ggml-backend.h"
#include "kvcompress/adapters/llama_cpp.hpp"
#include "registry/registry.hpp"

namespace {

/// A library's own function. A program may have loaded the library where our undefined names do not see it, so it is made visible to all.
void* own_function(const char* name) {
  struct Search {
    const char* part;
    std::string path;
  } search{name[0] == 'g' ? "libggml-base." : "libllama.", {}};
  dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* context) {
    auto& wanted = *static_cast<Search*>(context);
    if (std::strstr(info->dlpi_name, wanted.part) == nullptr) { return 0; }
    wanted.path = info->dlpi_name;
    return 1;
      },
      &search);
  void* library = dlopen(search.path.c_str(), RTLD_NOLOAD | RTLD_LAZY | RTLD_GLOBAL);
  void* function = library != nullptr ? dlsym(library, name) : nullptr;
  if (function == nullptr) {
    std::fprintf(stderr, "kvcompress: the program has loaded no library with %s\n", name);
    std::abort();
  }
  return function;
}
template <class Function>
Function* own(Function* /*ours*/, const char* name) {
  return reinterpret_cast<Function*>(own_function(name));
}
#define OWN(function)                                      \
  ([] {                                                    \
    static const auto found = own(&(function), #function); \
    return found;                                          \
  }())

/// The caches of all contexts of the process, and what they did.
class Caches {
 public:
  Caches() = default;
  Caches(const Caches&) = delete;
  Caches& operator=(const Caches&) = delete;
  ~Caches() {
    if (tokens_ > 0) {
      std::fprintf(stderr, "kvcompress: %zu tokens went through %s; the largest cache took %zu KiB\n", tokens_, policy(), largest_ >> 10U);
    }
  }
  /// Null: every context is left alone.
  static const char* policy() noexcept { return std::getenv("KVCOMPRESS_POLICY"); }

  void add(llama_context* context, std::unique_ptr<kvcompress::llama_cpp::Cache> cache) {
    const std::lock_guard guard(mutex_);
    caches_[context] = std::move(cache);
  }
  void remove(llama_context* context) {
    const std::lock_guard guard(mutex_);
    caches_.erase(context);
  }
  /// The context that owns this memory, null if it is not one of ours; `cache` is set to its cache.
  llama_context* find(const void* context_or_memory, kvcompress::llama_cpp::Cache*& cache) {
    const std::lock_guard guard(mutex_);
    for (const auto& [context, held] : caches_) {
      if (context == context_or_memory || OWN(llama_get_memory)(context) == context_or_memory) {
        cache = held.get();
        return context;
      }
    }
    return nullptr;
  }
  void count(std::size_t tokens, std::size_t bytes) {
    const std::lock_guard guard(mutex_);
    tokens_ += tokens;
    largest_ = std::max(largest_, bytes);
  }

 private:
  std::mutex mutex_;
  std::map<llama_context*, std::unique_ptr<kvcompress::llama_cpp::Cache>> caches_;
  std::size_t tokens_ = 0;
  std::size_t largest_ = 0;
};
Caches& caches() {
  static Caches all;
  return all;
}
void say(const std::string& error) { std::fprintf(stderr, "%s\n", error.c_str()); }

}  // namespace

extern "C" {

llama_context* llama_init_from_model(llama_model* model, llama_context_params params) {
  auto* real = OWN(llama_init_from_model);
  if (Caches::policy() == nullptr || params.cb_eval != nullptr) { return real(model, params); }
  const llama_context_params asked = params;
  std::unique_ptr<kvcompress::llama_cpp::Cache> cache;
  try {
    cache = std::make_unique<kvcompress::llama_cpp::Cache>(
        examples::registry(),
        kvcompress::llama_cpp::Options{.policy = Caches::policy(),
                                       .functions = {OWN(llama_decode), OWN(llama_memory_seq_rm), OWN(llama_memory_seq_cp),
                                                     OWN(llama_memory_clear), OWN(llama_memory_seq_add), OWN(llama_memory_can_shift)}});
    cache->configure(params, model);
  } catch (const std::exception& error) {
    say(error.what());
    return real(model, asked);
  }
  llama_context* context = real(model, params);
  if (context != nullptr) { caches().add(context, std::move(cache)); }
  return context;
}
void llama_free(llama_context* context) {
  auto* real = OWN(llama_free);
  real(context);
  caches().remove(context);
}
int32_t llama_decode(llama_context* context, llama_batch batch) {
  kvcompress::llama_cpp::Cache* cache = nullptr;
  if (caches().find(context, cache) == nullptr) { return OWN(llama_decode)(context, batch); }
  const int result = cache->decode(context, batch);
  if (!cache->error().empty()) { say(cache->error()); }
  caches().count(static_cast<std::size_t>(batch.n_tokens), cache->memory().total());
  return result;
}
// False is llama.cpp's own answer of memories that cannot forget a part: programs then clear the sequence and evaluate it again.
bool llama_memory_seq_rm(llama_memory_t memory, llama_seq_id id, llama_pos first, llama_pos last) {
  kvcompress::llama_cpp::Cache* cache = nullptr;
  llama_context* context = caches().find(memory, cache);
  return context != nullptr ? cache->remove(context, id, first, last) : OWN(llama_memory_seq_rm)(memory, id, first, last);
}
void llama_memory_seq_cp(llama_memory_t memory, llama_seq_id from, llama_seq_id to, llama_pos first, llama_pos last) {
  kvcompress::llama_cpp::Cache* cache = nullptr;
  llama_context* context = caches().find(memory, cache);
  if (context == nullptr) { return OWN(llama_memory_seq_cp)(memory, from, to, first, last); }
  try {
    cache->copy(context, from, to, last);
  } catch (const std::exception& error) { say(error.what()); }
}
void llama_memory_seq_keep(llama_memory_t memory, llama_seq_id id) {
  kvcompress::llama_cpp::Cache* cache = nullptr;
  llama_context* context = caches().find(memory, cache);
  context != nullptr ? cache->keep(context, id) : OWN(llama_memory_seq_keep)(memory, id);
}
void llama_memory_clear(llama_memory_t memory, bool data) {
  kvcompress::llama_cpp::Cache* cache = nullptr;
  llama_context* context = caches().find(memory, cache);
  context != nullptr ? cache->clear(context) : OWN(llama_memory_clear)(memory, data);
}
void llama_memory_seq_add(llama_memory_t memory, llama_seq_id id, llama_pos first, llama_pos last, llama_pos delta) {
  kvcompress::llama_cpp::Cache* cache = nullptr;
  llama_context* context = caches().find(memory, cache);
  if (context == nullptr) { return OWN(llama_memory_seq_add)(memory, id, first, last, delta); }
  if (!cache->shift(context, id, first, last, delta)) { say(cache->error()); }
}
bool llama_memory_can_shift(llama_memory_t memory) {
  kvcompress::llama_cpp::Cache* cache = nullptr;
  const llama_context* context = caches().find(memory, cache);
  return context != nullptr ? cache->can_shift(context) : OWN(llama_memory_can_shift)(memory);
}
// Programs fill a new cache with zeros, which would take its memory; what the system has just given is zero already.
void ggml_backend_buffer_clear(ggml_backend_buffer_t buffer, uint8_t value) {
  const std::size_t bytes = OWN(ggml_backend_buffer_get_size)(buffer);
  if (Caches::policy() != nullptr && value == 0 && OWN(ggml_backend_buffer_is_host)(buffer) && bytes > (std::size_t{1} << 20U)) {
    kvcompress::llama_cpp::give_back_pages(OWN(ggml_backend_buffer_get_base)(buffer), bytes);
  } else {
    OWN(ggml_backend_buffer_clear)(buffer, value);
  }
}

}  // extern "C"
