// include/kvcompress/adapters/llama_cpp/attention.hpp - does what llama.cpp's nodes would have done: stores rows and attends over them.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "kvcompress/adapters/llama_cpp/batch.hpp"
#include "kvcompress/adapters/llama_cpp/held.hpp"
#include "kvcompress/adapters/llama_cpp/nodes.hpp"
#include "kvcompress/adapters/llama_cpp/pages.hpp"
#include "kvcompress/adapters/llama_cpp/policies.hpp"
#include "kvcompress/adapters/llama_cpp/sequence.hpp"

namespace kvcompress::inline KVCOMPRESS_ABI::llama_cpp {

class Attention {
 public:
  Attention(const Registry& registry, std::string_view policy, const Memory& memory)
      : registry_(registry), policies_(policy), memory_(memory) {}
  /// `window`: llama.cpp's n_swa. With `ring`, llama.cpp's cells do not tell how far a layer looks back.
  void configure(std::size_t layers, std::size_t window, bool ring) {
    layers_ = std::vector<Layer>(layers);
    window_ = window;
    ring_ = ring;
  }
  /// Before a batch; `cells`: those of a layer without a window.
  void start(std::size_t cells) noexcept { cells_ = cells; }
  [[nodiscard]] bool can_shift() const { return policies_.can_shift(registry_, layers_.size()); }

  /// A node that would have stored a layer's new keys or values; they are read when the layer attends.
  void store(CacheTensor which, const ggml_tensor* node) {
    Layer& layer = layer_at(which.layer);
    (which.values ? layer.new_values : layer.new_keys) = node;
    layer.taken = false;
  }
  /// Appends the layer's new rows to the sequences of its tokens and writes the ubatch's attention to `out`, (tokens, query heads, width).
  /// `executor` spreads it over `workers` threads.
  void attend(const AttentionNode& node, const std::map<llama_seq_id, Batch::Part>& tokens, std::map<llama_seq_id, Sequence>& sequences,
              float* out, const AnyExecutor& executor, std::size_t workers) {
    Layer& layer = layer_at(node.layer());
    require(root(node.keys) != root(node.values), ErrorCode::option, "llama_cpp: values are part of the keys (MLA)");
    require(layer.new_keys != nullptr && layer.new_values != nullptr, ErrorCode::phase, "llama_cpp: layer ", node.layer(),
            " attends before its keys were stored");
    if (!layer.taken) {  // else its keys may be gone: it is a layer that reads another's rows
      layer.rotary = rotary_embedding(root(layer.new_keys->src[0]));
      require(layer.rotary.known, ErrorCode::option, "llama_cpp: keys are rotated by several positions (M-RoPE)");
    }
    const std::size_t width = node.query_heads() * node.value_width();
    result_.resize(node.tokens() * width);
    for (const auto& [id, part] : tokens) {
      require(!sees_later(node, part, layer), ErrorCode::option, "llama_cpp: attention is not causal");
      Sequence& sequence = sequences[id];
      if (sequence.caches.empty()) { sequence.first = part.positions.front(); }
      const Held held = with_ubatch(sequence, part);
      const Kind kind = kind_of(node, layer);
      AnyCache& cache = cache_for(sequence, kind);
      if (!layer.taken) { append(node, layer, part, tokens.size() == 1, cache); }
      attend(node, part, tokens.size() == 1, held, layer, kind, cache, executor, workers);
    }
    layer.taken = true;
    std::memcpy(out, result_.data(), result_.size() * sizeof(float));  // last: this memory may be that of the rows
    if (!ring_) { release(root(node.keys)), release(root(node.values)); }
  }

  [[nodiscard]] Sequence load(const ByteSource& source, Checksum checksum) {
    return Sequence::load(source, checksum, [this](const Kind& kind, std::size_t layers) {
      require(layers == layers_.size(), ErrorCode::format, "llama_cpp: load: the file's model has ", layers, " layers, this one ",
              layers_.size());
      return registry_.make(kind.policy, kind.shape(layers), memory_);
    });
  }

 private:
  struct Layer {
    const ggml_tensor* new_keys = nullptr;  // the nodes that would have stored them
    const ggml_tensor* new_values = nullptr;
    bool taken = false;  // the rows are in our caches
    RotaryEmbedding rotary;
    bool sliding = false;  // has a window
  };

  [[nodiscard]] Layer& layer_at(int number) {
    require(number >= 0 && static_cast<std::size_t>(number) < layers_.size(), ErrorCode::shape, "llama_cpp: the graph's layer is ", number,
            ", must be less than ", layers_.size());
    return layers_[static_cast<std::size_t>(number)];
  }
  /// Whether an ubatch's first token of a sequence sees its last one.
  [[nodiscard]] static bool sees_later(const AttentionNode& node, const Batch::Part& part, const Layer& layer) noexcept {
    if (part.places.size() < 2 || layer.taken) { return false; }
    const auto* cells = static_cast<const std::int64_t*>(layer.new_keys->src[1]->data);
    return node.sees(part.places.front(), cells[part.places.back()]);
  }
  /// The layer's kind for one model. A windowed layer is known by its fewer cells, so it keeps no row that its window has passed.
  [[nodiscard]] Kind kind_of(const AttentionNode& node, Layer& layer) const {
    const auto number = static_cast<std::size_t>(node.layer());
    const bool forgets = !ring_ && window_ > 0 && static_cast<std::size_t>(node.cells()) < cells_;
    layer.sliding = layer.sliding || forgets;
    return {node.query_heads(), node.kv_heads(),
            node.key_width(),   node.value_width(),
            layer.rotary,       forgets ? LayerPolicies::windowed(registry_, policies_.of(number), window_) : policies_.of(number)};
  }
  [[nodiscard]] AnyCache& cache_for(Sequence& sequence, const Kind& kind) const {
    const auto known = sequence.caches.find(kind);
    if (known != sequence.caches.end()) { return known->second; }
    return sequence.caches.emplace(kind, registry_.make(kind.policy, kind.shape(layers_.size()), memory_)).first->second;
  }

  /// The rows of a sequence's tokens: the tensor's own, or gathered where an ubatch has several sequences.
  [[nodiscard]] static Rows rows_of_part(const Rows& all, const Batch::Part& part, bool alone, std::vector<float>& buffer) {
    if (alone) { return all; }
    buffer.resize(part.places.size() * all.heads() * all.dim());
    float* to = buffer.data();
    for (const std::size_t place : part.places) {
      for (std::size_t head = 0; head < all.heads(); ++head, to += all.dim()) { all.load(place, head, to); }
    }
    return Rows::tokens_first(static_cast<const float*>(buffer.data()), part.places.size(), all.heads(), all.dim());
  }
  void append(const AttentionNode& node, const Layer& layer, const Batch::Part& part, bool alone, AnyCache& cache) {
    const auto rows = [&](const ggml_tensor* stored, std::size_t dim, std::vector<float>& buffer) {
      const ggml_tensor* from = stored->src[0];
      return rows_of_part(rows_of(from, node.tokens(), node.kv_heads(), dim, from->nb[1], dim * sizeof(float)), part, alone, buffer);
    };
    const Rows keys = rows(layer.new_keys, node.key_width(), keys_);
    const Rows values = rows(layer.new_values, node.value_width(), values_);
    const auto number = static_cast<std::size_t>(node.layer());
    for (std::size_t begin = 0; begin < part.positions.size();) {  // runs of consecutive positions
      std::size_t end = begin + 1;
      while (end < part.positions.size() && part.positions[end] == part.positions[end - 1] + 1) { ++end; }
      cache.append(number, keys.slice(begin, end), values.slice(begin, end), part.positions[begin]);
      begin = end;
    }
  }
  void attend(const AttentionNode& node, const Batch::Part& part, bool alone, const Held& held, Layer& layer, const Kind& kind,
              AnyCache& cache, const AnyExecutor& executor, std::size_t workers) {
    const std::size_t heads = node.query_heads();
    const std::size_t width = node.value_width();
    const std::size_t tokens = part.places.size();
    outputs_.resize(alone ? 0 : tokens * heads * width);
    float* outputs = alone ? result_.data() : outputs_.data();
    AttendOptions options{.scale = node.scale, .soft_cap = node.soft_cap};
    if (node.sinks != nullptr) { options.sinks = {node.sinks, heads}; }
    const std::vector<float> slopes = node.alibi_slopes();
    options.alibi_slopes = slopes;
    look_back(node, part, held, layer, options);
    const Rows queries = rows_of_part(node.query_rows(), part, alone, queries_);
    const Output output = Output::tokens_first(outputs, tokens, heads, width);
    std::vector<Workspace>& workspaces = workspaces_[kind];
    while (workspaces.size() < workers) { workspaces.emplace_back(cache.shape()); }
    const auto number = static_cast<std::size_t>(node.layer());
    if (workers > 1) {
      cache.attend(number, queries, output, std::span(workspaces).first(workers), executor, options);
    } else {
      cache.attend(number, queries, output, workspaces.front(), options, {});
    }
    for (std::size_t t = 0; !alone && t < tokens; ++t) {
      std::copy_n(outputs + t * heads * width, heads * width, result_.data() + part.places[t] * heads * width);
    }
  }
  /// What the sequence holds with an ubatch's tokens, for look_back.
  [[nodiscard]] Held with_ubatch(const Sequence& sequence, const Batch::Part& part) const {
    if (window_ == 0) { return {}; }
    Held held = sequence.held;
    held.add(std::max(sequence.first, sequence.next), part.positions.back() + 1);
    return held;
  }
  /// How far the tokens look back, as their mask tells: all the way, a sliding window, or to the beginning of their chunk.
  void look_back(const AttentionNode& node, const Batch::Part& part, const Held& held, Layer& layer, AttendOptions& options) const {
    if (window_ == 0) { return; }
    const std::size_t visible = node.visible_cells(part.places.back());
    const Position end = part.positions.back() + 1;
    const std::size_t in_window = held.count_from(end - static_cast<Position>(std::min<std::size_t>(end, window_)));
    if (visible == in_window && in_window < held.count_from(0)) { layer.sliding = true; }  // a layer without a window sees more
    if (!layer.sliding) { return; }
    if (visible >= in_window) {
      options.window = window_;
      return;
    }
    options.start = held.newest(visible);
    const std::size_t later = part.positions.back() - part.positions.front();  // tokens that the first one does not see
    const Position first_start = held.newest(node.visible_cells(part.places.front()) + later);
    require(first_start == options.start, ErrorCode::option, "llama_cpp: the tokens of an ubatch look back to positions ", first_start,
            " and ", options.start, ", must be one: choose an n_ubatch that divides the window's chunks of ", window_);
  }
  /// Gives back the memory behind a tensor of llama.cpp's cache, to which nothing is written.
  void release(const ggml_tensor* cache) {
    if (released_.insert(cache->data).second) { give_back_pages(cache->data, ggml_nbytes(cache)); }
  }

  const Registry& registry_;
  LayerPolicies policies_;
  Memory memory_;
  std::size_t window_ = 0;
  bool ring_ = false;
  std::size_t cells_ = 0;
  std::vector<Layer> layers_;
  std::map<Kind, std::vector<Workspace>> workspaces_;
  std::set<const void*> released_;
  std::vector<float> keys_, values_, queries_;  // rows gathered for one sequence
  std::vector<float> outputs_;                  // of one sequence
  std::vector<float> result_;                   // of the ubatch
};

}  // namespace kvcompress::llama_cpp
