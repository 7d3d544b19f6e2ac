// include/kvcompress/c_api_implementation.hpp - defines the functions of c_api.h: include it in exactly one source file.
// SPDX-License-Identifier: MIT
//
// Before it, KVCOMPRESS_C_API_REGISTRY may name a function that returns the `const kvcompress::Registry&` to make caches from; without it,
// standard_registry.hpp is included, with every part of the library (Eigen; a minute to compile).
#pragma once

#include <algorithm>
#include <cstdio>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>

#include "kvcompress/any/any_cache.hpp"
#include "kvcompress/c_api.h"
#include "kvcompress/capabilities.hpp"
#include "kvcompress/core/version.hpp"
#include "kvcompress/persistence.hpp"
#include "kvcompress/registry.hpp"

#if !defined(KVCOMPRESS_C_API_REGISTRY)
#include "kvcompress/standard_registry.hpp"
#endif

struct kvc_cache {
  kvcompress::AnyCache cache;
  kvcompress::Workspace workspace;
  explicit kvc_cache(kvcompress::AnyCache&& made) : cache(std::move(made)), workspace(cache.shape()) {}
};
struct kvc_workspace {
  kvcompress::Workspace workspace;
};

namespace kvcompress::inline KVCOMPRESS_ABI::c_api {

inline std::string& last_error() {
  static thread_local std::string sentence;
  return sentence;
}
[[nodiscard]] inline const Registry& registry() {
#if defined(KVCOMPRESS_C_API_REGISTRY)
  return KVCOMPRESS_C_API_REGISTRY();
#else
  static const Registry all = standard_registry();
  return all;
#endif
}
inline kvc_status failed(kvc_status status, const char* sentence) noexcept {
  try {
    last_error() = sentence;
  } catch (...) { last_error().clear(); }
  return status;
}
/// Runs work(); what it raises becomes a status and the thread's last error.
inline kvc_status guarded(auto&& work) noexcept {
  try {
    work();
    return KVC_OK;
  } catch (const Error& error) {
    return failed(static_cast<kvc_status>(static_cast<int>(error.code()) + 1), error.what());
  } catch (const std::bad_alloc&) { return failed(KVC_MEMORY, "kvcompress: no memory"); } catch (const std::exception& error) {
    return failed(KVC_OTHER, error.what());
  }
}
static_assert(static_cast<int>(ErrorCode::shape) + 1 == KVC_SHAPE && static_cast<int>(ErrorCode::format) + 1 == KVC_FORMAT,
              "kvc_status must list the error codes in their order");

inline void not_null(const char* function, const char* argument, const void* pointer) {
  require(pointer != nullptr, ErrorCode::input, function, ": ", argument, " is null");
}
[[nodiscard]] inline AnyCache& of(const char* function, kvc_cache* cache) {
  not_null(function, "cache", cache);
  return cache->cache;
}
[[nodiscard]] inline const AnyCache& of(const char* function, const kvc_cache* cache) {
  not_null(function, "cache", cache);
  return cache->cache;
}
[[nodiscard]] inline AttendOptions options_of(const Shape& shape, const kvc_options* options, std::size_t tokens) noexcept {
  if (options == nullptr) { return {}; }
  return {.scale = options->scale,
          .soft_cap = options->soft_cap,
          .window = options->window,
          .start = options->start,
          .log_sum_exp = options->log_sum_exp,
          .sinks = {options->sinks, options->sinks != nullptr ? shape.query_heads : 0},
          .until = {options->until, options->until != nullptr ? tokens : 0},
          .among_open = {options->among_open, options->among_open != nullptr ? options->among_open_words : 0}};
}
[[nodiscard]] inline Shape shape_of(const char* function, const kvc_shape* shape) {
  not_null(function, "shape", shape);
  require(shape->pairing == KVC_HALF_SPLIT || shape->pairing == KVC_INTERLEAVED, ErrorCode::shape, function, ": shape.pairing is ",
          static_cast<int>(shape->pairing), ", must be KVC_HALF_SPLIT or KVC_INTERLEAVED");
  return {.layers = shape->layers,
          .query_heads = shape->query_heads,
          .kv_heads = shape->kv_heads,
          .head_dim = shape->key_width,
          .key_dim = shape->key_width,
          .value_dim = shape->value_width,
          .keys = shape->unrotated != 0 ? KeyForm::unrotated : KeyForm::rotated,
          .rope = {.theta = shape->rope_theta,
                   .pairing = shape->pairing == KVC_HALF_SPLIT ? RopePairing::half_split : RopePairing::interleaved,
                   .rotary_dim = shape->rotary_dim,
                   .scale = shape->rope_scale,
                   .frequency_factors = shape->frequency_factors}};
}
inline void copy_sentence(std::string_view sentence, char (&to)[128]) noexcept {
  const std::size_t count = std::min(sentence.size(), sizeof to - 1);
  std::copy_n(sentence.data(), count, to);
  to[count] = '\0';
}
/// Buffers of `capacity` rows, where they are not null.
template <class T>
[[nodiscard]] std::span<T> room(T* rows, std::size_t capacity, std::size_t width) noexcept {
  return {rows, rows != nullptr ? capacity * width : 0};
}
template <class T>
kvc_status read_rows(const char* function, kvc_cache* cache, std::size_t layer, std::size_t kv_head, RowRange rows, kvc_angle angle,
                     T* keys, T* values, std::uint32_t* positions, std::size_t capacity) noexcept {
  return guarded([&] {
    AnyCache& own = of(function, cache);
    const bool any = keys != nullptr || values != nullptr || positions != nullptr;
    require(!any || rows.last < rows.first || capacity >= rows.size(), ErrorCode::input, function, ": capacity is ", capacity,
            ", must be at least ", rows.size(), ", the rows asked for");
    ReadInto into{.positions = room(positions, capacity, 1), .angle = static_cast<Angle>(angle)};
    const std::span<T> to[] = {room(keys, capacity, own.shape().key_width()), room(values, capacity, own.shape().value_width())};
    if constexpr (std::is_same_v<T, float>) {
      std::tie(into.keys, into.values) = std::tie(to[0], to[1]);
    } else {
      std::tie(into.half_keys, into.half_values) = std::tie(to[0], to[1]);
    }
    own.read_rows(layer, kv_head, rows, into);
  });
}
[[nodiscard]] inline Rows keys_of(const Shape& shape, const float* data, std::size_t tokens) noexcept {
  return Rows::tokens_first(data, tokens, shape.kv_heads, shape.key_width());
}
[[nodiscard]] inline Rows values_of(const Shape& shape, const float* data, std::size_t tokens) noexcept {
  return Rows::tokens_first(data, tokens, shape.kv_heads, shape.value_width());
}
[[nodiscard]] inline Rows queries_of(const Shape& shape, const float* data, std::size_t tokens) noexcept {
  return Rows::tokens_first(data, tokens, shape.query_heads, shape.key_width());
}
inline void attend(const char* function, kvc_cache* cache, std::size_t layer, const float* queries, std::size_t tokens, float* out,
                   const kvc_options* options, HeadRange heads, Workspace* workspace) {
  AnyCache& own = of(function, cache);
  const Shape& shape = own.shape();
  own.attend(layer, queries_of(shape, queries, tokens), Output::tokens_first(out, tokens, shape.query_heads, shape.value_width()),
             workspace != nullptr ? *workspace : cache->workspace, options_of(shape, options, tokens), heads);
}

/// A file that closes itself.
struct File {
  std::FILE* file;
  File(const char* function, const char* path, const char* mode) : file(nullptr) {
    not_null(function, "path", path);
    file = std::fopen(path, mode);
    require(file != nullptr, ErrorCode::io, function, ": cannot open ", path);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() {
    if (file != nullptr) { std::fclose(file); }
  }
};

}  // namespace kvcompress::c_api

extern "C" {

const char* kvc_version(void) {
  static const std::string text = std::to_string(kvcompress::version_major) + "." + std::to_string(kvcompress::version_minor) + "." +
                                  std::to_string(kvcompress::version_patch);
  return text.c_str();
}
const char* kvc_last_error(void) { return kvcompress::c_api::last_error().c_str(); }

kvc_shape kvc_shape_of(size_t layers, size_t query_heads, size_t kv_heads, size_t head_width) {
  return {layers, query_heads, kv_heads, head_width, head_width, 0, 10000.0, 1.0, 0, KVC_HALF_SPLIT, nullptr};
}
kvc_options kvc_options_default(void) { return {0.0F, 0.0F, 0, 0, nullptr, nullptr, nullptr, nullptr, 0}; }

kvc_status kvc_capabilities_of(const char* policy, const kvc_shape* shape, kvc_capabilities* capabilities) {
  return kvcompress::c_api::guarded([&] {
    using namespace kvcompress;
    c_api::not_null("kvc_capabilities_of", "policy", policy);
    c_api::not_null("kvc_capabilities_of", "capabilities", capabilities);
    const Shape own = c_api::shape_of("kvc_capabilities_of", shape);
    const Capabilities all = kvcompress::capabilities<AnyPolicy>(own, c_api::registry().options(policy, own));
    *capabilities = {all.evicts,
                     all.keeps_every_row,
                     all.observes_queries,
                     all.needs_prompt_queries,
                     all.retrieves,
                     all.encodes,
                     all.offloads,
                     all.in_cache_positions,
                     all.layers_together,
                     static_cast<kvc_truncates>(static_cast<int>(all.truncates)),
                     all.bytes_per_token,
                     {},
                     {}};
    c_api::copy_sentence(all.shift, capabilities->shift_refused);
    c_api::copy_sentence(all.drafts, capabilities->drafts_refused);
  });
}
kvc_status kvc_bytes_for(const char* policy, const kvc_shape* shape, size_t tokens, size_t* bytes) {
  return kvcompress::c_api::guarded([&] {
    using namespace kvcompress;
    c_api::not_null("kvc_bytes_for", "policy", policy);
    c_api::not_null("kvc_bytes_for", "bytes", bytes);
    const Shape own = c_api::shape_of("kvc_bytes_for", shape);
    *bytes = AnyCache::bytes_for(own, tokens, c_api::registry().options(policy, own));
  });
}

kvc_status kvc_create(const char* policy, const kvc_shape* shape, kvc_cache** cache) {
  return kvcompress::c_api::guarded([&] {
    using namespace kvcompress;
    c_api::not_null("kvc_create", "policy", policy);
    c_api::not_null("kvc_create", "cache", cache);
    const Shape own = c_api::shape_of("kvc_create", shape);
    *cache = new kvc_cache(c_api::registry().make(policy, own));
  });
}
void kvc_destroy(kvc_cache* cache) { delete cache; }
kvc_status kvc_copy(const kvc_cache* cache, kvc_cache** copy) {
  return kvcompress::c_api::guarded([&] {
    kvcompress::c_api::not_null("kvc_copy", "copy", copy);
    *copy = new kvc_cache(kvcompress::AnyCache(kvcompress::c_api::of("kvc_copy", cache)));
  });
}
kvc_status kvc_fork(const kvc_cache* cache, kvc_cache** fork) {
  return kvcompress::c_api::guarded([&] {
    kvcompress::c_api::not_null("kvc_fork", "fork", fork);
    *fork = new kvc_cache(kvcompress::c_api::of("kvc_fork", cache).fork());
  });
}

kvc_status kvc_append(kvc_cache* cache, size_t layer, const float* keys, const float* values, size_t tokens) {
  return kvcompress::c_api::guarded([&] {
    kvcompress::AnyCache& own = kvcompress::c_api::of("kvc_append", cache);
    own.append(layer, kvcompress::c_api::keys_of(own.shape(), keys, tokens), kvcompress::c_api::values_of(own.shape(), values, tokens));
  });
}
kvc_status kvc_append_at(kvc_cache* cache, size_t layer, const float* keys, const float* values, size_t tokens, uint32_t first_position) {
  return kvcompress::c_api::guarded([&] {
    kvcompress::AnyCache& own = kvcompress::c_api::of("kvc_append_at", cache);
    own.append(layer, kvcompress::c_api::keys_of(own.shape(), keys, tokens), kvcompress::c_api::values_of(own.shape(), values, tokens),
               first_position);
  });
}
kvc_status kvc_append_positions(kvc_cache* cache, size_t layer, const float* keys, const float* values, size_t tokens,
                                const uint32_t* positions) {
  return kvcompress::c_api::guarded([&] {
    kvcompress::AnyCache& own = kvcompress::c_api::of("kvc_append_positions", cache);
    kvcompress::c_api::not_null("kvc_append_positions", "positions", positions);
    own.append(layer, kvcompress::c_api::keys_of(own.shape(), keys, tokens), kvcompress::c_api::values_of(own.shape(), values, tokens),
               std::span<const kvcompress::Position>(positions, tokens));
  });
}
kvc_status kvc_keep_open(kvc_cache* cache, size_t layer, const size_t* rows, size_t count) {
  return kvcompress::c_api::guarded([&] {
    if (count > 0) { kvcompress::c_api::not_null("kvc_keep_open", "rows", rows); }
    kvcompress::c_api::of("kvc_keep_open", cache).keep_open(layer, {rows, count});
  });
}
kvc_status kvc_attend(kvc_cache* cache, size_t layer, const float* queries, size_t tokens, float* out, const kvc_options* options) {
  return kvcompress::c_api::guarded(
      [&] { kvcompress::c_api::attend("kvc_attend", cache, layer, queries, tokens, out, options, {}, nullptr); });
}
kvc_status kvc_attend_heads(kvc_cache* cache, size_t layer, const float* queries, size_t tokens, float* out, const kvc_options* options,
                            size_t head_begin, size_t head_end, kvc_workspace* workspace) {
  return kvcompress::c_api::guarded([&] {
    kvcompress::c_api::not_null("kvc_attend_heads", "workspace", workspace);
    kvcompress::c_api::attend("kvc_attend_heads", cache, layer, queries, tokens, out, options, {head_begin, head_end},
                              &workspace->workspace);
  });
}
kvc_status kvc_workspace_create(const kvc_cache* cache, kvc_workspace** workspace) {
  return kvcompress::c_api::guarded([&] {
    kvcompress::c_api::not_null("kvc_workspace_create", "workspace", workspace);
    *workspace = new kvc_workspace{kvcompress::Workspace(kvcompress::c_api::of("kvc_workspace_create", cache).shape())};
  });
}
void kvc_workspace_destroy(kvc_workspace* workspace) { delete workspace; }
kvc_status kvc_observe(kvc_cache* cache, size_t layer, const float* queries, const uint32_t* positions, size_t tokens,
                       const kvc_options* options, const float* log_sum_exp) {
  return kvcompress::c_api::guarded([&] {
    kvcompress::AnyCache& own = kvcompress::c_api::of("kvc_observe", cache);
    kvcompress::c_api::not_null("kvc_observe", "positions", positions);
    own.observe(layer, kvcompress::c_api::queries_of(own.shape(), queries, tokens), {positions, tokens},
                kvcompress::c_api::options_of(own.shape(), options, tokens), log_sum_exp);
  });
}

kvc_status kvc_begin_prompt(kvc_cache* cache, size_t layer) {
  return kvcompress::c_api::guarded([&] { kvcompress::c_api::of("kvc_begin_prompt", cache).begin_prompt(layer); });
}
kvc_status kvc_end_prompt(kvc_cache* cache, size_t layer) {
  return kvcompress::c_api::guarded([&] { kvcompress::c_api::of("kvc_end_prompt", cache).end_prompt(layer); });
}
kvc_status kvc_commit(kvc_cache* cache, size_t layer) {
  return kvcompress::c_api::guarded([&] { kvcompress::c_api::of("kvc_commit", cache).commit(layer); });
}
kvc_status kvc_truncate(kvc_cache* cache, uint32_t position) {
  return kvcompress::c_api::guarded([&] { kvcompress::c_api::of("kvc_truncate", cache).truncate(position); });
}
kvc_status kvc_remove(kvc_cache* cache, uint32_t begin, uint32_t end) {
  return kvcompress::c_api::guarded([&] { kvcompress::c_api::of("kvc_remove", cache).remove(begin, end); });
}
kvc_status kvc_clear(kvc_cache* cache) {
  return kvcompress::c_api::guarded([&] { kvcompress::c_api::of("kvc_clear", cache).clear(); });
}
kvc_status kvc_shift(kvc_cache* cache, uint32_t begin, uint32_t end, int64_t delta) {
  return kvcompress::c_api::guarded([&] { kvcompress::c_api::of("kvc_shift", cache).shift(begin, end, delta); });
}
kvc_status kvc_reserve(kvc_cache* cache, size_t tokens) {
  return kvcompress::c_api::guarded([&] { kvcompress::c_api::of("kvc_reserve", cache).reserve(tokens); });
}

kvc_status kvc_tokens(const kvc_cache* cache, size_t layer, size_t* tokens) {
  return kvcompress::c_api::guarded([&] {
    kvcompress::c_api::not_null("kvc_tokens", "tokens", tokens);
    *tokens = kvcompress::c_api::of("kvc_tokens", cache).tokens(layer);
  });
}
kvc_status kvc_kept(const kvc_cache* cache, size_t layer, size_t kv_head, uint32_t* positions, size_t capacity, size_t* count) {
  return kvcompress::c_api::guarded([&] {
    kvcompress::c_api::not_null("kvc_kept", "count", count);
    const auto kept = kvcompress::c_api::of("kvc_kept", cache).kept(layer, kv_head);
    if (positions != nullptr) { std::copy_n(kept.begin(), std::min(capacity, kept.size()), positions); }
    *count = kept.size();
  });
}
kvc_status kvc_rows(const kvc_cache* cache, size_t layer, size_t kv_head, size_t* rows) {
  return kvcompress::c_api::guarded([&] {
    kvcompress::c_api::not_null("kvc_rows", "rows", rows);
    *rows = kvcompress::c_api::of("kvc_rows", cache).table(layer, kv_head).rows();
  });
}
kvc_status kvc_read_rows(kvc_cache* cache, size_t layer, size_t kv_head, size_t begin, size_t end, kvc_angle angle, float* keys,
                         float* values, uint32_t* positions, size_t capacity) {
  return kvcompress::c_api::read_rows("kvc_read_rows", cache, layer, kv_head, {begin, end}, angle, keys, values, positions, capacity);
}
kvc_status kvc_read_rows_f16(kvc_cache* cache, size_t layer, size_t kv_head, size_t begin, size_t end, kvc_angle angle, uint16_t* keys,
                             uint16_t* values, uint32_t* positions, size_t capacity) {
  using kvcompress::half;
  static_assert(sizeof(half) == sizeof(uint16_t) && alignof(half) == alignof(uint16_t));
  return kvcompress::c_api::read_rows("kvc_read_rows_f16", cache, layer, kv_head, {begin, end}, angle, reinterpret_cast<half*>(keys),
                                      reinterpret_cast<half*>(values), positions, capacity);
}
kvc_status kvc_memory(const kvc_cache* cache, kvc_bytes* bytes) {
  return kvcompress::c_api::guarded([&] {
    kvcompress::c_api::not_null("kvc_memory", "bytes", bytes);
    const kvcompress::MemoryReport r = kvcompress::c_api::of("kvc_memory", cache).memory();
    *bytes = {r.total(), r.codes + r.scales, r.exact_rows, r.factors + r.outliers + r.positions + r.policy_state + r.indices,
              r.scratch, r.slow_tier,        r.spare};
  });
}
kvc_status kvc_bits_per_value(const kvc_cache* cache, double* bits) {
  return kvcompress::c_api::guarded([&] {
    kvcompress::c_api::not_null("kvc_bits_per_value", "bits", bits);
    *bits = kvcompress::c_api::of("kvc_bits_per_value", cache).bits_per_value();
  });
}

kvc_status kvc_save_file(const kvc_cache* cache, const char* path) {
  return kvcompress::c_api::guarded([&] {
    using namespace kvcompress;
    const AnyCache& own = c_api::of("kvc_save_file", cache);
    c_api::not_null("kvc_save_file", "path", path);
    const std::string beside = std::string(path) + ".part";  // what stands at `path` stays until the new file is whole
    c_api::File out("kvc_save_file", beside.c_str(), "wb");
    save(own, {[](void* file, const void* from, std::size_t bytes) {
      return std::fwrite(from, 1, bytes, static_cast<std::FILE*>(file)) == bytes;
               },
               out.file});
    std::FILE* closed = std::exchange(out.file, nullptr);
    require(std::fclose(closed) == 0 && std::rename(beside.c_str(), path) == 0, ErrorCode::io, "kvc_save_file: cannot write all of ", path);
  });
}
kvc_status kvc_load_file(kvc_cache* cache, const char* path) {
  return kvcompress::c_api::guarded([&] {
    using namespace kvcompress;
    AnyCache& own = c_api::of("kvc_load_file", cache);
    const c_api::File in("kvc_load_file", path, "rb");
    load(own, {[](void* file, void* to, std::size_t bytes) {
      const std::size_t got = std::fread(to, 1, bytes, static_cast<std::FILE*>(file));
      return got < bytes && std::ferror(static_cast<std::FILE*>(file)) != 0 ? ByteSource::failed : got;
               },
               in.file});
  });
}

}  // extern "C"
