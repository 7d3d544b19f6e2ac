// include/kvcompress/adapters/llama_cpp.hpp - an unmodified llama.cpp runs on caches of this library.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <chrono>
#include <deque>
#include <exception>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "kvcompress/adapters/llama_cpp/attention.hpp"
#include "kvcompress/adapters/llama_cpp/batch.hpp"
#include "kvcompress/adapters/llama_cpp/crew.hpp"
#include "kvcompress/adapters/llama_cpp/sequence.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::llama_cpp {

/// When a sequence's prompt ends.
enum class Phases {
  found,  ///< several tokens of a sequence in one batch are a prompt or a part of one, a single token ends it
  said    ///< by end_prompt and begin_prompt alone: for programs that decode drafts of several tokens
};

/// llama.cpp's functions that change what a context remembers. An object that stands before libllama (LD_PRELOAD) gives libllama's own.
struct Functions {
  decltype(&llama_decode) decode = llama_decode;
  decltype(&llama_memory_seq_rm) seq_rm = llama_memory_seq_rm;
  decltype(&llama_memory_seq_cp) seq_cp = llama_memory_seq_cp;
  decltype(&llama_memory_clear) clear = llama_memory_clear;
  decltype(&llama_memory_seq_add) seq_add = llama_memory_seq_add;
  decltype(&llama_memory_can_shift) can_shift = llama_memory_can_shift;
};

struct Options {
  std::string policy = "full";  ///< see LayerPolicies: one policy, or "layers 0-1: full; rest: kivi4"
  Phases phases = Phases::found;
  bool ring = false;  ///< llama.cpp keeps only the cells it must: for texts longer than its n_ctx
  Memory memory{};    ///< where the caches take theirs
  Functions functions{};
};

/// The key-value cache of one llama_context. llama.cpp keeps its book of cells and computes everything but attention: its nodes that store
/// keys and values and that attend over them are taken out of each graph before they run, and their results come from here. Its own cells
/// take no memory once the first layer has attended.
///
///     kvcompress::llama_cpp::Cache cache(registry, {.policy = "snapkv:budget=25%+kivi4"});
///     cache.configure(params, model);     // before llama_init_from_model(model, params)
///     cache.decode(context, batch);       // instead of llama_decode
///
/// Layers may differ in heads, widths, rotary embedding and window, may read another layer's rows, and may have learned sinks; rows that a
/// sliding window has passed go; ALiBi works with policies that do not choose rows by remembered queries. Refused with a sentence: MLA, M-RoPE, recurrent and encoder models (recurrent layers beside
/// attention work, one sequence at a time), attention that is not causal, tokens of several sequences at once. Rows must lie in host
/// memory. Written against llama.cpp 0.4.0 (commit 80fb11ac); it needs flash attention, which configure turns on.
///
/// Attention runs inside llama.cpp's graph, on all threads of its context. Cost: attention itself. With several threads a thread pool
/// (llama_cpp/thread_pool.hpp) saves starting them for each graph, as without this cache.
class Cache {
 public:
  /// `registry` makes the caches and must outlive this object.
  explicit Cache(const Registry& registry, Options options = {})
      : options_(std::move(options)), attention_(registry, options_.policy, options_.memory),
        our_node_(node_that_calls(&Cache::compute, this)) {}
  Cache(const Cache&) = delete;  // the context points here
  Cache& operator=(const Cache&) = delete;

  /// Prepares the parameters of a context of `model`; raises an Error where these cannot be served. The object must outlive the context.
  void configure(llama_context_params& params, const llama_model* model) {
    require(model != nullptr, ErrorCode::input, "llama_cpp: model is null");
    require(!llama_model_is_recurrent(model), ErrorCode::option, "llama_cpp: no attention cache: a recurrent model");
    require(!llama_model_has_encoder(model), ErrorCode::option, "llama_cpp: the model has an encoder, whose attention has no cache");
    require(params.cb_eval == nullptr, ErrorCode::option, "llama_cpp: params.cb_eval is set, must be null: this cache is asked through it");
    hybrid_ = llama_model_is_hybrid(model);
    unified_ = params.kv_unified || params.n_seq_max <= 1;
    window_ = static_cast<std::size_t>(std::max(0, llama_model_n_swa(model)));
    attention_.configure(static_cast<std::size_t>(llama_model_n_layer(model)), window_, options_.ring);
    if (options_.ring) { params.n_ctx = params.n_batch + params.n_seq_max * (static_cast<std::uint32_t>(window_) + 1); }
    params.cb_eval = [](ggml_tensor* node, bool ask, void* self) { return static_cast<Cache*>(self)->visit(node, ask); };
    params.cb_eval_user_data = this;
    programs_abort_ = {params.abort_callback, params.abort_callback_data};
    params.abort_callback = [](void* self) { return static_cast<Cache*>(self)->aborts(); };
    params.abort_callback_data = this;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    params.type_k = params.type_v = GGML_TYPE_F16;
  }

  /// llama_decode with this cache: its return value; or -1 where this cache refuses the batch, 2 where it finds out later: error() says why,
  /// and the sequences are as before.
  int decode(llama_context* context, llama_batch batch) {
    error_.clear();
    try {
      start(context, batch);
    } catch (const std::exception& error) {
      error_ = error.what();
      return -1;
    }
    const int result = options_.functions.decode(context, batch);
    put_back();
    if (result == 0 && error_.empty()) {
      for (const auto& [id, positions] : batch_.positions()) { sequences_[id].add(positions.front(), positions.back() + 1); }
      return 0;
    }
    for (const auto& [id, positions] : batch_.positions()) {  // llama.cpp has taken the batch back, so do we
      sequences_[id].next = positions.back() + 1;             // some layers may have its rows
      try {
        sequences_[id].truncate(positions.front());
      } catch (const std::exception&) { sequences_.erase(id); }
    }
    return result != 0 ? result : 2;
  }
  /// Why the last call was refused; empty if it was not.
  [[nodiscard]] const std::string& error() const noexcept { return error_; }

  // ------------------------------------------------------------------ phases

  /// The sequence's prompt is complete: its rows are compressed. Does nothing if it has ended already.
  void end_prompt(llama_seq_id id) {
    Sequence& sequence = sequences_[id];
    if (sequence.next > 0) { sequence.end_prompt(); }
  }
  /// What comes next is a prompt again, another turn: it is compressed when it ends.
  void begin_prompt(llama_seq_id id) { sequences_[id].begin_prompt(); }

  // ------------------------------------------------------------------ llama_memory_*, on both sides

  /// llama_memory_seq_rm: forgets the positions [first, last) of a sequence (negative: from the beginning, to the end; id < 0: of all).
  /// False, with nothing changed, where the policy cannot forget these: clear the sequence and decode it again.
  bool remove(llama_context* context, llama_seq_id id, llama_pos first, llama_pos last) {
    return change([&] {
      std::map<llama_seq_id, Sequence> left;
      for (const auto& [number, sequence] : sequences_) {
        if (id < 0 || number == id) { left.emplace(number, sequence.fork()).first->second.remove(first, last); }
      }
      require(options_.functions.seq_rm(llama_get_memory(context), id, first, last), ErrorCode::option,
              "llama_cpp: remove: llama.cpp's memory cannot forget a part of sequence ", id);
      for (auto& [number, sequence] : left) { sequences_[number] = std::move(sequence); }
    });
  }
  /// Whether shift can move rows: llama.cpp's memory (not with M-RoPE, nor where layers with a sliding window have fewer cells than others:
  /// see llama_context_params::swa_full) and all policies can.
  [[nodiscard]] bool can_shift(const llama_context* context) const {
    return options_.functions.can_shift(llama_get_memory(context)) && attention_.can_shift();
  }
  /// llama_memory_seq_add: moves the positions [first, last) of a sequence (negative: from the beginning, to the end) by `delta`, as programs
  /// do that make room in a full context: remove(context, id, 4, 100), then shift(context, id, 100, -1, -96). Keys stay as they are, so moving
  /// costs no precision, however often; positions that would be negative are forgotten. False, with nothing changed, where the sequence's
  /// prompt is open, a row would pass another, can_shift says no, or other sequences share the cells: in a unified memory they would move too.
  bool shift(llama_context* context, llama_seq_id id, llama_pos first, llama_pos last, llama_pos delta) {
    return change([&] {
      llama_memory_t memory = llama_get_memory(context);
      require(id >= 0 && id < static_cast<llama_seq_id>(llama_n_seq_max(context)), ErrorCode::input, "llama_cpp: shift: sequence is ", id,
              ", must be less than ", llama_n_seq_max(context));
      require(options_.functions.can_shift(memory), ErrorCode::option,
              "llama_cpp: shift: llama.cpp's memory of this model cannot be shifted");
      const auto found = sequences_.find(id);
      if (found == sequences_.end()) { return; }
      check_shared(id, found->second, static_cast<Position>(std::max(0, first)));
      Sequence moved = found->second.fork();
      moved.shift(first, last, delta);
      options_.functions.seq_add(memory, id, first, last, delta);
      found->second = std::move(moved);
    });
  }
  /// llama_memory_seq_cp of the positions before `last` (negative: all): both share their rows until one of them writes.
  void copy(llama_context* context, llama_seq_id from, llama_seq_id to, llama_pos last = -1) {
    if (from == to) { return; }
    Sequence copied = sequences_[from].fork();
    if (last >= 0) { copied.truncate(static_cast<Position>(last)); }
    if (unified_) {
      Sequence& original = sequences_[from];
      if (original.family == 0) { original.family = ++families_; }
      copied.family = original.family, copied.shared = copied.next;
      original.shared = std::max(original.shared, copied.shared);
    }
    options_.functions.seq_rm(llama_get_memory(context), to, -1, -1);
    options_.functions.seq_cp(llama_get_memory(context), from, to, -1, last);
    sequences_[to] = std::move(copied);
  }
  /// All other sequences go. (llama_memory_seq_keep leaves them where each sequence has a stream of cells of its own.)
  void keep(llama_context* context, llama_seq_id id) {
    for (const auto& [other, sequence] : sequences_) {
      if (other != id) { options_.functions.seq_rm(llama_get_memory(context), other, -1, -1); }
    }
    std::erase_if(sequences_, [id](const auto& sequence) { return sequence.first != id; });
  }
  /// llama_memory_clear: all sequences go.
  void clear(llama_context* context) {
    sequences_.clear();
    options_.functions.clear(llama_get_memory(context), false);  // true would write zeros into cells that have no memory
  }

  // ------------------------------------------------------------------ state of this side

  /// Writes what a sequence holds to `sink`; llama.cpp's own part is llama_state_seq_get_data's. `checksum`: see kvcompress/persistence.hpp.
  void save(llama_seq_id id, const ByteSink& sink, Checksum checksum) const {
    const auto found = sequences_.find(id);
    require(found != sequences_.end(), ErrorCode::position, "llama_cpp: save: sequence ", id, " has no tokens");
    found->second.save(sink, checksum);
  }
  /// Replaces what a sequence holds; the policy must be the one that it was saved with.
  void load(llama_seq_id id, const ByteSource& source, Checksum checksum) { sequences_[id] = attention_.load(source, checksum); }

  // ------------------------------------------------------------------ reports

  /// Bytes that all sequences hold, by purpose.
  [[nodiscard]] MemoryReport memory() const noexcept {
    MemoryReport all;
    for (const auto& [id, sequence] : sequences_) { sequence.account(all); }
    return all;
  }
  [[nodiscard]] const std::map<llama_seq_id, Sequence>& sequences() const noexcept { return sequences_; }
  /// How long attention has taken so far, storing rows included, as a clock on the wall tells it.
  [[nodiscard]] double seconds() const noexcept { return seconds_; }

 private:
  /// Does something to the sequences on both sides; false, and error() says why, if it raises an Error, which it does before it changes any.
  bool change(auto&& act) {
    error_.clear();
    try {
      act();
      return true;
    } catch (const std::exception& error) {
      error_ = error.what();
      return false;
    }
  }
  void check_shared(llama_seq_id id, const Sequence& sequence, Position first) const {
    for (const auto& [other, held] : sequences_) {
      if (other == id || held.family == 0 || held.family != sequence.family) { continue; }
      const Position common = std::min(held.shared, sequence.shared);
      require(first >= common, ErrorCode::option, "llama_cpp: shift: first is ", first, ", must be at least ", common, ": sequence ", other,
              " shares the cells before it with sequence ", id, " and would move too");
    }
  }
  /// Notices what happened to the sequences since the last batch, and which tokens this one has.
  void start(llama_context* context, const llama_batch& batch) {
    llama_memory_t memory = llama_get_memory(context);
    attention_.start(llama_n_ctx_seq(context));
    batch_ = Batch(batch, [&](llama_seq_id id) { return static_cast<Position>(llama_memory_seq_pos_max(memory, id) + 1); });
    require(!hybrid_ || batch_.positions().size() <= 1, ErrorCode::input, "llama_cpp: the batch has tokens of ", batch_.positions().size(),
            " sequences, must be one: the model has recurrent layers, for which llama.cpp orders tokens otherwise");
    for (const auto& [id, positions] : batch_.positions()) {
      Sequence& sequence = sequences_[id];
      const llama_pos newest = llama_memory_seq_pos_max(memory, id);
      if (newest < 0) { sequence = {}; }  // cleared, or never filled
      require(newest < 0 || static_cast<Position>(newest) + 1 == std::min(sequence.next, positions.front()), ErrorCode::position,
              "llama_cpp: sequence ", id, " ends at position ", newest, " in llama.cpp's memory and at ",
              static_cast<long long>(sequence.next) - 1, " here, the batch begins at ", positions.front(),
              ": shift, copy and load it by the verbs of this cache");
      sequence.truncate(positions.front());
      if (options_.phases == Phases::found) { positions.size() > 1 ? sequence.begin_prompt() : sequence.end_prompt(); }
      if (options_.ring && newest > static_cast<llama_pos>(window_)) {
        options_.functions.seq_rm(memory, id, 0, newest - static_cast<llama_pos>(window_));
      }
    }
    first_layer_ = -1;
  }

  /// llama.cpp asks about each node of a graph before any of them runs. None is waited for: the graph stays in one piece.
  bool visit(ggml_tensor* node, bool ask) noexcept {
    try {
      if (!ask) { return true; }
      if (node->op == GGML_OP_SET_ROWS) {
        if (const CacheTensor cache = cache_tensor(node->src[2]); cache.layer >= 0) {
          if (!cache.values && (first_layer_ < 0 || cache.layer == first_layer_)) {
            first_layer_ = cache.layer;
            tokens_ = batch_.next_ubatch(*node, unified_);
          }
          attention_.store(cache, node);
          change(node);
          node->op = GGML_OP_NONE;  // the backend passes over it
        }
      } else if (node->op == GGML_OP_ROPE && cache_tensor(node).layer >= 0) {
        node->op = GGML_OP_NONE;  // a shift of llama.cpp's own keys, which are not there; such a graph runs once and is gone when it has
      } else if (node->op == GGML_OP_FLASH_ATTN_EXT && cache_tensor(node->src[1]).layer >= 0) {
        change(node);
        our_node_.write_to(node);
      }
    } catch (const std::exception& error) {
      if (error_.empty()) { error_ = error.what(); }  // the abort callback ends this call of llama_decode
    }
    return false;
  }
  /// The attention node of a layer, on each of the `threads` threads of the graph.
  static void compute(ggml_tensor* node, int thread, int threads, void* self) {
    auto& cache = *static_cast<Cache*>(self);
    cache.crew_.meet(static_cast<std::size_t>(thread), static_cast<std::size_t>(threads), [&](const AnyExecutor& executor) {
      cache.put_back(node);  // all threads are here, so nobody looks at it and those before it any more
      if (!cache.error_.empty()) { return; }
      const auto start = std::chrono::steady_clock::now();
      try {
        cache.attention_.attend(AttentionNode(node), cache.tokens_, cache.sequences_, static_cast<float*>(node->data), executor,
                                static_cast<std::size_t>(threads));
      } catch (const std::exception& error) { cache.error_ = error.what(); }
      cache.seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    });
  }
  [[nodiscard]] bool aborts() const noexcept {
    return !error_.empty() || (programs_abort_.first != nullptr && programs_abort_.first(programs_abort_.second));
  }
  void change(ggml_tensor* node) { changed_.emplace_back(node, NodeWork(*node)); }
  /// Graphs are used again, so nodes get back what they did: those up to `last`, or all.
  void put_back(const ggml_tensor* last = nullptr) noexcept {
    std::size_t count = 0;
    while (count < changed_.size()) {
      const auto& [node, work] = changed_[count++];
      work.write_to(node);
      if (node == last) { break; }
    }
    changed_.erase(changed_.begin(), changed_.begin() + static_cast<std::ptrdiff_t>(count));
  }

  Options options_;
  Attention attention_;
  NodeWork our_node_;
  Crew crew_;
  bool hybrid_ = false;
  bool unified_ = true;
  std::size_t window_ = 0;  // llama.cpp's n_swa
  std::pair<ggml_abort_callback, void*> programs_abort_{};
  std::map<llama_seq_id, Sequence> sequences_;
  std::size_t families_ = 0;  // of sequences that share cells
  Batch batch_;
  std::map<llama_seq_id, Batch::Part> tokens_;             // of the ubatch
  int first_layer_ = -1;                                   // whose keys begin an ubatch
  std::deque<std::pair<ggml_tensor*, NodeWork>> changed_;  // in the order of the graph
  std::string error_;
  double seconds_ = 0.0;
};

}  // namespace kvcompress::llama_cpp
